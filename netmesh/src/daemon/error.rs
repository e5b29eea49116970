//! What ends the daemon. Everything else it tells, and tries again.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use crate::reconcile;

/// Why the daemon cannot run.
#[derive(Debug, Error)]
pub enum Error {
    /// Signals.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
    /// The thread that watches over next hops.
    #[error("cannot watch over next hops")]
    Watcher(#[source] io::Error),
    /// The address metrics are to be served at.
    #[error("metrics cannot be served at {address}")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The node cannot be changed at all.
    #[error(transparent)]
    Reconcile(#[from] reconcile::Error),
}
