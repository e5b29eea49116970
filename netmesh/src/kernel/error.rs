//! What can go wrong between us and the kernel.

use std::io;
use std::path::PathBuf;

use netlink_packet_core::NlasIterator;
use thiserror::Error;

use crate::plan::state::Namespace;

/// Why the kernel did not do, or could not show, what it was asked for.
#[derive(Debug, Error)]
pub enum Error {
    /// A netlink request was refused.
    #[error("the kernel refused: {what}{}{}", said(.source), remedy(.what, .source))]
    Refused {
        /// The request, in words.
        what: String,
        /// The cause.
        source: rtnetlink::Error,
    },
    /// A dump the kernel gave up.
    #[error("the kernel could not list the {what} in {namespace}")]
    Dump {
        /// Which table.
        what: &'static str,
        /// Where.
        namespace: Namespace,
        /// The cause.
        source: nix::Error,
    },
    /// A dump that ended before its end.
    #[error("the kernel's list of {what} in {namespace} was cut short; try again")]
    Cut {
        /// Which table.
        what: &'static str,
        /// Where.
        namespace: Namespace,
    },
    /// A dump kept changing under us.
    #[error("the kernel's {what} in {namespace} kept changing while they were read; try again")]
    Unstable {
        /// Which table.
        what: &'static str,
        /// Where.
        namespace: Namespace,
    },
    /// What the kernel tells of changes cannot be heard any more.
    #[error("cannot follow the changes in {namespace}")]
    Follow {
        /// Where.
        namespace: Namespace,
        /// The cause.
        source: io::Error,
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
    /// What was to be named.
    #[error("what is to be named {namespace} is no network namespace")]
    NotANamespace {
        /// The name.
        namespace: Namespace,
    },
    /// Whoever makes names for us did not.
    #[error(
        "{socket} did not {action} the name of network namespace {namespace}; under systemd: \
         systemctl status netmesh-names.socket"
    )]
    Names {
        /// What it was asked for.
        action: &'static str,
        /// Of which.
        namespace: Namespace,
        /// Where it was asked.
        socket: PathBuf,
        /// The cause.
        source: io::Error,
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

/// Length of `struct nlmsghdr`: all that comes back of our request (`NETLINK_CAP_ACK`).
const HEADER: usize = 16;
/// include/uapi/linux/netlink.h.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The kernel's own words (extended ACK), if it has any.
fn said(error: &rtnetlink::Error) -> String {
    let rtnetlink::Error::NetlinkError(message) = error else {
        return String::new();
    };
    let attributes = message.header.get(HEADER..).unwrap_or_default();
    NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| {
            let text = String::from_utf8_lossy(attribute.value());
            format!(": {}", text.trim_end_matches('\0'))
        })
        .unwrap_or_default()
}

/// What the errno means to an operator.
fn remedy(what: &str, error: &rtnetlink::Error) -> &'static str {
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
        libc::EOPNOTSUPP if what.ends_with(" type wireguard") => {
            " (this kernel has no WireGuard: modprobe wireguard; or let netmesh serve tunnels itself: \
             wireguard = \"embedded\" in node.toml)"
        }
        libc::EOPNOTSUPP => " (this kernel lacks the feature; netmesh needs 6.1 or later)",
        _ => "",
    }
}
