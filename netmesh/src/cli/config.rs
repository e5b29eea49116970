//! The configuration folder: `node.toml`, `networks/*.toml` or `*.json`, `keys/`.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::exit::Failure;
use crate::model::{self, Faults, Network, NodeConfig};

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
    let mut faults = Faults::default();
    let mut networks = Vec::new();
    if files.is_empty() && need == Need::Networks && !folder.is_dir() {
        return Err(Failure::rejected(anyhow::anyhow!(
            "no folder {}: name the object files, or their folder with --config",
            folder.display()
        )));
    }
    let paths = if files.is_empty() {
        network_files(folder)?
    } else {
        files.to_vec()
    };
    for path in &paths {
        let name = path.display().to_string();
        let text = read(path).map_err(Failure::rejected)?;
        match model::parse_network(&name, &text) {
            Ok(network) => networks.push(network),
            Err(found) => faults.extend(found),
        }
    }
    let node_file = folder.join("node.toml");
    let node = match read(&node_file) {
        Ok(text) => match model::parse_node(&node_file.display().to_string(), &text) {
            Ok(node) => Some(node),
            Err(found) => {
                faults.extend(found);
                None
            }
        },
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
    if let Err(found) = model::check(&networks, node.as_ref()) {
        faults.extend(found);
    }
    if faults.has_errors() {
        return Err(Failure::rejected(faults));
    }
    // A file alone says nothing of a node.
    if let Some(node) = &node
        && (files.is_empty() || need == Need::Node)
        && let Some(idle) = model::idle(&networks, node)
    {
        faults.push(idle);
    }
    Ok((Objects { networks, node }, faults))
}

fn network_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let networks = folder.join("networks");
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
