//! The data plane: programs and maps for one namespace, pinned together under one folder.
//!
//! There is no process behind it. Whoever opens an [`Instance`] works on the pinned maps; a lock
//! on the folder serialises writers.

pub mod attach;
pub mod counters;
pub mod error;
pub mod fib;
pub mod instance;
mod kernel_layout;
mod load;
mod maps;
mod next_hop;
pub mod pin;

pub use error::Error;
pub use instance::Instance;
