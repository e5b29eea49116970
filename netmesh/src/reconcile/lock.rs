//! One writer a node, and one daemon.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Error;
use crate::kernel::netns;
use crate::plan::state::Namespace;

/// Where what concerns one boot of a node is kept, one folder a network namespace.
const RUN: &str = "/run/netmesh";

/// The right to change this node, or to be its daemon: held until dropped, or until the process
/// ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// The right to change the node. Waits for other writers.
    ///
    /// # Errors
    /// When this is not root, or the file cannot be made.
    pub fn take() -> Result<Self, Error> {
        Self::hold("lock", |file, path| {
            file.lock().map_err(|source| failed(path, source))
        })
    }

    /// The right to be the node's daemon.
    ///
    /// # Errors
    /// When there is one, this is not root, or the file cannot be made.
    pub fn serve() -> Result<Self, Error> {
        Self::hold("daemon", |file, path| match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::Served),
            Err(TryLockError::Error(source)) => Err(failed(path, source)),
            Ok(()) => Ok(()),
        })
    }

    fn hold(name: &str, lock: impl Fn(&File, &Path) -> Result<(), Error>) -> Result<Self, Error> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let folder = folder()?;
        let path = folder.join(name);
        loop {
            fs::create_dir_all(&folder).map_err(|source| failed(&folder, source))?;
            let file = match File::create(&path) {
                // The one before us took the folder with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(|source| failed(&path, source))?,
            };
            lock(&file, &path)?;
            // The one before us may have removed it while we waited.
            if fs::metadata(&path)
                .is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino()))
            {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    /// Leaves nothing behind: whoever waits for the lock looks again.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        // The folder stays as long as it records anything.
        let _ = self.path.parent().map(fs::remove_dir);
        let _ = fs::remove_dir(RUN);
    }
}

/// Where what concerns one boot of this node is kept.
pub(super) fn folder() -> Result<PathBuf, Error> {
    let (cookie, _) = netns::identity(&Namespace::Node)?;
    Ok(Path::new(RUN).join(format!("{cookie:x}")))
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Lock {
        path: path.to_owned(),
        source,
    }
}
