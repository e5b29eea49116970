//! The forwarding decision of netmesh and the types both sides of the kernel
//! border share.
//!
//! The crate promises: no allocation, no I/O, no panic, no knowledge of who
//! calls it. The same code runs in XDP, in TC, in unit tests and in fuzzers.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod checksum;
pub mod class;
pub mod decide;
pub mod flow;
pub mod group;
pub mod header;
pub mod intervals;
pub mod lines;
#[cfg(feature = "user")]
mod pod;
pub mod rewrite;
pub mod table;
pub mod trace;
pub mod verdict;
pub mod view;
pub mod vlan;
