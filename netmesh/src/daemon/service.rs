//! What the service manager is told (sd_notify(3)); nothing when there is none.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager.
#[derive(Debug, Default)]
pub(super) struct Service {
    /// It was told that we are up.
    up: bool,
    /// It waits for the end of a reload.
    reloading: bool,
    status: String,
}

impl Service {
    /// How often it wants to hear that we live.
    pub(super) fn watchdog() -> Option<Duration> {
        // In time even when one word comes late.
        sd_notify::watchdog_enabled().map(|limit| limit / 3)
    }

    /// The main loop goes round.
    pub(super) fn alive() {
        tell(&[NotifyState::Watchdog]);
    }

    /// A pass has ended: we are up, and a reload is done.
    pub(super) fn passed(&mut self, status: &str) {
        // The words are ours and the objects', the protocol is by lines.
        let status: String = status
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if !self.up || self.reloading {
            tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
            self.up = true;
            self.reloading = false;
        } else if status != self.status {
            tell(&[NotifyState::Status(&status)]);
        }
        self.status = status;
    }

    /// A reload begins.
    pub(super) fn reloading(&mut self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            tell(&[NotifyState::Reloading, now]);
            self.reloading = true;
        }
    }

    /// We go.
    pub(super) fn stopping() {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        tracing::debug!("the service manager does not listen: {error}");
    }
}
