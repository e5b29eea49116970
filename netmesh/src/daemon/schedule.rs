//! When the next pass is due. Knows no clock: every function is told the time.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::jittered;
use super::wake::{NEIGHBOURS, NETWORK, OBJECTS, Reasons};

/// Changes come in bursts, and an editor writes in several steps: so long must it be quiet.
const QUIET: Duration = Duration::from_millis(200);
/// A burst that does not end is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Next hops follow their neighbours within the kernel; what is left to do can wait.
const NEIGHBOURS_WAIT: Duration = Duration::from_secs(2);
/// Of the time, looking may take one part in so many, whatever happens on the machine …
const SHARE: u32 = 5;
/// … but what happens is looked at within this.
const LONGEST: Duration = Duration::from_secs(5);

/// When to do what.
#[derive(Debug)]
pub(super) struct Schedule {
    reasons: Reasons,
    /// When the first and the last of the reasons came.
    since: Option<(Instant, Instant)>,
    /// Not before this, but for the operator.
    rest: Instant,
    /// All is looked at when nothing has happened for so long.
    period: Duration,
    routine: Instant,
}

impl Schedule {
    /// Everything is due at once.
    pub(super) fn new(period: Duration, now: Instant) -> Self {
        Self {
            reasons: OBJECTS | NETWORK,
            since: Some((now - QUIET, now - QUIET)),
            rest: now,
            period,
            routine: now + period,
        }
    }

    /// Something happened.
    pub(super) fn add(&mut self, reasons: Reasons, now: Instant) {
        if reasons & OBJECTS != 0 {
            // The operator does not wait for the end of a pause.
            self.rest = self.rest.min(now);
        }
        self.reasons |= reasons;
        let first = self.since.map_or(now, |(first, _)| first);
        self.since = Some((first, now));
    }

    /// The operator asked: no waiting for quiet either.
    pub(super) fn at_once(&mut self, now: Instant) {
        self.add(OBJECTS | NETWORK, now);
        self.since = Some((now - PATIENCE, now - PATIENCE));
    }

    /// When the next pass is due.
    pub(super) fn due(&self) -> Instant {
        let Some((first, last)) = self.since else {
            return self.routine.max(self.rest);
        };
        let settled = if self.reasons == NEIGHBOURS {
            first + NEIGHBOURS_WAIT
        } else {
            (last + QUIET).min(first + PATIENCE)
        };
        settled.max(self.rest).min(self.routine.max(self.rest))
    }

    /// What the pass that begins now has to do.
    pub(super) fn take(&mut self, now: Instant) -> Reasons {
        self.since = None;
        let reasons = std::mem::take(&mut self.reasons);
        if now >= self.routine {
            reasons | OBJECTS | NETWORK
        } else {
            reasons
        }
    }

    /// A pass has ended. `looked` is how long it took, if looking was all it did; `pause` how long
    /// to rest at least; `again` when there is something left to do after it.
    pub(super) fn done(&mut self, now: Instant, looked: Duration, pause: Duration, again: bool) {
        self.rest = now + pause.max((looked * (SHARE - 1)).min(LONGEST));
        self.routine = now + jittered(self.period);
        if again {
            self.add(NETWORK, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A schedule after its first pass, which took no time.
    fn idle() -> (Schedule, Instant) {
        let now = Instant::now();
        let mut schedule = Schedule::new(PERIOD, now);
        assert!(schedule.due() <= now);
        assert_eq!(schedule.take(now), OBJECTS | NETWORK);
        schedule.done(now, Duration::ZERO, Duration::ZERO, false);
        (schedule, now)
    }

    #[test]
    fn a_burst_is_waited_for_but_not_forever() {
        let (mut schedule, now) = idle();
        schedule.add(NETWORK, now);
        assert_eq!(schedule.due(), now + QUIET);
        for i in 1..20 {
            schedule.add(NETWORK, now + ms(100 * i));
        }
        assert_eq!(schedule.due(), now + PATIENCE);
        assert_eq!(schedule.take(now + PATIENCE), NETWORK);
    }

    #[test]
    fn without_events_all_is_looked_at_in_turn() {
        let (mut schedule, now) = idle();
        let due = schedule.due();
        assert!(due >= now + PERIOD.mul_f64(0.8) && due <= now + PERIOD.mul_f64(1.2));
        assert_eq!(schedule.take(due), OBJECTS | NETWORK);
    }

    #[test]
    fn a_pause_holds_for_the_kernel_and_not_for_the_operator() {
        let (mut schedule, now) = idle();
        schedule.done(now, Duration::ZERO, ms(30_000), true);
        schedule.add(NETWORK, now + ms(10));
        assert_eq!(schedule.due(), now + ms(30_000));
        schedule.add(OBJECTS, now + ms(20));
        assert_eq!(schedule.due(), now + ms(20) + QUIET);
        schedule.at_once(now + ms(30));
        assert!(schedule.due() <= now + ms(30));
    }

    #[test]
    fn looking_takes_a_fifth_of_the_time_at_most() {
        let (mut schedule, now) = idle();
        for (looked, rest) in [(500, ms(2_000)), (30_000, LONGEST)] {
            schedule.done(now, ms(looked), Duration::ZERO, false);
            schedule.add(NETWORK, now);
            assert_eq!(schedule.due(), now + rest);
            schedule.take(now + rest);
        }
    }

    #[test]
    fn neighbours_wait_unless_something_else_happens() {
        let (mut schedule, now) = idle();
        schedule.add(NEIGHBOURS, now);
        assert_eq!(schedule.due(), now + NEIGHBOURS_WAIT);
        schedule.add(NETWORK, now + ms(50));
        assert_eq!(schedule.due(), now + ms(50) + QUIET);
    }
}
