//! The clock: a handshake carries the time (TAI64N), and a peer takes none that is older than the
//! last it took (WireGuard whitepaper, section 5.1).

use super::{Finding, Severity, ok};

/// What the kernel says of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Somebody keeps it right (`STA_UNSYNC` is not set); `None` when the kernel does not say.
    pub synchronised: Option<bool>,
    /// Seconds since 1970.
    pub now: u64,
    /// When the file of this program was written, in the same.
    pub written: Option<u64>,
}

/// A clock may be this much behind the one of the machine that built the program.
const SLACK: u64 = 86_400;

pub(super) fn judge(clock: &Clock, tunnels: bool) -> [Finding; 2] {
    [time(clock, tunnels), sync(clock, tunnels)]
}

fn time(clock: &Clock, tunnels: bool) -> Finding {
    let meaning = "a peer that has seen a later handshake takes none from this node until the \
                   clock has passed it";
    let check = "clock.time";
    let behind = clock.written.unwrap_or(0).saturating_sub(clock.now);
    if behind <= SLACK {
        return ok(check, "after this program was written", meaning);
    }
    let severity = if tunnels {
        Severity::Error
    } else {
        Severity::Warning
    };
    let found = format!("{} days before this program was written", behind / SLACK);
    ok(check, found, meaning).but(severity, "timedatectl set-ntp true")
}

fn sync(clock: &Clock, tunnels: bool) -> Finding {
    let meaning = "a clock that is put back stops the handshakes of every tunnel; one that is kept \
                   right never goes back far";
    let check = "clock.sync";
    match (clock.synchronised, tunnels) {
        (Some(true), _) => ok(check, "kept right", meaning),
        (None, _) => ok(check, "not told by the kernel", meaning)
            .but(Severity::Note, "timedatectl timesync-status"),
        (Some(false), true) => ok(check, "nobody keeps it right", meaning)
            .but(Severity::Warning, "timedatectl set-ntp true"),
        // Nothing here depends on it.
        (Some(false), false) => ok(check, "nobody keeps it right", meaning)
            .but(Severity::Note, "timedatectl set-ntp true"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_matters_as_much_as_there_are_tunnels() {
        use Severity::{Error, Note, Ok, Warning};
        const DAY: u64 = 86_400;
        for (synchronised, now, tunnels, expected) in [
            (Some(true), 100 * DAY, true, [Ok, Ok]),
            (Some(true), 99 * DAY, true, [Ok, Ok]),
            (Some(true), 0, true, [Error, Ok]),
            (Some(true), 0, false, [Warning, Ok]),
            (Some(false), 100 * DAY, true, [Ok, Warning]),
            (Some(false), 100 * DAY, false, [Ok, Note]),
            (None, 100 * DAY, true, [Ok, Note]),
        ] {
            let clock = Clock {
                synchronised,
                now,
                written: Some(100 * DAY),
            };
            let found = judge(&clock, tunnels);
            assert_eq!(found.map(|finding| finding.severity), expected, "{clock:?}");
        }
    }
}
