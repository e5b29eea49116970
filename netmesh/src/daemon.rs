//! `netmesh run`: keeps a node what its objects say, and says what it does about it.
//!
//! ```text
//!   files ──┐
//!   kernel ─┼─► Wake ─► Schedule ─► pass: load? ─► plan ─► execute ─► refresh
//!   signals ┘                         │ failed, or undone by somebody: later and later
//! ```
//! The daemon holds no state that matters: whatever it knows it has read, and what it has made
//! stays when it goes. Events say only that something changed; every pass reads the machine anew
//! and takes the difference, so events that are lost or doubled do no harm.

mod backoff;
mod error;
mod files;
mod follow;
mod health;
mod hysteresis;
mod objects;
mod pass;
mod repeat;
mod run;
mod schedule;
mod service;
mod tunnels;
mod wake;

pub use error::Error;
pub use objects::{Loaded, Objects, Rejected, Remarks};
pub use run::{Options, run};
