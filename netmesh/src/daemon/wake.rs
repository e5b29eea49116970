//! What has happened since the daemon looked last: bounded, however much it is.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// What there is to do: a set of the constants here.
pub(super) type Reasons = u8;

/// Neighbours changed: bring next hops up to date.
pub(super) const NEIGHBOURS: Reasons = 1;
/// Links, addresses, routes, namespaces or tunnels changed: compare and mend.
pub(super) const NETWORK: Reasons = 2;
/// Objects changed: read them first.
pub(super) const OBJECTS: Reasons = 4;

/// Routes of others changed: mirror them.
pub(super) const ROUTES: Reasons = 8;
/// What needs no look at the whole node.
pub(super) const SMALL: Reasons = NEIGHBOURS | ROUTES;

/// The letter box of the main loop.
#[derive(Debug, Default)]
pub(super) struct Wake {
    reasons: AtomicU8,
    notify: Notify,
}

impl Wake {
    /// Something happened.
    pub(super) fn raise(&self, reasons: Reasons) {
        self.reasons.fetch_or(reasons, Ordering::AcqRel);
        self.notify.notify_one();
    }

    /// Waits for something to happen and takes it out.
    pub(super) async fn wait(&self) -> Reasons {
        loop {
            let reasons = self.reasons.swap(0, Ordering::AcqRel);
            if reasons != 0 {
                return reasons;
            }
            self.notify.notified().await;
        }
    }
}
