//! The data plane on the running kernel. Needs root; every test has a network namespace, a mount
//! namespace and a bpffs of its own.

mod attach;
mod bulk;
mod group;
mod growing;
mod instance;
mod lab;
mod lines;
mod neighbour;
mod older;
mod route;
mod sums;
mod traffic;
mod trees;
mod vlan;
