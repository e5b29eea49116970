//! One instance: its pinned maps, its writers' lock, the identity of its counters.

use std::collections::BTreeMap;
use std::fs::File;

use netmesh_common::table::PrefixKey;

use super::maps::Maps;
use super::next_hop::NextHops;
use super::pin::{self, Folder, NamespaceId};
use super::{Error, load};

/// The data plane of one namespace.
///
/// Everything that names a device (ports, next hops) must run on a thread inside that namespace:
/// the kernel resolves interface indexes there.
pub struct Instance {
    pub(super) folder: Folder,
    pub(super) maps: Maps,
    pub(super) next_hops: NextHops,
    pub(super) counter_ids: BTreeMap<PrefixKey, u32>,
    next_counter: u32,
    /// Held for as long as the instance is open for writing.
    _lock: File,
}

impl Instance {
    /// Loads programs and maps and pins them. An instance that is there already is opened.
    ///
    /// # Errors
    /// When bpffs is missing or the kernel refuses the programs.
    pub fn create(name: &str, namespace: NamespaceId) -> Result<Self, Error> {
        pin::ensure_bpffs()?;
        let folder = Folder::of(name, namespace);
        if !folder.path.exists() {
            folder.build(|new| load::load(new, namespace))?;
        }
        Self::open_folder(folder)
    }

    /// Opens the instance of a namespace, if it has one. Waits for other writers.
    ///
    /// # Errors
    /// When its maps are not what this binary expects.
    pub fn open(namespace: NamespaceId) -> Result<Option<Self>, Error> {
        Folder::find(namespace)?.map(Self::open_folder).transpose()
    }

    /// Detaches every port and removes every pin.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn delete(mut self) -> Result<(), Error> {
        self.detach_all()?;
        self.folder.remove()
    }

    /// The instance's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.folder.name
    }

    /// The folder its pins are in.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.folder.path
    }

    fn open_folder(folder: Folder) -> Result<Self, Error> {
        let lock = folder.lock()?;
        let maps = Maps::open(&folder)?;
        let next_hops = NextHops::read(&maps)?;
        let mut counter_ids = BTreeMap::new();
        for item in maps.counter_ids.iter() {
            let (key, id) = item.map_err(|source| Error::Map {
                map: "COUNTER_IDS",
                action: "read it",
                source,
            })?;
            counter_ids.insert(key, id);
        }
        let next_counter = counter_ids.values().max().map_or(0, |max| max + 1);
        Ok(Self {
            folder,
            maps,
            next_hops,
            counter_ids,
            next_counter,
            _lock: lock,
        })
    }

    /// The counter of a prefix. It belongs to the prefix: it stays when the route changes, and
    /// when it goes and comes back.
    pub(super) fn counter_of(&mut self, prefix: &PrefixKey) -> Result<u32, Error> {
        if let Some(id) = self.counter_ids.get(prefix) {
            return Ok(*id);
        }
        let capacity = self.maps.prefix_counters.len();
        if self.next_counter >= capacity {
            return Err(Error::Full {
                table: "the counter table",
                capacity: capacity.into(),
            });
        }
        let id = self.next_counter;
        self.maps
            .counter_ids
            .insert(prefix, id, 0)
            .map_err(|source| self.full_or("COUNTER_IDS", source))?;
        self.counter_ids.insert(*prefix, id);
        self.next_counter += 1;
        Ok(id)
    }
}
