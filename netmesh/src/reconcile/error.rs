//! What can go wrong on the way from the objects to the machine.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::plan::conflict::Conflict;
use crate::plan::state::{LinkName, Namespace};
use crate::{dataplane, kernel, wireguard};

/// Why the machine is not what it should be.
#[derive(Debug, Error)]
pub enum Error {
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// WireGuard.
    #[error(transparent)]
    Wireguard(#[from] wireguard::Error),
    /// The data plane.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// A step that failed, and how far it got.
    #[error("step {number} of {total} failed: {step}")]
    Step {
        /// Number of the step, from 1.
        number: usize,
        /// How many there are.
        total: usize,
        /// The step.
        step: String,
        /// The cause.
        source: Box<Self>,
    },
    /// A link the objects rely on.
    #[error("no interface {name} on this node; node.toml names it")]
    NoInterface {
        /// Its name.
        name: LinkName,
    },
    /// What somebody else put on the machine is in the way.
    #[error("{}", listed(.0))]
    Conflicts(Vec<Conflict>),
    /// Changes are root's.
    #[error("only root can change links, routes and programs; use sudo")]
    NotRoot,
    /// One daemon a node.
    #[error("another `netmesh run` serves this node")]
    Served,
    /// The lock among writers.
    #[error("cannot take the lock {path}")]
    Lock {
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The record of what was applied.
    #[error(
        "cannot read or write {path}, where the objects that were applied are kept; where it cannot be understood, remove it: the node stays as it is, and a change that waits is no longer undone"
    )]
    Record {
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Objects that were not confirmed in time.
    #[error("these objects were not confirmed and are undone")]
    Unconfirmed,
    /// Another instance serves the namespace.
    #[error(
        "the data plane of {namespace} is held by instance {found}; take it off first: \
         netmesh dataplane detach"
    )]
    OtherInstance {
        /// Where.
        namespace: Namespace,
        /// The instance.
        found: String,
    },
}

fn listed(conflicts: &[Conflict]) -> String {
    let lines: Vec<String> = conflicts.iter().map(ToString::to_string).collect();
    format!("what is not ours is in the way:\n  {}", lines.join("\n  "))
}
