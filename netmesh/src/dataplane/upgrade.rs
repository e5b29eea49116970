//! New programs upon the tables that are there, without losing a packet.
//!
//! ```text
//!   load, verify, pin aside ─► every link: old or new program, never none ─► pins in place
//! ```
//! Until the first link changes a failure leaves the old data plane as it was. While links
//! change, old and new programs run side by side on the same tables.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use super::pin::{self, NamespaceId};
use super::{Error, Instance, clsact, load, sys};

/// Prefix of a pin that is not in its place yet.
const NEW: &str = "new-";

impl Instance {
    /// Puts the programs of this binary in the place of those that run. Ports stay attached,
    /// routes and counters stay as they are.
    ///
    /// # Errors
    /// When the kernel refuses the programs, before anything has changed; or a link, and then
    /// the remaining ones run the programs they had. It can be tried again.
    pub fn upgrade(&mut self, namespace: NamespaceId) -> Result<(), Error> {
        self.inside()?;
        self.clear_aside()?;
        let program = |name: &str| self.folder.program(&format!("{NEW}{name}"));
        let link = |name: &str| self.folder.links().join(format!("{NEW}{name}"));
        if let Err(error) = load::reload(&self.folder, namespace, program, link) {
            self.clear_aside()?;
            return Err(error);
        }
        for name in pin::entries(&self.folder.links())? {
            let path = self.folder.links().join(&name);
            let hook = name.split_once('-').map_or("", |(hook, _)| hook);
            match hook {
                "xdp" | "xdpvlan" | "xdpgeneric" => update(&path, &program("netmesh_xdp"))?,
                "pass" => update(&path, &program("netmesh_pass"))?,
                "tcx" => update(&path, &program("netmesh_tc"))?,
                "clsact" => clsact::replace(&program("netmesh_tc"), &name, &path)?,
                _ => {}
            }
        }
        // Two followers write the same word: the old one goes when the new one runs.
        for (name, _) in load::FOLLOWERS {
            if link(name).exists() {
                put_in_place(&link(name), &self.folder.links().join(name))?;
            }
        }
        for name in load::PROGRAMS {
            put_in_place(&program(name), &self.folder.program(name))?;
        }
        Ok(())
    }

    /// Removes what an upgrade that failed or was killed has left.
    fn clear_aside(&self) -> Result<(), Error> {
        for folder in [self.folder.links(), self.folder.path.join("progs")] {
            for name in pin::entries(&folder)? {
                if name.starts_with(NEW) {
                    let path = folder.join(name);
                    fs::remove_file(&path)
                        .map_err(|source| failed("cannot remove", path, source))?;
                }
            }
        }
        Ok(())
    }
}

fn update(link: &Path, program: &Path) -> Result<(), Error> {
    let open = |path: &Path| {
        sys::open(path).map_err(|source| failed("cannot open", path.to_owned(), source))
    };
    match sys::update(open(link)?.as_fd(), open(program)?.as_fd()) {
        // Its device is gone; the next writer that sees ports removes it.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
        result => result
            .map_err(|source| failed("cannot put the new program behind", link.to_owned(), source)),
    }
}

fn put_in_place(new: &Path, old: &Path) -> Result<(), Error> {
    fs::rename(new, old).map_err(|source| failed("cannot put in place", old.to_owned(), source))
}

fn failed(action: &'static str, path: PathBuf, source: io::Error) -> Error {
    Error::Pin {
        action,
        path,
        source,
    }
}
