//! The kernel's networking: observed and changed through netlink, one object kind a file.
//! No decisions are made here.

mod address;
pub mod apply;
pub mod clock;
mod error;
pub mod ethtool;
pub mod follow;
mod link;
mod mirror;
pub mod names;
pub mod netdev;
pub mod netfilter;
mod netlink;
pub mod netns;
pub mod observe;
pub mod probe;
mod route;
pub mod snmp;
pub mod sockets;
mod sysctl;
pub mod way;

pub use error::Error;
pub use netlink::Kernel;
