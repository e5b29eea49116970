//! The kernel's networking: observed and changed through netlink, one object kind a file.
//! No decisions are made here.

mod address;
pub mod apply;
mod error;
pub mod ethtool;
pub mod follow;
mod link;
mod mirror;
pub mod names;
mod netdev;
pub mod netfilter;
mod netlink;
pub mod netns;
pub mod observe;
pub mod probe;
mod route;
pub mod snmp;
mod sysctl;

pub use error::Error;
pub use netlink::Kernel;
