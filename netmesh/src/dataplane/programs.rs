//! Which programs run: what the kernel has behind the hooks, not what the pins say should be there.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use super::attach::pin_error;
use super::instance::View;
use super::{Error, load, pin, sys};

/// A program that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// The kernel's hash over its instructions.
    pub tag: u64,
}

impl View {
    /// Every program on a hook of this instance. While programs are replaced one name may have
    /// several tags.
    ///
    /// # Errors
    /// When pins cannot be read.
    pub fn programs(&self) -> Result<BTreeSet<Program>, Error> {
        let mut programs = BTreeSet::new();
        for file in pin::entries(&self.folder.links())? {
            let path = self.folder.links().join(&file);
            let follower = load::FOLLOWERS.iter().find(|(name, _)| *name == file);
            let (name, tag) = if let Some((name, _)) = follower {
                (*name, tag_behind(&path))
            } else if let Some(name) = of_port(&file) {
                (name, tag_on_port(&path, is_record(&file)))
            } else {
                continue;
            };
            match tag {
                Ok(tag) => drop(programs.insert(Program { name, tag })),
                // The link was removed since the folder was read, or its device is gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(pin_error("cannot tell the program of", path, source));
                }
            }
        }
        Ok(programs)
    }
}

/// The program that belongs behind a port's pin of this name.
pub(super) fn of_port(file: &str) -> Option<&'static str> {
    match file.split_once('-')?.0 {
        "xdp" | "xdpvlan" | "xdpgeneric" => Some("netmesh_xdp"),
        "pass" => Some("netmesh_pass"),
        "tcx" | "clsact" => Some("netmesh_tc"),
        _ => None,
    }
}

/// The pin is the program itself: a filter of clsact has no link.
pub(super) fn is_record(file: &str) -> bool {
    file.starts_with("clsact-")
}

fn tag_on_port(path: &Path, is_program: bool) -> io::Result<u64> {
    let object = sys::open(path)?;
    if is_program {
        return sys::program_tag(object.as_fd());
    }
    // A link outlives its device, and keeps its program.
    match sys::link_facts(object.as_fd())? {
        facts if facts.ifindex == 0 => Err(io::ErrorKind::NotFound.into()),
        facts => sys::program_tag(sys::program(facts.program)?.as_fd()),
    }
}

fn tag_behind(path: &Path) -> io::Result<u64> {
    let link = sys::open(path)?;
    let program = sys::program(sys::link_program(link.as_fd())?)?;
    sys::program_tag(program.as_fd())
}
