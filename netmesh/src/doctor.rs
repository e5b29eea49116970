//! What on this machine is wrong or slow for us, each with its remedy.
//!
//! [`examine`] looks and changes nothing but a network namespace of its own; [`judge::judge`]
//! says what it means.

pub mod judge;
mod look;

use std::path::Path;

use crate::plan::state::State;

pub use look::examine;

/// What the files say of this node.
#[derive(Debug)]
pub struct Node<'a> {
    /// Where they are.
    pub folder: &'a Path,
    /// The objects, where there are any; or why they are rejected.
    pub objects: Option<Result<Objects, String>>,
}

/// What the objects of a node ask for, and what is there of it.
#[derive(Debug)]
pub struct Objects {
    /// Asked for.
    pub desired: State,
    /// There.
    pub observed: State,
}

/// Whether the kernel of this process' namespace forwards what is left to it, for both families.
#[must_use]
pub fn forwarding() -> Vec<judge::Finding> {
    judge::forwarding(&look::forwarding())
}
