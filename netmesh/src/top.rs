//! `netmesh top`: what the data plane and the tunnels do now, on a terminal.
//!
//! ```text
//!   counters, WireGuard ─► sample ─► series (rates of two samples) ─► view (sort, filter, keys) ─► draw
//!                                                                         ▲                         │
//!   keys, signals ────────────────────────────────────────────────────────┴── run ◄─────────────────┘
//! ```
//! `series`, `view`, `table` and `figure` are pure. Reading happens on a thread of its own, once an
//! interval: a table of a million prefixes takes a while, and keys are answered meanwhile.

mod draw;
mod error;
mod figure;
mod filter;
mod run;
mod sample;
mod screen;
mod series;
mod table;
mod view;

pub use error::Error;
pub use run::{Options, run};
