//! The configuration folder: `node.toml`, `networks/*.toml` or `*.json`, `keys/`.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::exit::Failure;
use crate::model::{self, Faults, Network, NodeConfig};
use crate::reconcile::{NETWORKS, NODE_FILE, Snapshot};

/// What a command needs to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Networks; the node's own file only if it is there.
    Networks,
    /// The node's own file too.
    Node,
}

/// What the files say, checked as a whole.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) networks: Vec<Network>,
    pub(super) node: Option<NodeConfig>,
    /// The files they were read from.
    pub(super) snapshot: Snapshot,
}

/// A file that is larger is no object of ours.
const MAX_SIZE: u64 = 1 << 20;

/// Reads and checks all files; every fault of every file is reported at once, warnings in the log.
pub(super) fn load(folder: &Path, files: &[PathBuf], need: Need) -> Result<Objects, Failure> {
    let (objects, warnings) = load_quietly(folder, files, need)?;
    for warning in warnings.sorted() {
        tracing::warn!("{warning}");
    }
    Ok(objects)
}

/// As [`load`], with the warnings left to the caller.
pub(super) fn load_quietly(
    folder: &Path,
    files: &[PathBuf],
    need: Need,
) -> Result<(Objects, Faults), Failure> {
    if files.is_empty() && need == Need::Networks && !folder.is_dir() {
        // One that may not be looked into is no missing one.
        if let Err(error) = fs::metadata(folder)
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            let text = format!("cannot look into {}", folder.display());
            return Err(anyhow::Error::new(error).context(text).into());
        }
        return Err(Failure::rejected(anyhow::anyhow!(
            "no folder {}: name the object files, or their folder with --config",
            folder.display()
        )));
    }
    let texts = texts(folder, files, need)?;
    // A file alone says nothing of a node.
    let whole = files.is_empty() || need == Need::Node;
    check(&texts, whole)
}

/// Object files as they were read, each with the name it is told by.
struct Texts {
    node: Option<(String, String)>,
    networks: Vec<(String, String)>,
    snapshot: Snapshot,
}

/// Checks objects that were kept, told by the names they have below `folder`.
pub(super) fn of_snapshot(folder: &Path, snapshot: &Snapshot) -> Result<Objects, Failure> {
    let mut texts = Texts {
        node: None,
        networks: Vec::new(),
        snapshot: snapshot.clone(),
    };
    for (name, text) in &snapshot.0 {
        let told = (folder.join(name).display().to_string(), text.clone());
        if name == NODE_FILE {
            texts.node = Some(told);
        } else {
            texts.networks.push(told);
        }
    }
    check(&texts, true).map(|(objects, _)| objects)
}

/// The object files of a folder, as they are now.
pub(super) fn snapshot(folder: &Path) -> Result<Snapshot, Failure> {
    Ok(texts(folder, &[], Need::Networks)?.snapshot)
}

fn texts(folder: &Path, files: &[PathBuf], need: Need) -> Result<Texts, Failure> {
    let paths = if files.is_empty() {
        network_files(folder)?
    } else {
        files.to_vec()
    };
    let mut snapshot = Snapshot::default();
    let mut networks = Vec::new();
    for path in &paths {
        let text = read(path).map_err(Failure::rejected)?;
        snapshot.add_network(path, text.clone());
        networks.push((path.display().to_string(), text));
    }
    let node_file = folder.join(NODE_FILE);
    let node = match read(&node_file) {
        Ok(text) => {
            snapshot.0.insert(NODE_FILE.to_owned(), text.clone());
            Some((node_file.display().to_string(), text))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && need == Need::Networks => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::rejected(anyhow::anyhow!(
                "{} is missing: it says which node this is; write at least `node = \"NAME\"`, or \
                 name another folder with --config",
                node_file.display()
            )));
        }
        Err(error) => return Err(Failure::rejected(error)),
    };
    Ok(Texts {
        node,
        networks,
        snapshot,
    })
}

fn check(texts: &Texts, whole: bool) -> Result<(Objects, Faults), Failure> {
    let mut faults = Faults::default();
    let mut networks = Vec::new();
    for (name, text) in &texts.networks {
        match model::parse_network(name, text) {
            Ok(network) => networks.push(network),
            Err(found) => faults.extend(found),
        }
    }
    let mut node = None;
    if let Some((name, text)) = &texts.node {
        match model::parse_node(name, text) {
            Ok(found) => node = Some(found),
            Err(found) => faults.extend(found),
        }
    }
    if let Err(found) = model::check(&networks, node.as_ref()) {
        faults.extend(found);
    }
    if faults.has_errors() {
        return Err(Failure::rejected(faults));
    }
    if let Some(node) = &node
        && whole
        && let Some(idle) = model::idle(&networks, node)
    {
        faults.push(idle);
    }
    let objects = Objects {
        networks,
        node,
        snapshot: texts.snapshot.clone(),
    };
    Ok((objects, faults))
}

/// The files of a folder's networks, in the order of their names.
pub(super) fn network_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let networks = folder.join(NETWORKS);
    let entries = match fs::read_dir(&networks) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::rejected(named(&networks, &error))),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| named(&networks, &error))?.path();
        let known = path
            .extension()
            .is_some_and(|ext| ext == "toml" || ext == "json");
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if known && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> io::Result<String> {
    let file = fs::File::open(path).map_err(|error| named(path, &error))?;
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| named(path, &error))?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: larger than 1 MiB, which no object is", path.display()),
        ));
    }
    String::from_utf8(bytes).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: not UTF-8 text", path.display()),
        )
    })
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
