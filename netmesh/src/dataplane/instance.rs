//! One instance: opened to read by anybody, to write by one at a time.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::thread::{self, ThreadId};

use super::counter_id::Reclaim;
use super::group::Groups;
use super::lines::{Classes, Lines};
use super::maps::Maps;
use super::next_hop::NextHops;
use super::pin::{self, Folder, NamespaceId};
use super::trees::Trees;
use super::{Error, load, sys};
use netmesh_common::lines::Shape;

/// How much an instance can hold, chosen when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Prefixes: /64s and /24s together, and the others of each address family. Memory is taken as
    /// they come.
    pub routes: u32,
    /// Prefixes that are counted; 32 bytes each for every CPU, taken at once.
    pub counters: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            routes: 1 << 24,
            counters: 1 << 16,
        }
    }
}

/// The data plane of one namespace, to look at. Takes no lock: it works while others write.
pub struct View {
    pub(super) folder: Folder,
    pub(super) maps: Maps,
    pub(super) lines: Lines,
}

/// The data plane of one namespace, to change. Holds the lock among writers until dropped.
///
/// Everything that names a device (ports, next hops) must run on a thread inside that namespace:
/// the kernel resolves interface indexes there. A thread elsewhere is refused.
pub struct Instance {
    view: View,
    pub(super) next_hops: NextHops,
    /// Read when a route with several next hops comes for the first time.
    pub(super) groups: Option<Groups>,
    pub(super) reclaim: Option<Reclaim>,
    classes: Classes,
    pub(super) trees: Trees,
    /// Keys that stage 1 answers for, and the trie still holds.
    pub(super) left: Vec<u64>,
    /// The thread that was last seen to be in the namespace.
    inside: Option<ThreadId>,
    /// The note of a writer at work is there.
    noted: bool,
    /// A change stopped halfway: the note stays, for the next writer.
    pub(super) torn: bool,
    _lock: File,
}

impl Deref for Instance {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl View {
    /// Opens the instance of a namespace for reading, if it has one.
    ///
    /// # Errors
    /// When its maps are not what this binary expects.
    pub fn open(namespace: NamespaceId) -> Result<Option<Self>, Error> {
        Folder::refuse_other(namespace)?;
        let Some(folder) = Folder::find(namespace)? else {
            return Ok(None);
        };
        let maps = Maps::open(&folder)?;
        let lines = Lines::open(&maps)?;
        Ok(Some(Self {
            folder,
            maps,
            lines,
        }))
    }

    /// The instance's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.folder.name
    }

    /// The folder its pins are in.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder.path
    }

    /// How much it can hold.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        Capacity {
            routes: self.maps.route_capacity,
            counters: self.maps.prefix_counters.len(),
        }
    }
}

impl Instance {
    /// Loads programs and maps of the usual size and pins them. An instance that is there already
    /// is opened.
    ///
    /// # Errors
    /// When bpffs is missing, the kernel refuses the programs, or the namespace has an instance
    /// of another name.
    pub fn create(name: &str, namespace: NamespaceId) -> Result<Self, Error> {
        Self::create_with(name, namespace, Capacity::default())
    }

    /// As [`create`](Self::create), with room for as much as is said here.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(
        name: &str,
        namespace: NamespaceId,
        capacity: Capacity,
    ) -> Result<Self, Error> {
        pin::ensure_bpffs()?;
        let folder = Folder::of(name, namespace)?;
        Folder::refuse_other(namespace)?;
        loop {
            if let Some(other) = Folder::find(namespace)?
                && other.name != folder.name
            {
                return Err(Error::Served {
                    wanted: folder.name,
                    name: other.name,
                });
            }
            folder.build(|new| load::load(new, namespace, capacity))?;
            if let Some(instance) = Self::open_folder(folder.clone())? {
                return Ok(instance);
            }
            // Another writer removed it in between.
        }
    }

    /// Opens the instance of a namespace, if it has one. Waits for other writers. Tables that a
    /// writer left behind halfway are mended.
    ///
    /// # Errors
    /// When its maps are not what this binary expects.
    pub fn open(namespace: NamespaceId) -> Result<Option<Self>, Error> {
        Folder::refuse_other(namespace)?;
        while let Some(folder) = Folder::find(namespace)? {
            if let Some(instance) = Self::open_folder(folder)? {
                return Ok(Some(instance));
            }
        }
        Ok(None)
    }

    /// Detaches every port and removes every pin.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn delete(mut self) -> Result<(), Error> {
        self.detach_all()?;
        self.view.folder.remove()?;
        self.noted = false;
        Ok(())
    }

    pub(super) fn maps(&mut self) -> &mut Maps {
        &mut self.view.maps
    }

    /// The maps and the next hops, to be changed together.
    pub(super) fn tables(&mut self) -> (&mut Maps, &mut NextHops) {
        (&mut self.view.maps, &mut self.next_hops)
    }

    /// Makes an empty table of stage 1, of the generation that is not asked.
    pub(super) fn make_table(&mut self, generation: u32, shape: Shape) -> Result<(), Error> {
        let View { lines, maps, .. } = &mut self.view;
        lines.make(maps, generation, shape)
    }

    /// Gives the memory of the one that is not asked any more back.
    pub(super) fn clear_table(&mut self, generation: u32) -> Result<(), Error> {
        let View { lines, maps, .. } = &mut self.view;
        lines.clear(maps, generation)
    }

    /// The tables of stage 1 and their classes, to be changed together.
    pub(super) fn classes(&mut self) -> (&Lines, &mut Classes) {
        (&self.view.lines, &mut self.classes)
    }

    /// The calling thread is in the namespace this instance serves. Looked up once a thread: no
    /// thread of ours goes from one namespace to another.
    pub(super) fn inside(&mut self) -> Result<(), Error> {
        let thread = Some(thread::current().id());
        if self.inside == thread {
            return Ok(());
        }
        let cookie = sys::namespace_cookie().map_err(|source| Error::Namespace { source })?;
        if cookie == self.folder.cookie {
            self.inside = thread;
            return Ok(());
        }
        Err(Error::Elsewhere {
            name: self.folder.name.clone(),
        })
    }

    /// Notes, once, that tables are being changed.
    pub(super) fn note(&mut self) -> Result<(), Error> {
        if !self.noted {
            self.folder.set_dirty()?;
            self.noted = true;
        }
        Ok(())
    }

    pub(super) fn open_folder(folder: Folder) -> Result<Option<Self>, Error> {
        let Some(lock) = folder.lock()? else {
            return Ok(None);
        };
        let maps = Maps::open(&folder)?;
        let lines = Lines::open(&maps)?;
        let trees = Trees::open(&maps)?;
        let mut instance = Self {
            next_hops: NextHops::read(&maps)?,
            noted: folder.is_dirty(),
            torn: true,
            groups: None,
            classes: Classes::read(&lines),
            view: View {
                folder,
                maps,
                lines,
            },
            reclaim: None,
            left: Vec::new(),
            trees,
            inside: None,
            _lock: lock,
        };
        if instance.noted {
            instance.view.maps.tidy()?;
            instance.rebuild()?;
        }
        instance.torn = false;
        Ok(Some(instance))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // A note that stays costs the next writer time, nothing else.
        if self.noted && !self.torn && self.retire().and_then(|()| self.plant()).is_ok() {
            let _ = self.view.folder.clear_dirty();
        }
    }
}
