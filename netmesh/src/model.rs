//! The objects: what operators write, validated, with everything that follows from it.
//! Pure: text in, values or faults out.
#![forbid(unsafe_code)]

pub mod address;
pub mod check;
pub mod derive;
mod exit;
pub mod fault;
pub mod name;
pub mod network;
pub mod node;
mod reader;
pub mod schema;
mod tree;

pub use address::{Allocation, Index, Prefix};
pub use check::{check, idle};
pub use derive::Derived;
pub use fault::{Fault, Faults, Severity};
pub use name::Name;
pub use network::{Exit, Network, Resource, parse_network};
pub use node::{NodeConfig, Router, SegmentPort, Userspace, parse_node};
