//! The pin folder: `/sys/fs/bpf/netmesh/v<layout>/<instance>@<namespace>/{maps,progs,links}`.
//! While a writer changes tables it also holds `dirty`.
//!
//! The namespace is named by its cookie (`SO_NETNS_COOKIE`), which no other namespace ever gets
//! until the next boot: an instance can never be taken for that of a namespace that came later.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use netmesh_common::table::LAYOUT;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Error, clsact, older, sys};

pub(super) const BPFFS: &str = "/sys/fs/bpf";

/// What names a network namespace for the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamespaceId {
    /// `SO_NETNS_COOKIE`.
    pub cookie: u64,
    /// Inode number on nsfs.
    pub inode: u32,
}

/// One instance's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Name of the instance.
    pub name: String,
    /// `SO_NETNS_COOKIE` of the namespace it serves.
    pub cookie: u64,
    /// The folder.
    pub path: PathBuf,
}

impl Folder {
    /// Where the instance of this name and namespace is, or would be.
    ///
    /// # Errors
    /// When the name cannot be that of an instance.
    pub fn of(name: &str, namespace: NamespaceId) -> Result<Self, Error> {
        let bad = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '/' | '@' | DOT);
        if name.is_empty() || name.len() > 128 || name.contains(bad) {
            return Err(Error::Name {
                name: name.to_owned(),
            });
        }
        let file = name.replace('.', &DOT.to_string());
        Ok(Self {
            name: name.to_owned(),
            cookie: namespace.cookie,
            path: root().join(format!("{file}@{:x}", namespace.cookie)),
        })
    }

    /// The instance that serves a namespace.
    ///
    /// # Errors
    /// When the folder of instances cannot be read.
    pub fn find(namespace: NamespaceId) -> Result<Option<Self>, Error> {
        let serves = |folder: &Self| folder.cookie == namespace.cookie;
        Ok(Self::list()?.into_iter().find(serves))
    }

    /// Every instance of this layout, whether or not its namespace still exists.
    ///
    /// # Errors
    /// When the folder of instances cannot be read.
    pub fn list() -> Result<Vec<Self>, Error> {
        if let Some(hidden) = hidden() {
            return Err(Error::PrivateMounts(hidden));
        }
        Self::list_in(&root())
    }

    fn list_in(root: &Path) -> Result<Vec<Self>, Error> {
        Ok(entries(root)?
            .into_iter()
            .filter_map(|file| {
                let (name, cookie) = file.rsplit_once('@')?;
                let whole = !name.starts_with(NEW) && !name.starts_with(OLD);
                whole.then(|| {
                    Some(Self {
                        name: name.replace(DOT, "."),
                        cookie: u64::from_str_radix(cookie, 16).ok()?,
                        path: root.join(&file),
                    })
                })?
            })
            .collect())
    }

    /// Every instance of another layout, with its layout.
    ///
    /// # Errors
    /// When the folders of instances cannot be read.
    pub fn list_others() -> Result<Vec<(u32, Self)>, Error> {
        let all = Path::new(BPFFS).join("netmesh");
        let mut found = Vec::new();
        for name in entries(&all)? {
            let layout = name.strip_prefix('v').and_then(|text| text.parse().ok());
            if let Some(layout) = layout.filter(|layout| *layout != LAYOUT) {
                let folders = Self::list_in(&all.join(name))?;
                found.extend(folders.into_iter().map(|folder| (layout, folder)));
            }
        }
        Ok(found)
    }

    /// The instance of another layout that serves a namespace, and its layout.
    ///
    /// # Errors
    /// When the folders of instances cannot be read.
    pub fn find_other(namespace: NamespaceId) -> Result<Option<(u32, Self)>, Error> {
        let serves = |(_, folder): &(u32, Self)| folder.cookie == namespace.cookie;
        Ok(Self::list_others()?.into_iter().find(serves))
    }

    /// The layout of the tables that serve a namespace, if there are any: the older one while they
    /// are on their way to ours.
    ///
    /// # Errors
    /// When the folders of instances cannot be read.
    pub fn layout_of(namespace: NamespaceId) -> Result<Option<u32>, Error> {
        if let Some((layout, _)) = Self::find_other(namespace)? {
            return Ok(Some(layout));
        }
        Ok(Self::find(namespace)?.map(|_| LAYOUT))
    }

    /// Refuses a namespace that an instance of another layout serves, or that is on its way from one
    /// to ours.
    pub(super) fn refuse_other(namespace: NamespaceId) -> Result<(), Error> {
        match Self::find_other(namespace)? {
            Some((layout, folder)) if older::is_known(layout) => Err(Error::OlderLayout {
                layout,
                path: folder.path,
            }),
            Some((layout, folder)) => Err(Error::OtherLayout {
                layout,
                path: folder.path,
            }),
            None => Ok(()),
        }
    }

    /// Removes an instance of another layout, whatever its maps hold: its programs go with their
    /// pins. Call it in the namespace it serves.
    ///
    /// # Errors
    /// When another writer is at work, or a pin cannot be removed.
    pub fn discard_other(&self) -> Result<(), Error> {
        let lock = sys::try_lock(&self.path);
        let _lock = lock.map_err(|source| failed("cannot lock", &self.path, source))?;
        for name in entries(&self.links())? {
            // A filter is not taken along by its record.
            if let Some(ifindex) = name.strip_prefix("clsact-") {
                ifindex.parse().into_iter().for_each(clsact::detach);
            }
        }
        remove(&self.path)
    }

    /// Removes the pins of an instance whose hooks another folder holds as well.
    pub(super) fn forget(&self) -> Result<(), Error> {
        remove(&self.path)
    }

    /// Removes an instance whose namespace no longer exists: nobody can enter it to delete the
    /// instance from inside.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn discard(&self) -> Result<(), Error> {
        match self.lock()? {
            Some(_lock) => self.remove(),
            None => Ok(()),
        }
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.path.join("maps").join(name)
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.path.join("progs").join(name)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.path.join("links")
    }

    /// An exclusive lock among writers, released when the file is dropped; `None` when the
    /// folder was removed by the writer before.
    pub(super) fn lock(&self) -> Result<Option<File>, Error> {
        let file = match sys::lock(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| failed("cannot lock", &self.path, source))?,
        };
        // The lock may be that of a folder that is no longer there, or of an older one.
        let same = |seen: &fs::Metadata, held: &fs::Metadata| seen.ino() == held.ino();
        Ok(match (fs::metadata(&self.path), file.metadata()) {
            (Ok(seen), Ok(held)) if same(&seen, &held) => Some(file),
            _ => None,
        })
    }

    /// Builds the folder under another name and puts it in place as a whole: a crash leaves
    /// either nothing or everything. `fill` pins into the folder it is given. One that is there
    /// already is left alone.
    pub(super) fn build(&self, fill: impl FnOnce(&Self) -> Result<(), Error>) -> Result<(), Error> {
        let _lock = lock_root()?;
        if self.path.exists() {
            return Ok(());
        }
        let new = Self {
            path: self.sibling(NEW),
            ..self.clone()
        };
        for sub in ["maps", "progs", "links"] {
            make(&new.path.join(sub))?;
        }
        if let Err(error) = fill(&new) {
            remove(&new.path)?;
            return Err(error);
        }
        fs::rename(&new.path, &self.path)
            .map_err(|source| failed("cannot put in place", &self.path, source))
    }

    /// Removes every pin: programs detach, maps are freed. A crash leaves a folder that is no
    /// instance and that the next writer removes.
    pub(super) fn remove(&self) -> Result<(), Error> {
        let _lock = lock_root()?;
        let old = self.sibling(OLD);
        fs::rename(&self.path, &old)
            .map_err(|source| failed("cannot put aside", &self.path, source))?;
        remove(&old)
    }

    /// Notes that a table is being changed; the note outlives a writer that is killed.
    pub(super) fn set_dirty(&self) -> Result<(), Error> {
        make(&self.path.join(DIRTY))
    }

    /// All tables agree again.
    pub(super) fn clear_dirty(&self) -> Result<(), Error> {
        remove(&self.path.join(DIRTY))
    }

    /// The last writer did not come to its end.
    pub(super) fn is_dirty(&self) -> bool {
        self.path.join(DIRTY).exists()
    }

    fn sibling(&self, prefix: &str) -> PathBuf {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        root().join(format!("{prefix}{file}"))
    }
}

/// Prefix of a folder that is still being built.
const NEW: &str = "new-";
/// Prefix of a folder that is being removed.
const OLD: &str = "old-";
/// Note that a writer is at work.
const DIRTY: &str = "dirty";
/// bpffs keeps names with dots for itself.
const DOT: char = '%';

/// Folder of all instances of this layout.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(BPFFS).join("netmesh").join(format!("v{LAYOUT}"))
}

/// Serialises those who add and remove instances, and clears away what crashes have left.
fn lock_root() -> Result<File, Error> {
    make(&root())?;
    let lock = sys::lock(&root()).map_err(|source| failed("cannot lock", &root(), source))?;
    for file in entries(&root())? {
        if file.starts_with(NEW) || file.starts_with(OLD) {
            remove(&root().join(file))?;
        }
    }
    Ok(lock)
}

/// bpffs is mounted where pins go, as far as this process sees.
#[must_use]
pub fn mounted() -> bool {
    statfs(BPFFS).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

/// This process has mounts of its own and no bpffs among them: what the machine has pinned is out of
/// sight, and a bpffs mounted here would end with the process, and the data plane with it. Names
/// the network namespace where `ip netns exec` did it, which mounts a `/sys` with its name.
#[must_use]
pub fn hidden() -> Option<Hidden> {
    if mounted() {
        return None;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let source = sys_source(&mounts).filter(|name| Path::new("/run/netns").join(name).is_file());
    if let Some(name) = source {
        return Some(Hidden {
            netns: name.to_owned(),
        });
    }
    // Who may not look at those of process 1 takes its own for the machine's.
    let mounts = |process: &str| fs::metadata(format!("/proc/{process}/ns/mnt"));
    let (own, first) = (mounts("self").ok()?, mounts("1").ok()?);
    let same = (own.dev(), own.ino()) == (first.dev(), first.ino());
    (!same).then(|| Hidden {
        netns: "NAME".to_owned(),
    })
}

/// Mounts in which no pin is seen and none would last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// The network namespace to name from outside, or a word for it.
    pub netns: String,
}

/// The source of what is mounted at `/sys`, last of all (proc_pid_mountinfo(5)).
fn sys_source(mountinfo: &str) -> Option<&str> {
    let at_sys = |line: &&str| line.split(' ').nth(4) == Some("/sys");
    let (_, filesystem) = mountinfo.lines().rfind(at_sys)?.split_once(" - ")?;
    filesystem.split(' ').nth(1)
}

/// Makes sure bpffs is mounted.
///
/// # Errors
/// When it is not and cannot be, or would be for this process alone.
pub fn ensure_bpffs() -> Result<(), Error> {
    if mounted() {
        return Ok(());
    }
    if let Some(hidden) = hidden() {
        return Err(Error::PrivateMounts(hidden));
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0700"),
    )
    .map_err(|source| Error::NoBpffs {
        path: BPFFS.into(),
        source,
    })
}

/// Names in a folder; none when it does not exist.
pub(super) fn entries(path: &Path) -> Result<Vec<String>, Error> {
    let read = match fs::read_dir(path) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("cannot read", path, error)),
    };
    let mut names = Vec::new();
    for entry in read {
        let entry = entry.map_err(|source| failed("cannot read", path, source))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn make(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .map_err(|source| failed("cannot make", path, source))
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("cannot remove", path, error))
        }
        _ => Ok(()),
    }
}

pub(super) fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Pin {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::sys_source;

    #[test]
    fn the_last_mount_at_sys_counts() {
        let outside = "23 27 0:22 / /sys rw,relatime - sysfs sysfs rw\n\
                       49 23 0:39 / /sys/fs/bpf rw,relatime - bpf bpf rw,mode=700\n";
        assert_eq!(sys_source(outside), Some("sysfs"));
        let inside = "55 52 0:40 / /sys rw,relatime shared:3 master:7 - sysfs blue rw\n";
        assert_eq!(sys_source(&format!("{outside}{inside}")), Some("blue"));
        assert_eq!(sys_source("49 23 0:39 / /sys/fs/bpf rw - bpf bpf rw"), None);
    }
}
