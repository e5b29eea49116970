//! Where the objects come from.

use std::path::Path;

use crate::metrics::Names;
use crate::model::fault::hidden;
use crate::plan::state::State;
use crate::reconcile::{Pending, Reconciler, Record, Snapshot};

/// Objects that were read and found right.
#[derive(Debug)]
pub struct Loaded {
    /// The node's name.
    pub node: String,
    /// The state they ask for.
    pub desired: State,
    /// What brings the node there.
    pub reconciler: Reconciler,
    /// Names of prefixes and peers.
    pub names: Names,
    /// What the operator should look at.
    pub warnings: Remarks,
    /// The files they are from.
    pub snapshot: Snapshot,
}

/// What is to be said of objects, a line each with place and remedy. What may be a key is left out:
/// an operator may have put a private one in the wrong place, and logs are read by many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remarks(Vec<String>);

/// Objects that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected(pub Remarks);

impl Remarks {
    /// One remark a line.
    pub fn new(remarks: impl IntoIterator<Item: ToString>) -> Self {
        let lines = remarks
            .into_iter()
            .map(|remark| hidden(&remark.to_string()));
        Self(lines.collect())
    }

    /// The lines.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

/// Whatever reads the objects.
pub trait Objects {
    /// The folder to watch.
    fn folder(&self) -> &Path;

    /// Reads them as they are now.
    fn load(&mut self) -> impl Future<Output = Result<Loaded, Rejected>>;

    /// Undoes a change whose time to be confirmed is over, the files included; tells what it did.
    /// The caller holds the lock.
    fn undo(
        &mut self,
        record: &Record,
        pending: &Pending,
    ) -> impl Future<Output = Result<String, Rejected>>;
}
