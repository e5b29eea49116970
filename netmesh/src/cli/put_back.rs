//! Puts the object files of a configuration folder back to what they were; what they are is kept
//! aside, `keys/` and everything else is left alone.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::config;
use crate::reconcile::{NETWORKS, NODE_FILE, Snapshot};

/// What an object file may be read by, where there is none to tell: everybody, as `check` needs it.
const MODE: u32 = 0o644;

/// Makes the folder hold `before` and no other objects. Tells where those it held are now; nothing
/// when they were the same. Killed half-way, it can be done again.
///
/// # Errors
/// When a file cannot be read or written. Each is as it was or as it should be.
pub(super) fn put_back(folder: &Path, before: Option<&Snapshot>) -> io::Result<Option<PathBuf>> {
    let none = Snapshot::default();
    let before = before.unwrap_or(&none);
    let files = files(folder)?;
    if config::snapshot(folder).is_ok_and(|now| now == *before) {
        return Ok(None);
    }
    let aside = make_aside(folder)?;
    // With their permissions.
    let mut copied = fs::create_dir(aside.join(NETWORKS));
    for name in &files {
        copied = copied.and_then(|()| fs::copy(folder.join(name), aside.join(name)).map(drop));
    }
    if let Err(error) = copied {
        // Half of what is still there is worth nothing.
        let _ = fs::remove_dir_all(&aside);
        return Err(error);
    }
    for (name, text) in &before.0 {
        write(&folder.join(name), text)?;
    }
    for name in files {
        if !before.0.contains_key(&name) {
            fs::remove_file(folder.join(name))?;
        }
    }
    Ok(Some(aside))
}

/// The names of the object files below the folder.
fn files(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    if folder.join(NODE_FILE).exists() {
        names.push(NODE_FILE.to_owned());
    }
    let networks = config::network_files(folder).map_err(|failure| io::Error::other(failure.error));
    for path in networks? {
        let name = path.file_name().unwrap_or_default().to_str();
        let name =
            name.ok_or_else(|| io::Error::other(format!("{} is no UTF-8", path.display())))?;
        names.push(format!("{NETWORKS}/{name}"));
    }
    Ok(names)
}

/// A folder that nothing was put aside in before.
fn make_aside(folder: &Path) -> io::Result<PathBuf> {
    let mut number = 1;
    loop {
        let aside = folder.join(format!("rejected-{number}"));
        match DirBuilder::new().mode(0o700).create(&aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            made => {
                made?;
                return Ok(aside);
            }
        }
    }
}

/// Aside and renamed into place: whoever follows the folder reads all of it or none.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if fs::read(path).is_ok_and(|now| now == text.as_bytes()) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let mode = fs::metadata(path).map_or(MODE, |there| there.permissions().mode() & 0o777);
    // Hidden: no object until it has its name.
    let mut file = tempfile::Builder::new()
        .prefix(".netmesh-")
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn read(folder: &Path, name: &str) -> Option<String> {
        fs::read_to_string(folder.join(name)).ok()
    }

    #[test]
    fn objects_come_back_and_nothing_is_lost() {
        let folder = folder(&[
            ("node.toml", "new"),
            ("networks/a.toml", "new"),
            ("networks/b.json", "only now"),
            ("networks/notes.txt", "no object"),
            ("keys/n/r.key", "secret"),
        ]);
        let folder = folder.path();
        let narrow = Permissions::from_mode(0o640);
        fs::set_permissions(folder.join("node.toml"), narrow).unwrap();
        let before = [
            ("node.toml", "old"),
            ("networks/a.toml", "old"),
            ("networks/c.toml", "was removed"),
        ];
        let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        let before = Snapshot(before.iter().map(own).collect());
        let aside = put_back(folder, Some(&before)).unwrap().unwrap();
        assert_eq!(aside, folder.join("rejected-1"));
        assert_eq!(config::snapshot(folder).unwrap(), before);
        for (name, text) in [
            ("node.toml", Some("new")),
            ("networks/a.toml", Some("new")),
            ("networks/b.json", Some("only now")),
            ("networks/c.toml", None),
            ("networks/notes.txt", None),
            ("keys/n/r.key", None),
        ] {
            assert_eq!(read(&aside, name).as_deref(), text, "{name}");
        }
        assert_eq!(
            read(folder, "networks/notes.txt").as_deref(),
            Some("no object")
        );
        assert_eq!(read(folder, "keys/n/r.key").as_deref(), Some("secret"));
        let mode = |name| {
            fs::metadata(folder.join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!((mode("node.toml"), mode("networks/c.toml")), (0o640, 0o644));
        // Again: there is nothing to do, and nothing is put aside for it.
        assert_eq!(put_back(folder, Some(&before)).unwrap(), None);
        // Nothing was there before: nothing stays, and what was put aside first stays too.
        let aside = put_back(folder, None).unwrap().unwrap();
        assert_eq!(aside, folder.join("rejected-2"));
        assert_eq!(config::snapshot(folder).unwrap(), Snapshot::default());
        assert_eq!(
            read(&aside, "networks/c.toml").as_deref(),
            Some("was removed")
        );
        assert_eq!(read(folder, "rejected-1/node.toml").as_deref(), Some("new"));
    }

    #[test]
    fn what_is_no_text_is_put_aside_too() {
        let folder = folder(&[("node.toml", "new")]);
        let folder = folder.path();
        fs::create_dir(folder.join("networks")).unwrap();
        fs::write(folder.join("networks/x.toml"), [0xff, 0xfe]).unwrap();
        let aside = put_back(folder, None).unwrap().unwrap();
        assert_eq!(
            fs::read(aside.join("networks/x.toml")).unwrap(),
            [0xff, 0xfe]
        );
        assert!(!folder.join("networks/x.toml").exists());
    }
}
