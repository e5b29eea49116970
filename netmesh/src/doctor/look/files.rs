//! Objects, keys and their folders: whose they are, and who may do what with them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::super::judge::{Held, Kind};
use crate::reconcile::{NETWORKS, NODE_FILE};

/// Everything below the folder that counts; nothing where there is none.
pub(super) fn look(folder: &Path) -> Vec<Held> {
    let networks = folder.join(NETWORKS);
    let mut held = Vec::new();
    let objects = [folder.to_owned(), folder.join(NODE_FILE), networks.clone()];
    let objects = objects.into_iter().chain(below(&networks).filter(|path| {
        let ends = path.extension();
        ends.is_some_and(|ends| ends == "toml" || ends == "json")
    }));
    held.extend(objects.filter_map(|path| one(&path, Kind::Object)));
    let keys = folder.join("keys");
    let folders: Vec<PathBuf> = below(&keys).filter(|path| path.is_dir()).collect();
    held.extend(one(&keys, Kind::KeyFolder));
    for folder in folders {
        held.extend(one(&folder, Kind::KeyFolder));
        let files = below(&folder).filter(|path| path.extension().is_some_and(|it| it == "key"));
        held.extend(files.filter_map(|path| one(&path, Kind::Key)));
    }
    held
}

/// What is in a folder, in order.
fn below(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter()
}

fn one(path: &Path, kind: Kind) -> Option<Held> {
    let found = fs::symlink_metadata(path).ok()?;
    let owner = found.uid();
    Some(Held {
        path: path.display().to_string(),
        kind,
        mode: found.mode() & 0o7777,
        owned: owner == 0 || owner == nix::unistd::geteuid().as_raw(),
        link: found.is_symlink(),
    })
}
