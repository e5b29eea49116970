//! Steps that do not last: somebody else undoes what we do. Two programs that each put their own
//! right at once would keep a node busy for good, so we put it right more and more seldom.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff;

/// A step that was taken longer ago than this has lasted.
const MEMORY: Duration = Duration::from_secs(600);
/// So often may a step be taken again before it counts as undone: an operator tries things.
const FREE: u32 = 3;
/// More steps than this are not remembered.
const MOST: usize = 4096;

/// The steps taken lately.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    steps: BTreeMap<String, (u32, Instant)>,
}

/// The step that was taken most often.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Undone {
    /// The step.
    pub(super) step: String,
    /// How often it was taken within ten minutes of the time before.
    pub(super) times: u32,
    /// How long to leave it.
    pub(super) pause: Duration,
}

impl Repeats {
    /// Notes what a pass has done; tells what of it somebody undoes.
    pub(super) fn note(
        &mut self,
        steps: impl IntoIterator<Item = String>,
        now: Instant,
    ) -> Option<Undone> {
        self.steps.retain(|_, (_, last)| now - *last < MEMORY);
        let mut worst: Option<Undone> = None;
        for step in steps {
            let known = self.steps.get(&step).map_or(0, |(times, _)| *times);
            let times = known.saturating_add(1);
            if times > FREE && worst.as_ref().is_none_or(|worst| worst.times < times) {
                worst = Some(Undone {
                    step: step.clone(),
                    times,
                    pause: backoff::pause(times - FREE),
                });
            }
            if known > 0 || self.steps.len() < MOST {
                self.steps.insert(step, (times, now));
            }
        }
        worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_last_is_left_longer_and_longer() {
        let mut repeats = Repeats::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let undone = repeats.note(["address add a".to_owned()], now);
            pauses.push(undone.map_or(0, |undone| undone.pause.as_secs()));
            now += Duration::from_secs(1);
        }
        assert_eq!(pauses, [0, 0, 0, 1, 2, 4, 8]);
        // Something else is not held up for it.
        assert_eq!(repeats.note(["link add b".to_owned()], now), None);
        // What has lasted for ten minutes is new again.
        now += MEMORY;
        assert_eq!(repeats.note(["address add a".to_owned()], now), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut repeats = Repeats::default();
        let steps = (0..3 * MOST).map(|n| n.to_string());
        assert_eq!(repeats.note(steps, Instant::now()), None);
        assert_eq!(repeats.steps.len(), MOST);
    }
}
