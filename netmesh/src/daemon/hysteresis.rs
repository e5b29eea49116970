//! When a next hop is taken out, and when it is believed again. Knows no clock: every function is
//! told the time.
//!
//! ```text
//!   untried ──answers──► good ──3 × silent, or gone──► out ──answers for the whole hold──► good
//!      └──────────3 × silent───────────────────────────►┘
//! ```
//! The hold doubles each time it fails soon after it was put back.

use std::time::{Duration, Instant};

use crate::dataplane::health::Sign;

/// Questions in a row that may stay unanswered, less one.
const MISSES: u32 = 3;
/// How long a next hop must answer before it is used again.
const FIRST: Duration = Duration::from_secs(2);
/// No hold is longer.
const LONGEST: Duration = Duration::from_secs(120);
/// One that has served so many times its hold is believed like a new one.
const SERVED: u32 = 10;

/// What there is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Take it out.
    Withdraw,
    /// Put it back.
    Restore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It never answered: groups do without it by themselves, as long as it has no address.
    Untried,
    /// In use since then.
    Good(Instant),
    /// Withdrawn; it answers since then.
    Out(Option<Instant>),
}

/// What is known of one next hop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Health {
    state: State,
    misses: u32,
    hold: Duration,
}

impl Health {
    /// One that is seen for the first time; it may have been withdrawn by another process.
    pub(super) const fn new(withdrawn: bool) -> Self {
        Self {
            state: if withdrawn {
                State::Out(None)
            } else {
                State::Untried
            },
            misses: 0,
            hold: Duration::ZERO,
        }
    }

    /// It is taken out.
    pub(super) const fn is_out(&self) -> bool {
        matches!(self.state, State::Out(_))
    }

    /// How long it must answer before it is used again.
    pub(super) fn hold(&self) -> Duration {
        self.hold.max(FIRST)
    }

    /// Takes in what was seen of it.
    pub(super) fn see(&mut self, sign: Sign, now: Instant) -> Option<Change> {
        self.misses = match sign {
            Sign::Silent => self.misses.saturating_add(1),
            Sign::Answers | Sign::Gone => 0,
            Sign::Unknown => self.misses,
        };
        let silent = self.misses >= MISSES;
        match self.state {
            State::Untried if sign == Sign::Answers => {
                self.state = State::Good(now);
                None
            }
            State::Untried if silent => Some(self.fail(None)),
            State::Untried => None,
            State::Good(since) if silent || sign == Sign::Gone => {
                Some(self.fail(Some(now.saturating_duration_since(since))))
            }
            State::Good(_) => None,
            State::Out(since) => match sign {
                Sign::Answers => {
                    let since = since.unwrap_or(now);
                    self.state = State::Out(Some(since));
                    if now.saturating_duration_since(since) < self.hold() {
                        return None;
                    }
                    self.state = State::Good(now);
                    Some(Change::Restore)
                }
                Sign::Unknown => None,
                Sign::Silent | Sign::Gone => {
                    self.state = State::Out(None);
                    None
                }
            },
        }
    }

    fn fail(&mut self, served: Option<Duration>) -> Change {
        let soon = served.is_some_and(|served| served < self.hold * SERVED);
        self.hold = if soon {
            (self.hold * 2).min(LONGEST)
        } else {
            FIRST
        };
        self.misses = 0;
        self.state = State::Out(None);
        Change::Withdraw
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Sign::{Answers, Gone, Silent, Unknown};

    const TICK: Duration = Duration::from_millis(200);

    /// Shows a sign so often; tells the changes and after how many they came.
    fn show(
        health: &mut Health,
        now: &mut Instant,
        sign: Sign,
        times: usize,
    ) -> Vec<(usize, Change)> {
        let mut changes = Vec::new();
        for n in 1..=times {
            *now += TICK;
            changes.extend(health.see(sign, *now).map(|change| (n, change)));
        }
        changes
    }

    #[test]
    fn one_that_is_gone_goes_at_once_and_one_that_is_silent_after_three() {
        let mut now = Instant::now();
        let mut health = Health::new(false);
        assert_eq!(show(&mut health, &mut now, Answers, 5), []);
        assert_eq!(
            show(&mut health, &mut now, Gone, 5),
            [(1, Change::Withdraw)]
        );
        assert!(health.is_out());
        let mut health = Health::new(false);
        assert_eq!(show(&mut health, &mut now, Answers, 1), []);
        assert_eq!(show(&mut health, &mut now, Silent, 2), []);
        assert_eq!(show(&mut health, &mut now, Unknown, 2), []);
        assert_eq!(show(&mut health, &mut now, Answers, 1), [], "in time");
        assert_eq!(
            show(&mut health, &mut now, Silent, 5),
            [(3, Change::Withdraw)]
        );
    }

    #[test]
    fn one_that_was_never_there_is_not_withdrawn_for_that() {
        let mut now = Instant::now();
        let mut health = Health::new(false);
        assert_eq!(show(&mut health, &mut now, Gone, 50), []);
        assert_eq!(
            show(&mut health, &mut now, Silent, 3),
            [(3, Change::Withdraw)]
        );
    }

    #[test]
    fn it_comes_back_after_answering_without_a_break() {
        let mut now = Instant::now();
        let mut health = Health::new(true);
        assert_eq!(show(&mut health, &mut now, Answers, 9), []);
        assert_eq!(show(&mut health, &mut now, Silent, 1), []);
        assert_eq!(
            show(&mut health, &mut now, Answers, 10),
            [],
            "from the start"
        );
        assert_eq!(
            show(&mut health, &mut now, Answers, 1),
            [(1, Change::Restore)]
        );
        assert!(!health.is_out());
    }

    #[test]
    fn one_that_flaps_waits_longer_and_longer_but_not_for_ever() {
        let mut now = Instant::now();
        let mut health = Health::new(false);
        let _ = show(&mut health, &mut now, Answers, 1);
        let mut waits = Vec::new();
        for _ in 0..9 {
            let _ = show(&mut health, &mut now, Gone, 1);
            let back = show(&mut health, &mut now, Answers, 10_000);
            waits.push(back[0].0 as u64 / 5);
            // It does not last.
            now -= TICK * (10_000 - back[0].0 as u32);
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 120, 120, 120]);
        // It has served for long.
        let _ = show(&mut health, &mut now, Answers, 10 * 120 * 5);
        let _ = show(&mut health, &mut now, Gone, 1);
        assert_eq!(health.hold(), FIRST);
    }
}
