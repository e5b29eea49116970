//! netmesh: routing in WireGuard meshes with an eBPF data plane.
//!
//! ```text
//! objects ─► model ─► plan::desired ─┐
//!                                    ├─► plan::diff ─► [Step] ─► reconcile ─► kernel, wireguard, dataplane
//! kernel ──► observe ────────────────┘                                              │
//! cli ◄──────────────────────────── counters ◄────────── XDP / TC ◄─────────────────┘
//! ```

pub mod cli;
pub mod daemon;
pub mod dataplane;
pub mod demo;
pub mod doctor;
pub mod kernel;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod reconcile;
pub mod top;
pub mod wireguard;
