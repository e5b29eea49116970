//! What the demo may remove: only names that were free when it took them.
//!
//! Namespaces and tunnels have names for the whole machine, and a real network may well be called
//! `alice`. The names are written down before the first of them is made, so that a demo that was
//! killed can be swept, and nothing else ever is.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::kernel::netns;
use crate::plan::state::Namespace;
use crate::wireguard::userspace;

/// Where everything of the demo is that is a file.
pub(super) const FOLDER: &str = "/run/netmesh-demo";
const LOCK: &str = "/run/netmesh-demo.lock";

/// The names of one demo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    pub(super) namespaces: Vec<String>,
    pub(super) tunnels: Vec<String>,
}

/// One demo at a time: the next one would sweep the one that runs. The lock ends with its holder,
/// however that ends.
pub(super) fn lock() -> anyhow::Result<Flock<File>> {
    let file = File::create(LOCK).with_context(|| format!("cannot open {LOCK}"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => {
            bail!("another demo is running on this machine; end it, or wait for its end")
        }
        Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {LOCK}")),
    }
}

impl Claim {
    /// Writes the names down; nothing is taken when one of them is somebody else's.
    pub(super) fn take(self) -> anyhow::Result<Self> {
        let namespace = |name: &&String| netns::path(&Namespace::Named((*name).clone())).exists();
        let tunnel = |name: &&String| userspace::find(name).is_some();
        let mut taken: Vec<&str> = Vec::new();
        taken.extend(self.namespaces.iter().filter(namespace).map(String::as_str));
        taken.extend(self.tunnels.iter().filter(tunnel).map(String::as_str));
        ensure!(
            taken.is_empty(),
            "the demo needs these names, and something that is not the demo's has them: {}; run \
             it on a machine without them",
            taken.join(", ")
        );
        fs::create_dir_all(FOLDER).with_context(|| format!("cannot make {FOLDER}"))?;
        let path = record();
        fs::write(&path, serde_json::to_vec(&self)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(self)
    }

    /// The names that an earlier demo took and did not give back.
    pub(super) fn left() -> anyhow::Result<Option<Self>> {
        let path = record();
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // Cut short: that demo was killed before it made anything.
        Ok(serde_json::from_slice(&text).ok())
    }
}

fn record() -> PathBuf {
    PathBuf::from(FOLDER).join("claim.json")
}
