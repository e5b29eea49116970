//! What a node does, for Prometheus: read from the tables when somebody asks, never accumulated
//! here.
//!
//! ```text
//!   daemon ─► Told ─┐
//!   tables, kernel ─┼─► Reading ─► encode ─► classic? ─► chunks ─► whoever asks
//!   WireGuard ──────┘
//! ```
//! The encoder and the format are the Prometheus project's own; connections are hyper's. How much
//! is read at once and sent at once has a bound, and so has the number of who asks.

mod body;
mod classic;
mod encode;
mod read;
mod select;
mod serve;
mod told;

pub use select::{NotASelection, Selection};
pub use serve::serve;
pub use told::{Names, NextHop, Report, Told};
