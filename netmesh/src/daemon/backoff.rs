//! How long to wait before trying again.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_secs(1);
/// No pause is longer, but for its jitter.
const LONGEST: Duration = Duration::from_secs(60);

/// The pause after so many failures in a row, without jitter.
pub(super) fn pause(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST
            .saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))
            .min(LONGEST),
    }
}

/// Up to a fifth more or less: many nodes that fail for one reason must not try again as one.
pub(super) fn jittered(pause: Duration) -> Duration {
    // The standard library seeds every hasher anew from the kernel's random numbers.
    let dice = RandomState::new().hash_one(()) % 401;
    pause.mul_f64(0.8 + dice as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let seconds: Vec<u64> = (0..9).map(|n| pause(n).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX), LONGEST);
    }

    #[test]
    fn jitter_spreads_within_a_fifth() {
        let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
        for _ in 0..1000 {
            let found = jittered(Duration::from_secs(10));
            least = least.min(found);
            most = most.max(found);
        }
        assert!(least >= Duration::from_secs(8) && most <= Duration::from_secs(12));
        assert!(
            most - least > Duration::from_secs(3),
            "{least:?} to {most:?}"
        );
    }
}
