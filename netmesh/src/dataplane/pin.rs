//! The pin folder: `/sys/fs/bpf/netmesh/v<layout>/<instance>@<namespace>/{maps,progs,links}`.
//!
//! The namespace is named by its cookie (`SO_NETNS_COOKIE`), which no other namespace ever gets
//! until the next boot: an instance can never be taken for that of a namespace that came later.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use netmesh_common::table::LAYOUT;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Error;

const BPFFS: &str = "/sys/fs/bpf";

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
    /// The folder.
    pub path: PathBuf,
}

impl Folder {
    /// Where the instance of this name and namespace is, or would be.
    #[must_use]
    pub fn of(name: &str, namespace: NamespaceId) -> Self {
        Self {
            name: name.to_owned(),
            path: root().join(format!("{name}@{:x}", namespace.cookie)),
        }
    }

    /// The instance that serves a namespace.
    ///
    /// # Errors
    /// When the folder of instances cannot be read.
    pub fn find(namespace: NamespaceId) -> Result<Option<Self>, Error> {
        let suffix = format!("@{:x}", namespace.cookie);
        Ok(entries(&root())?.into_iter().find_map(|file| {
            let name = file.strip_suffix(&suffix)?;
            (!name.starts_with(NEW)).then(|| Self {
                name: name.to_owned(),
                path: root().join(&file),
            })
        }))
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

    /// An exclusive lock among writers, released when the file is dropped.
    pub(super) fn lock(&self) -> Result<File, Error> {
        let pin = |source| Error::Pin {
            action: "cannot lock",
            path: self.path.clone(),
            source,
        };
        let file = File::open(&self.path).map_err(pin)?;
        file.lock().map_err(pin)?;
        Ok(file)
    }

    /// Builds the folder under another name and puts it in place as a whole: a crash leaves
    /// either nothing or everything. `fill` pins into the folder it is given.
    pub(super) fn build(&self, fill: impl FnOnce(&Self) -> Result<(), Error>) -> Result<(), Error> {
        make(&root())?;
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        let new = Self {
            name: self.name.clone(),
            path: root().join(format!("{NEW}{file}")),
        };
        remove(&new.path)?; // What a crash left.
        for sub in ["maps", "progs", "links"] {
            make(&new.path.join(sub))?;
        }
        fill(&new)?;
        fs::rename(&new.path, &self.path).map_err(|source| Error::Pin {
            action: "cannot put in place",
            path: self.path.clone(),
            source,
        })
    }

    /// Removes every pin: programs detach, maps are freed.
    pub(super) fn remove(&self) -> Result<(), Error> {
        remove(&self.links())?;
        remove(&self.path)
    }
}

/// Prefix of a folder that is still being built.
const NEW: &str = "new-";

/// Folder of all instances of this layout.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(BPFFS).join("netmesh").join(format!("v{LAYOUT}"))
}

/// Makes sure bpffs is mounted.
///
/// # Errors
/// When it is not and cannot be.
pub fn ensure_bpffs() -> Result<(), Error> {
    if statfs(BPFFS).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
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
    let pin = |source| Error::Pin {
        action: "cannot read",
        path: path.to_owned(),
        source,
    };
    let read = match fs::read_dir(path) {
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(pin(error)),
    };
    let mut names = Vec::new();
    for entry in read {
        names.push(
            entry
                .map_err(pin)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    Ok(names)
}

fn make(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .map_err(|source| Error::Pin {
            action: "cannot make",
            path: path.to_owned(),
            source,
        })
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Pin {
            action: "cannot remove",
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}
