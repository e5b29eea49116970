//! What can go wrong between us and the kernel.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::plan::state::Namespace;

/// Why the kernel did not do, or could not show, what it was asked for.
#[derive(Debug, Error)]
pub enum Error {
    /// A netlink request was refused.
    #[error("the kernel refused: {what}{}", remedy(.source))]
    Refused {
        /// The request, in words.
        what: String,
        /// The cause.
        source: rtnetlink::Error,
    },
    /// A dump kept changing under us.
    #[error("the kernel's {what} in {namespace} kept changing while they were read; try again")]
    Unstable {
        /// Which table.
        what: &'static str,
        /// Where.
        namespace: Namespace,
    },
    /// A namespace that is not there.
    #[error("no network namespace {namespace} at {path}; `ip netns` shows what there is")]
    NoNamespace {
        /// Which.
        namespace: Namespace,
        /// Its file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A namespace of that name belongs to somebody else.
    #[error(
        "network namespace {namespace} is there and not marked as this node's; rename the \
         network or resource, or remove it: ip netns del {namespace}"
    )]
    ForeignNamespace {
        /// Which.
        namespace: Namespace,
    },
    /// Entering or making a namespace.
    #[error("cannot {action} network namespace {namespace}{}", if *.source == nix::Error::EPERM { ": only root can" } else { "" })]
    Namespace {
        /// What was being done.
        action: &'static str,
        /// To which.
        namespace: Namespace,
        /// The cause.
        source: nix::Error,
    },
    /// A file.
    #[error("{action} {path}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A link that is not there.
    #[error("no link {name} in {namespace}; there are {known}")]
    NoLink {
        /// Asked for.
        name: String,
        /// Where.
        namespace: Namespace,
        /// What there is.
        known: String,
    },
    /// A link of that name belongs to somebody else.
    #[error(
        "link {name} in {namespace} is there and not ours; rename it or set another name in the object"
    )]
    ForeignLink {
        /// Which.
        name: String,
        /// Where.
        namespace: Namespace,
    },
    /// A step that is another room's.
    #[error("not a step for the kernel: {0}")]
    NotOurs(String),
    /// A thread that ended without an answer.
    #[error("a thread in {0} ended without an answer")]
    Thread(Namespace),
}

/// What the errno means to an operator.
fn remedy(error: &rtnetlink::Error) -> &'static str {
    let rtnetlink::Error::NetlinkError(message) = error else {
        return "";
    };
    match message.raw_code().unsigned_abs() as i32 {
        libc::EPERM | libc::EACCES => " (not permitted; run as root)",
        libc::EEXIST => " (it exists already)",
        libc::ENODEV => " (no such device)",
        libc::ENETUNREACH | libc::EHOSTUNREACH => {
            " (its next hop is not on-link: check the addresses of its device)"
        }
        libc::EOPNOTSUPP => " (this kernel lacks the feature; netmesh needs 6.1 or later)",
        _ => "",
    }
}
