//! Where the objects come from.

use std::path::Path;

use crate::plan::state::State;
use crate::reconcile::Reconciler;

/// Objects that were read and found right.
#[derive(Debug)]
pub struct Loaded {
    /// The node's name.
    pub node: String,
    /// The state they ask for.
    pub desired: State,
    /// What brings the node there.
    pub reconciler: Reconciler,
}

/// Objects that cannot be used: each fault with its place and remedy, a line each. No line shows
/// what a file holds, which may be a secret in the wrong place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The faults.
    pub lines: Vec<String>,
}

/// Whatever reads the objects.
pub trait Objects {
    /// The folder to watch.
    fn folder(&self) -> &Path;

    /// Reads them as they are now.
    fn load(&mut self) -> impl Future<Output = Result<Loaded, Rejected>>;
}
