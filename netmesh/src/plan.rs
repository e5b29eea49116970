//! Objects and a node in, the state that node must have out; two states in, ordered steps out.
//! Pure: no kernel, no file, no clock.

pub mod buckets;
pub mod conflict;
pub mod desired;
pub mod diff;
pub mod digest;
pub mod facts;
pub mod foreign;
pub mod state;
pub mod step;
