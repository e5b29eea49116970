//! What can go wrong.

use std::io;

use thiserror::Error;

use crate::{dataplane, kernel, reconcile};

/// Why there is nothing to look at, or nothing to look at it with.
#[derive(Debug, Error)]
pub enum Error {
    /// The terminal does not do what it is asked to.
    #[error("the terminal cannot be used")]
    Terminal(#[from] io::Error),
    /// The kernel does not say what is there.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// A namespace has no identity.
    #[error(transparent)]
    Reconcile(#[from] reconcile::Error),
    /// A table cannot be read.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// Nothing is there that counts.
    #[error(
        "no data plane and no tunnel is here; attach a port: netmesh dataplane attach --port DEV, \
         or name the namespace of an exit: netmesh -n NAME"
    )]
    Nothing,
    /// The reader ended without a word.
    #[error("the counters are no longer read")]
    Reader,
}
