//! New programs upon the tables that are there, without losing a packet.
//!
//! ```text
//!   load, verify, pin aside ─► try on frames ─► every link: old or new program, never none
//!                                                 │                    ─► pins in place
//!                                                 └ one refuses: all back to the old ones
//! ```
//! Until the first link changes a failure leaves the old data plane as it was. While links
//! change, old and new programs run side by side on the same tables. All that is needed to go back
//! is open before the first one changes.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use super::load::Loaded;
use super::object::Object;
use super::pin::{self, NamespaceId};
use super::{Error, Instance, clsact, load, programs, self_test, sys};

/// Prefix of a pin that is not in its place yet.
const NEW: &str = "new-";

/// A hook whose program is to be another.
enum Hook {
    /// One with a link.
    Link {
        path: PathBuf,
        link: OwnedFd,
        old: OwnedFd,
        new: OwnedFd,
    },
    /// A filter.
    Clsact {
        record: String,
        path: PathBuf,
        old: PathBuf,
        new: PathBuf,
    },
}

/// What has been done and may have to be undone, in order.
#[derive(Default)]
struct Done {
    hooks: Vec<Hook>,
    /// Pins that have been replaced, with what was pinned there before.
    pins: Vec<(PathBuf, Option<OwnedFd>)>,
}

impl Instance {
    /// Puts the programs of an object in the place of those that run, on every hook or on none.
    /// Ports stay attached, routes and counters stay as they are.
    ///
    /// # Errors
    /// When the kernel refuses the programs, they do not decide as they must, or a link refuses
    /// them: every hook runs the programs it had.
    pub fn upgrade(&mut self, namespace: NamespaceId, object: &Object) -> Result<(), Error> {
        self.inside()?;
        self.clear_aside()?;
        let done = self.replace_programs(namespace, object);
        if done.is_err() {
            self.clear_aside()?;
        }
        done
    }

    fn replace_programs(&self, namespace: NamespaceId, object: &Object) -> Result<(), Error> {
        let aside = |name: &str| self.aside(name);
        let loaded = load::reload(object, &self.folder, namespace, aside)?;
        self_test::run(self, object, aside)?;
        let mut done = Done::default();
        let Err(error) = self.switch(loaded, &mut done) else {
            return Ok(());
        };
        match done.undo() {
            left if left.is_empty() => Err(error),
            left => Err(Error::HalfUpgraded {
                left: left.join(", "),
                source: Box::new(error),
            }),
        }
    }

    fn switch(&self, loaded: Loaded, done: &mut Done) -> Result<(), Error> {
        for hook in self.hooks()? {
            hook.turn(true)?;
            done.hooks.push(hook);
        }
        // Two followers write the same word: the old one goes when the new one runs.
        let link = |name: &str| self.folder.links().join(format!("{NEW}{name}"));
        loaded.follow(&self.folder, link)?;
        for (name, _) in load::FOLLOWERS {
            if link(name).exists() {
                done.put_in_place(&link(name), self.folder.links().join(name))?;
            }
        }
        for name in load::PROGRAMS {
            done.put_in_place(&self.aside(name), self.folder.program(name))?;
        }
        Ok(())
    }

    fn aside(&self, name: &str) -> PathBuf {
        self.folder.program(&format!("{NEW}{name}"))
    }

    /// Every hook of this instance, with the program it has and the one it is to get.
    fn hooks(&self) -> Result<Vec<Hook>, Error> {
        let mut hooks = Vec::new();
        for name in pin::entries(&self.folder.links())? {
            let path = self.folder.links().join(&name);
            let Some(program) = programs::of_port(&name) else {
                continue;
            };
            if programs::is_record(&name) {
                hooks.push(Hook::Clsact {
                    record: name,
                    path,
                    old: self.folder.program(program),
                    new: self.aside(program),
                });
                continue;
            }
            let link = open(&path)?;
            let old = sys::link_program(link.as_fd()).and_then(sys::program);
            let old = match old {
                // Its device is gone, and its program with it; the next writer that sees ports
                // removes it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                old => old.map_err(|source| failed("cannot tell the program of", &path, source))?,
            };
            hooks.push(Hook::Link {
                path,
                link,
                old,
                new: open(&self.aside(program))?,
            });
        }
        Ok(hooks)
    }

    /// Removes what an upgrade that failed or was killed has left.
    fn clear_aside(&self) -> Result<(), Error> {
        for folder in [self.folder.links(), self.folder.path.join("progs")] {
            for name in pin::entries(&folder)? {
                if name.starts_with(NEW) {
                    let path = folder.join(name);
                    fs::remove_file(&path)
                        .map_err(|source| failed("cannot remove", &path, source))?;
                }
            }
        }
        Ok(())
    }
}

impl Hook {
    /// Puts the new program, or the old one, behind the hook.
    fn turn(&self, to_new: bool) -> Result<(), Error> {
        match self {
            Self::Link {
                path,
                link,
                old,
                new,
            } => {
                let program = if to_new { new } else { old };
                match sys::update(link.as_fd(), program.as_fd()) {
                    // Its device is gone; the next writer that sees ports removes it.
                    Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
                    result => result.map_err(|source| {
                        failed("cannot put the new program behind", path, source)
                    }),
                }
            }
            Self::Clsact {
                record,
                path,
                old,
                new,
            } => clsact::replace(if to_new { new } else { old }, record, path),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Link { path, .. } | Self::Clsact { path, .. } => path,
        }
    }
}

impl Done {
    fn put_in_place(&mut self, new: &Path, place: PathBuf) -> Result<(), Error> {
        let old = match sys::open(&place) {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("cannot open", &place, error)),
        };
        fs::rename(new, &place).map_err(|source| failed("cannot put in place", &place, source))?;
        self.pins.push((place, old));
        Ok(())
    }

    /// Back to what was before, as far as it goes; names what could not be put back.
    fn undo(self) -> Vec<String> {
        let mut left = Vec::new();
        for (place, old) in self.pins.into_iter().rev() {
            let removed = fs::remove_file(&place);
            let back = removed.and_then(|()| match old {
                Some(old) => sys::pin(old.as_fd(), &place),
                None => Ok(()),
            });
            if let Err(error) = back {
                left.push(format!("{}: {error}", place.display()));
            }
        }
        for hook in self.hooks.into_iter().rev() {
            if let Err(error) = hook.turn(false) {
                left.push(format!("{}: {error}", hook.path().display()));
            }
        }
        left
    }
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    sys::open(path).map_err(|source| failed("cannot open", path, source))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Pin {
        action,
        path: path.to_owned(),
        source,
    }
}
