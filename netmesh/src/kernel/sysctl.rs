//! Sysctls below `/proc/sys/net`, which belong to the namespace of the thread that looks.
//!
//! Before the first change of a sysctl of the node's own namespace its old value is written to
//! `/run/netmesh/<namespace cookie>/sysctl.json`, so that it can be put back. `/run` forgets at
//! boot, as the kernel does.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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
        let mut record = record()?;
        if !record.contains_key(path) {
            let old = read(namespace, path)?.unwrap_or_default();
            record.insert(path.to_owned(), Old::of(namespace, path, old)?);
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
    if let Some(old) = record.get(path) {
        put_back(path, &old.value)?;
        for (path, value) in &old.overwritten {
            put_back(path, value)?;
        }
        record.remove(path);
        save(&record)?;
    }
    Ok(())
}

fn put_back(path: &str, value: &str) -> Result<(), Error> {
    let file = Path::new("/proc/sys").join(path);
    match fs::write(&file, value) {
        // Its device is gone, and with it the sysctl.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::File {
            action: "cannot write",
            path: file,
            source: error,
        }),
        _ => Ok(()),
    }
}

/// What a sysctl was before the first change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Old {
    value: String,
    /// Others that the kernel overwrites with it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    overwritten: BTreeMap<String, String>,
}

impl Old {
    /// A change of forwarding is one of every link's and of the default as well
    /// (`addrconf_fixup_forwarding`, `inet_forward_change`; the latter also turns redirects).
    fn of(namespace: &Namespace, path: &str, value: String) -> Result<Self, Error> {
        let (folder, names): (&str, &[&str]) = match path {
            "net/ipv6/conf/all/forwarding" => ("net/ipv6/conf", &["forwarding"]),
            "net/ipv4/ip_forward" | "net/ipv4/conf/all/forwarding" => {
                ("net/ipv4/conf", &["forwarding", "accept_redirects"])
            }
            _ => ("", &[]),
        };
        let mut overwritten = BTreeMap::new();
        for name in names {
            for link in links(namespace, folder)? {
                let sibling = format!("{folder}/{link}/{name}");
                if let Some(value) = read(namespace, &sibling)?.filter(|_| sibling != path) {
                    overwritten.insert(sibling, value);
                }
            }
        }
        Ok(Self { value, overwritten })
    }
}

/// The links that have sysctls of their own, `all` and `default` among them.
fn links(namespace: &Namespace, folder: &str) -> Result<Vec<String>, Error> {
    let path = Path::new("/proc/sys").join(folder);
    netns::run_in(namespace, || {
        let entries = fs::read_dir(&path)?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()
    })?
    .map_err(|source| Error::File {
        action: "cannot list",
        path: path.clone(),
        source,
    })
}

/// The node's sysctls that were changed, with their old values.
pub(super) fn record() -> Result<BTreeMap<String, Old>, Error> {
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

fn save(record: &BTreeMap<String, Old>) -> Result<(), Error> {
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
