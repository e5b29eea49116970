//! The data plane: programs and maps for one namespace, pinned together under one folder.
//!
//! There is no process behind it. Whoever opens a [`View`] reads the pinned maps, whoever opens an
//! [`Instance`] changes them; a lock on the folder serialises writers.

pub mod attach;
mod bulk;
mod clsact;
mod connected;
mod counter_id;
pub mod counters;
mod edit;
pub mod error;
pub mod explain;
pub mod fib;
pub mod fill;
mod group;
mod grow;
mod growing;
pub mod health;
pub mod instance;
mod kernel_layout;
mod lines;
mod load;
mod many;
mod maps;
mod martian;
mod migrate;
pub mod neighbour;
mod next_hop;
pub mod object;
mod older;
mod pieces;
pub mod pin;
mod places;
mod poke;
mod port;
pub mod probe;
pub mod programs;
mod reference;
mod route;
pub mod self_test;
mod stages;
pub mod sums;
mod sys;
#[cfg(test)]
mod tests;
pub mod trace;
mod trees;
mod trial;
mod upgrade;
mod vlan;
pub mod words;

pub use error::Error;
pub use instance::{Capacity, Instance, View};
pub use lines::{FirstTable, make_tables};
pub use many::Routes;
