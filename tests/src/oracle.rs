//! The oracle: two routers alike in everything but the data plane, the kernel's own and ours. The
//! same frames go into both; whatever comes out of any port must be the same bytes.
//!
//! ```text
//!            wire                     wire
//!   k0 k1 k2 ─┐                         ┌─ o0 o1 o2
//!             │ p0 p1 p2 t0   p0 p1 p2 t0 │
//!           [ kernel ]          [ ours ]
//! ```
//!
//! What may differ is in [`normal`], each with its reason; there is nothing else.

pub mod crowd;
pub mod dice;
mod frames;
pub mod grammar;
pub mod normal;
pub mod routes;
mod shrink;
pub mod suite;
mod twins;
mod wire;

pub use suite::{Options, Summary, run};
pub use twins::{Mode, Twins};
