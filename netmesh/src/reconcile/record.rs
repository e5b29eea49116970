//! What was applied last, and the change that waits to be confirmed.
//!
//! Everything on a node follows from its objects, so what a change is undone to are the objects as
//! they were: applied again, they make the state again. When `apply` runs, the files hold the new
//! ones already, and nothing in the kernel tells the old ones (a hidden peer, a comment, a file's
//! name), so the text of what was applied last is kept, and nothing else: no key, no state.
//!
//! It is kept below `/run/netmesh/<namespace cookie>/objects`, root's alone: one folder a network
//! namespace, as everything that concerns one boot of a node. A reboot loses it together with the
//! kernel's state. The deadline is one of `CLOCK_BOOTTIME`: setting the clock does not move it, and
//! a machine that sleeps does not stop it.
//!
//! Whoever changes any of this holds the [`Lock`](super::Lock).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Error, lock};

const APPLIED: &str = "applied.json";
const PENDING: &str = "pending.json";

/// The node's own file among the objects.
pub const NODE_FILE: &str = "node.toml";
/// The folder of the networks' files.
pub const NETWORKS: &str = "networks";

/// The text of every object file, by its name below the configuration folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot(pub BTreeMap<String, String>);

impl Snapshot {
    /// Adds the file of a network. Two files from different folders may have one name.
    pub fn add_network(&mut self, path: &Path, text: String) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut key = format!("{NETWORKS}/{name}");
        let mut number = 2;
        while self.0.contains_key(&key) {
            key = format!("{NETWORKS}/{number}-{name}");
            number += 1;
        }
        self.0.insert(key, text);
    }

    /// SHA-256 over names and texts, in hex.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for part in self.0.iter().flat_map(|(name, text)| [name, text]) {
            // With its length: no two sets of files run together into the same bytes.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// What was applied last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The objects; none when nothing was, or all of it was removed or undone.
    pub objects: Option<Snapshot>,
    /// Digests of objects that were undone: nothing but `netmesh apply` takes them again.
    pub refused: BTreeSet<String>,
}

/// A change that is undone unless it is confirmed in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Tells it from every other one of this boot.
    pub id: u64,
    /// When it is undone: time since boot, sleep included, in milliseconds.
    pub deadline_ms: u64,
    /// The configuration folder.
    pub folder: PathBuf,
    /// What the node is made again; without, nothing was applied before, and all is removed.
    pub before: Option<Snapshot>,
    /// The objects it was made by.
    pub after: Snapshot,
}

impl Pending {
    /// The time left; none when it is over.
    #[must_use]
    pub fn left(&self, now: Duration) -> Option<Duration> {
        let left = self.deadline().checked_sub(now)?;
        (!left.is_zero()).then_some(left)
    }

    /// For how long its time has been over.
    #[must_use]
    pub fn over(&self, now: Duration) -> Duration {
        now.saturating_sub(self.deadline())
    }

    const fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}

/// The time since boot, sleep included.
///
/// # Errors
/// Never on a kernel of this century.
pub fn now() -> Result<Duration, Error> {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .map_err(|errno| failed(Path::new("CLOCK_BOOTTIME"), errno.into()))
}

/// A file as it is kept: that of another boot is none, wherever `/run` may lie.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    boot: String,
    #[serde(flatten)]
    value: T,
}

/// The folder of this node's record.
#[derive(Clone, Debug)]
pub struct Record {
    folder: PathBuf,
    boot: String,
}

impl Record {
    /// That of the node this process lives in. Makes nothing.
    ///
    /// # Errors
    /// When the namespace or the boot cannot be told.
    pub fn open() -> Result<Self, Error> {
        let boot = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(boot).map_err(|source| failed(boot, source))?;
        Ok(Self {
            folder: lock::folder()?.join("objects"),
            boot: boot.trim().to_owned(),
        })
    }

    /// What was applied last. A file that cannot be understood is as good as none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn applied(&self) -> Result<Applied, Error> {
        match self.read(APPLIED) {
            Err(Error::Record { source, .. }) if source.kind() == io::ErrorKind::InvalidData => {
                Ok(Applied::default())
            }
            read => read.map(Option::unwrap_or_default),
        }
    }

    /// Notes what was applied.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_applied(&self, applied: &Applied) -> Result<(), Error> {
        self.write(APPLIED, applied)
    }

    /// What is applied could not be noted.
    ///
    /// # Errors
    /// When what was applied before cannot be removed.
    pub fn forget_applied(&self) -> Result<(), Error> {
        self.remove(APPLIED)
    }

    /// The change that waits to be confirmed, also when its time is over.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn pending(&self) -> Result<Option<Pending>, Error> {
        self.read(PENDING)
    }

    /// Notes a change that is to be confirmed, or its new deadline.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_pending(&self, pending: &Pending) -> Result<(), Error> {
        self.write(PENDING, pending)
    }

    /// Nothing waits any more.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn settle(&self) -> Result<(), Error> {
        self.remove(PENDING)
    }

    /// Everything of ours was removed from the node.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self) -> Result<(), Error> {
        self.remove(PENDING)?;
        self.remove(APPLIED)?;
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }

    /// Objects that were undone, or whose time to be confirmed is over: the daemon may have read
    /// them before.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn refuses(&self, objects: &Snapshot) -> Result<bool, Error> {
        Ok(self.overdue()?.is_some() || self.applied()?.refused.contains(&objects.digest()))
    }

    /// The change whose time is over and that is still there.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn overdue(&self) -> Result<Option<Pending>, Error> {
        let Some(pending) = self.pending()? else {
            return Ok(None);
        };
        Ok(pending.left(now()?).is_none().then_some(pending))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.folder.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&path, error)),
        };
        let kept: Kept<T> = serde_json::from_slice(&bytes)
            .map_err(|error| failed(&path, io::Error::new(io::ErrorKind::InvalidData, error)))?;
        Ok((kept.boot == self.boot).then_some(kept.value))
    }

    /// Aside and renamed into place: a reader finds the whole of it or what was there before.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.folder.join(name);
        let written = || {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.folder)?;
            let kept = Kept {
                boot: self.boot.clone(),
                value,
            };
            // Readable by its owner alone.
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(&serde_json::to_vec(&kept)?)?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        written().map_err(|source| failed(&path, source))
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, error)),
            _ => Ok(()),
        }
    }
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Record {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn snapshot(files: &[(&str, &str)]) -> Snapshot {
        let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        Snapshot(files.iter().map(own).collect())
    }

    fn pending() -> Pending {
        Pending {
            id: 7,
            deadline_ms: 10_000,
            folder: "/etc/netmesh".into(),
            before: None,
            after: snapshot(&[("node.toml", "node = \"a\"\n")]),
        }
    }

    #[test]
    fn time_is_over_at_the_deadline() {
        let second = Duration::from_secs;
        for (now, left, over) in [
            (second(4), Some(second(6)), second(0)),
            (second(10), None, second(0)),
            (second(13), None, second(3)),
        ] {
            assert_eq!(pending().left(now), left);
            assert_eq!(pending().over(now), over);
        }
    }

    #[test]
    fn every_name_and_text_changes_the_digest() {
        let sets = [
            snapshot(&[]),
            snapshot(&[("a", "bc")]),
            snapshot(&[("ab", "c")]),
            snapshot(&[("a", "b"), ("c", "")]),
            snapshot(&[("a", ""), ("b", "c")]),
        ];
        let digests: BTreeSet<String> = sets.iter().map(Snapshot::digest).collect();
        assert_eq!(digests.len(), sets.len());
    }

    #[test]
    fn files_of_one_name_are_both_kept() {
        let mut objects = Snapshot::default();
        for (path, text) in [
            ("x/net.toml", "1"),
            ("y/net.toml", "2"),
            ("z/net.toml", "3"),
        ] {
            objects.add_network(Path::new(path), text.to_owned());
        }
        let names: Vec<(&str, &str)> = objects
            .0
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("networks/2-net.toml", "2"),
                ("networks/3-net.toml", "3"),
                ("networks/net.toml", "1"),
            ]
        );
    }

    #[test]
    fn what_is_kept_is_read_again_by_root_and_this_boot_alone() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record {
            folder: folder.path().join("objects"),
            boot: "one".to_owned(),
        };
        assert_eq!(record.pending().unwrap(), None);
        assert_eq!(record.applied().unwrap(), Applied::default());
        record.set_pending(&pending()).unwrap();
        let applied = Applied {
            objects: Some(pending().after),
            refused: BTreeSet::from(["x".to_owned()]),
        };
        record.set_applied(&applied).unwrap();
        assert_eq!(record.pending().unwrap(), Some(pending()));
        assert_eq!(record.applied().unwrap(), applied);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&record.folder), 0o700);
        for name in [APPLIED, PENDING] {
            assert_eq!(mode(&record.folder.join(name)), 0o600);
        }
        let later = Record {
            boot: "two".to_owned(),
            ..record.clone()
        };
        assert_eq!(later.pending().unwrap(), None);
        assert_eq!(later.applied().unwrap(), Applied::default());
        // Half of it is nothing that was applied, and no reason to forget what waits.
        for name in [APPLIED, PENDING] {
            fs::write(record.folder.join(name), "{\"boot\":").unwrap();
        }
        assert_eq!(record.applied().unwrap(), Applied::default());
        assert!(record.pending().is_err());
        record.forget().unwrap();
        assert!(!record.folder.exists());
    }
}
