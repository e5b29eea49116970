//! Hears of changes to the object files, and to the names of namespaces.
//!
//! inotify tells at once; a look at names, sizes and times every few seconds tells what inotify
//! cannot: a folder that was replaced as a whole, a file system of another machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::wake::{NETWORK, OBJECTS, Wake};
use crate::kernel::netns;

/// Folders within the watched one are `networks` and `keys/NETWORK`.
const DEPTH: usize = 3;
/// More files than this are not looked at one by one.
const MOST: usize = 10_000;

/// Inode, size, time of the last write, time of the last change.
type Print = (u64, u64, (i64, i64), (i64, i64));

/// The names of the namespaces the node's resources live in.
type Names = Arc<Mutex<BTreeSet<String>>>;

/// Watches the objects' folder and that of the namespaces.
pub(super) struct Files {
    folder: PathBuf,
    wake: Arc<Wake>,
    objects: Option<RecommendedWatcher>,
    namespaces: Option<RecommendedWatcher>,
    names: Names,
    prints: BTreeMap<PathBuf, Print>,
    complained: bool,
}

impl Files {
    /// Begins to watch.
    pub(super) fn new(folder: &Path, wake: Arc<Wake>) -> Self {
        let mut files = Self {
            folder: folder.to_owned(),
            wake,
            objects: None,
            namespaces: None,
            names: Names::default(),
            prints: BTreeMap::new(),
            complained: false,
        };
        files.watch();
        files.prints = prints(folder);
        files
    }

    /// Whose names are of interest from here on.
    pub(super) fn follow(&self, names: BTreeSet<String>) {
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Looks for what inotify did not tell, and watches what could not be watched before.
    pub(super) fn look(&mut self) {
        let prints = prints(&self.folder);
        if prints != self.prints {
            self.prints = prints;
            // What is watched may be a folder that has been replaced.
            self.objects = None;
            self.wake.raise(OBJECTS);
        }
        self.watch();
    }

    fn watch(&mut self) {
        if self.objects.is_none() {
            let wake = Arc::clone(&self.wake);
            let told = move |event: notify::Result<Event>| {
                if event.as_ref().is_ok_and(|event| !is_change(event)) {
                    return;
                }
                wake.raise(OBJECTS);
            };
            self.objects = match watcher(told, &self.folder, RecursiveMode::Recursive) {
                Ok(watcher) => Some(watcher),
                Err(error) => {
                    if !self.complained {
                        tracing::warn!(
                            "{} cannot be watched, it is looked at every few seconds: {error}",
                            self.folder.display()
                        );
                        self.complained = true;
                    }
                    None
                }
            };
        }
        let folder = Path::new(netns::FOLDER);
        if self.namespaces.is_none() && folder.is_dir() {
            let (wake, names) = (Arc::clone(&self.wake), Arc::clone(&self.names));
            let told = move |event: notify::Result<Event>| {
                let names = names.lock().unwrap_or_else(PoisonError::into_inner);
                let ours = |path: &PathBuf| {
                    let name = path.file_name().map(|name| name.to_string_lossy());
                    name.is_some_and(|name| names.contains(name.as_ref()))
                };
                if event
                    .as_ref()
                    .is_ok_and(|event| !is_change(event) || !event.paths.iter().any(ours))
                {
                    return;
                }
                wake.raise(NETWORK);
            };
            // Without it, a namespace that goes is seen at the next look at everything.
            self.namespaces = watcher(told, folder, RecursiveMode::NonRecursive).ok();
        }
    }
}

fn watcher(
    told: impl FnMut(notify::Result<Event>) + Send + 'static,
    folder: &Path,
    mode: RecursiveMode,
) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(told)?;
    watcher.watch(folder, mode)?;
    Ok(watcher)
}

/// Reading is none: we read ourselves.
fn is_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

/// What tells a file from its next version, for every file of a folder.
fn prints(folder: &Path) -> BTreeMap<PathBuf, Print> {
    let mut found = BTreeMap::new();
    collect(folder, DEPTH, &mut found);
    found
}

fn collect(folder: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Print>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        // As it is opened: behind links.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if metadata.is_dir() && depth > 1 {
            collect(&path, depth - 1, found);
        } else if metadata.is_file() && found.len() < MOST {
            let print = (
                metadata.ino(),
                metadata.len(),
                (metadata.mtime(), metadata.mtime_nsec()),
                (metadata.ctime(), metadata.ctime_nsec()),
            );
            found.insert(path, print);
        }
    }
}
