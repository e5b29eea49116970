//! WireGuard devices of both kinds, through wireguard-control: the kernel's, and userspace ones
//! by their control socket. Key files. The embedded userspace implementation.
//!
//! Nothing here moves links between namespaces; functions that touch a kernel device must run on
//! a thread inside its namespace.

pub mod device;
pub mod error;
pub mod key;
pub mod userspace;

pub use error::Error;
