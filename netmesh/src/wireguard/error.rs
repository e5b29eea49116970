//! What can go wrong with WireGuard.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why WireGuard did not do what it was told. No variant ever carries a private key.
#[derive(Debug, Error)]
pub enum Error {
    /// A key file that exists is never overwritten.
    #[error("{path} exists; a key is never overwritten: remove the file to make a new one")]
    KeyExists {
        /// The file.
        path: PathBuf,
    },
    /// A resource without a key on this node.
    #[error("no private key at {path}; make one: netmesh key gen {network}/{resource}")]
    NoKey {
        /// The file.
        path: PathBuf,
        /// The network.
        network: String,
        /// The resource.
        resource: String,
    },
    /// A key file others can read is no secret.
    #[error(
        "{path} may be read by others (mode {mode:o}, owner {owner}); chmod 600 {path} && chown root {path}"
    )]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
    /// A key file that holds no key.
    #[error("{path} does not hold a WireGuard private key (44 characters of base64)")]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// The key on this node is not the one the object names.
    #[error(
        "the private key of {network}/{resource} belongs to {found}, the object says {expected}; \
         put the output of `netmesh key pub {network}/{resource}` into the object"
    )]
    OtherKey {
        /// The network.
        network: String,
        /// The resource.
        resource: String,
        /// Public half of the key in the file.
        found: String,
        /// Public key in the object.
        expected: String,
    },
    /// A file operation.
    #[error("{action} {path}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A userspace implementation that did not come up.
    #[error("{program} did not bring up {name}: {said}")]
    NotStarted {
        /// The program.
        program: String,
        /// The interface.
        name: String,
        /// What it said, or what was waited for.
        said: String,
    },
    /// A name WireGuard cannot use.
    #[error("{name} is no interface name: at most 15 bytes")]
    Name {
        /// The name.
        name: String,
    },
    /// A device that is not there.
    #[error("no WireGuard device {name}: neither a control socket nor the kernel answers for it")]
    NoDevice {
        /// The name.
        name: String,
    },
    /// A change that was refused.
    #[error("WireGuard device {name} refused {what}{hint}")]
    Refused {
        /// The device.
        name: String,
        /// What was asked.
        what: &'static str,
        /// The likely reason.
        hint: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A public key that is none.
    #[error("`{text}` is no WireGuard public key")]
    PublicKey {
        /// As given.
        text: String,
    },
}

impl Error {
    /// Somebody holds the UDP port.
    #[must_use]
    pub fn is_address_in_use(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.raw_os_error() == Some(libc::EADDRINUSE))
    }
}
