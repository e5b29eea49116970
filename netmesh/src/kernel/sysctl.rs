//! Sysctls below `/proc/sys/net`, which belong to the namespace of the thread that looks.
//!
//! Before the first change of a sysctl of the node's own namespace its old value is written to
//! `/run/netmesh/<namespace cookie>/sysctl.json`, so that it can be put back. `/run` forgets at
//! boot, as the kernel does.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::{Error, netns};
use crate::plan::state::Namespace;

/// The value of a sysctl; `None` when the kernel has none of that name.
pub(super) fn read(namespace: &Namespace, path: &str) -> Result<Option<String>, Error> {
    let file = Path::new("/proc/sys").join(path);
    match netns::run_in(namespace, || fs::read_to_string(&file))? {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            action: "cannot read",
            path: file,
            source,
        }),
    }
}

/// Writes a sysctl.
pub(super) fn write(namespace: &Namespace, path: &str, value: &str) -> Result<(), Error> {
    if *namespace == Namespace::Node {
        let old = read(namespace, path)?.unwrap_or_default();
        let mut record = record()?;
        if !record.contains_key(path) {
            record.insert(path.to_owned(), old);
            save(&record)?;
        }
    }
    let file = Path::new("/proc/sys").join(path);
    netns::run_in(namespace, || fs::write(&file, value))?.map_err(|source| Error::File {
        action: "cannot write",
        path: file,
        source,
    })
}

/// Puts a sysctl of the node back to what it was before the first change.
pub(super) fn restore(path: &str) -> Result<(), Error> {
    let mut record = record()?;
    if let Some(value) = record.remove(path) {
        let file = Path::new("/proc/sys").join(path);
        match fs::write(&file, value) {
            // Its device is gone, and with it the sysctl.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::File {
                    action: "cannot write",
                    path: file,
                    source: error,
                });
            }
            _ => {}
        }
        save(&record)?;
    }
    Ok(())
}

/// The node's sysctls that were changed, with their old values.
pub(super) fn record() -> Result<BTreeMap<String, String>, Error> {
    let path = record_path()?;
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::File {
            action: "cannot understand",
            path,
            source: error.into(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(source) => Err(Error::File {
            action: "cannot read",
            path,
            source,
        }),
    }
}

fn save(record: &BTreeMap<String, String>) -> Result<(), Error> {
    let path = record_path()?;
    let fail = |source| Error::File {
        action: "cannot write",
        path: path.clone(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("/run"));
    if record.is_empty() {
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir(folder); // Other files may live there.
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(fail)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    file.write_all(&serde_json::to_vec_pretty(record).map_err(|error| fail(error.into()))?)
        .and_then(|()| file.as_file().sync_all())
        .map_err(fail)?;
    file.persist(&path).map_err(|error| fail(error.error))?;
    Ok(())
}

fn record_path() -> Result<PathBuf, Error> {
    let (cookie, _) = netns::identity(&Namespace::Node)?;
    Ok(PathBuf::from(format!(
        "/run/netmesh/{cookie:x}/sysctl.json"
    )))
}
