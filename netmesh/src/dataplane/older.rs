//! Instances of an older layout: what of them is taken along, and how the rest comes over.
//!
//! ```text
//!  what was asked for, what is counted     the same maps, pinned a second time
//!  where packets meet the programs         the same links, pinned a second time
//!  ports                                   read, and written as they are kept now
//!  what follows from all that              made anew, as after a writer that was killed
//!  what the tables' slots have counted     moved when no program asks the old ones any more
//! ```
//! Old and new programs count in the same maps and see the same next hops, so it does not matter
//! for how long both run.
//!
//! Layout 4 kept ports in a hash map, stage 1 in one map a table, and every prefix in the tries.

use std::fs::File;
use std::os::fd::AsFd as _;

use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{HashMap, MapData, MapType};
use netmesh_common::lines::{Bucket, GENERATIONS};
use netmesh_common::table::{MAX_PORTS, Port};

use super::instance::Capacity;
use super::lines::failed;
use super::maps::{self, Shape, not_found, shape};
use super::pin::{self, Folder, NamespaceId};
use super::places::Places;
use super::port::crowded;
use super::sys::Mapping;
use super::{Error, load, sys};

/// The layout this speaks of.
const LAYOUT: u32 = 4;

/// Maps that are what they were.
pub(super) const SAME: [&Shape; 12] = [
    &maps::CARRIED,
    &maps::KEPT,
    &maps::NEXT_HOPS,
    &maps::GROUPS,
    &maps::NEIGHBOURS,
    &maps::TX,
    &maps::VLANS,
    &maps::MARTIANS,
    &maps::PREFIX_CNT,
    &maps::PORT_CNT,
    &maps::RIB,
    &maps::COUNTER_IDS,
];

const PORTS: Shape = shape(
    "PORTS",
    MapType::Hash,
    4,
    size_of::<Port>(),
    Some(MAX_PORTS),
    0,
);
const TABLES: Shape = shape("TABLES", MapType::ArrayOfMaps, 4, 4, Some(GENERATIONS), 0);

/// An instance of this layout can be taken over.
pub(super) const fn is_known(layout: u32) -> bool {
    layout == LAYOUT
}

/// An instance of the older layout. Nobody else changes it meanwhile.
pub(super) struct Older {
    folder: Folder,
    capacity: Capacity,
    _lock: File,
}

impl Older {
    /// Opens one once its maps are seen to be what that layout had; `None` when it has gone.
    pub(super) fn open(layout: u32, folder: Folder) -> Result<Option<Self>, Error> {
        if !is_known(layout) {
            return Err(Error::OtherLayout {
                layout,
                path: folder.path,
            });
        }
        let Some(lock) = folder.lock()? else {
            return Ok(None);
        };
        for shape in SAME.into_iter().chain([&PORTS, &TABLES]) {
            maps::check(&folder, shape)?;
        }
        Ok(Some(Self {
            capacity: Capacity {
                routes: maps::check(&folder, &maps::FIB6)?.max_entries(),
                counters: maps::check(&folder, &maps::PREFIX_CNT)?.max_entries(),
            },
            folder,
            _lock: lock,
        }))
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.folder.name
    }

    /// Makes an instance of this layout of it, whose tables are still to be filled from the RIB. The
    /// hooks run the programs they had.
    pub(super) fn fill(&self, new: &Folder, namespace: NamespaceId) -> Result<(), Error> {
        for shape in SAME {
            let map = maps::raw(&self.folder, shape)?;
            let path = new.map(shape.name);
            sys::pin(map.as_fd(), &path)
                .map_err(|source| pin::failed("cannot pin", &path, source))?;
        }
        let same = SAME.map(|shape| shape.name);
        let _ = load::load_upon(new, namespace, self.capacity, &same)?;
        self.copy_ports(new)?;
        for name in pin::entries(&self.folder.links())? {
            // Followers have no port in their name; new ones come with the new programs.
            if !name.contains('-') {
                continue;
            }
            let (from, to) = (self.folder.links().join(&name), new.links().join(&name));
            let object =
                sys::open(&from).map_err(|source| pin::failed("cannot open", &from, source))?;
            sys::pin(object.as_fd(), &to)
                .map_err(|source| pin::failed("cannot pin", &to, source))?;
        }
        new.set_dirty()
    }

    fn copy_ports(&self, new: &Folder) -> Result<(), Error> {
        let fail = |source| Error::Map {
            map: PORTS.name,
            action: "copy it",
            source,
        };
        let old: HashMap<MapData, u32, Port> = maps::typed(&self.folder, &PORTS)?;
        let ports = maps::raw(new, &maps::PORTS)?;
        let places =
            Places::open(ports.as_fd()).map_err(|source| maps::unreadable(PORTS.name, source))?;
        for entry in old.iter() {
            let (ifindex, port) = entry.map_err(fail)?;
            if !places.put(ifindex, port) {
                return Err(crowded());
            }
        }
        Ok(())
    }

    /// The tables of stage 1, each as a whole.
    pub(super) fn tables(&self) -> Result<Vec<Mapping>, Error> {
        let outer: ArrayOfMaps<MapData> = maps::typed(&self.folder, &TABLES)?;
        let mut tables = Vec::new();
        for generation in 0..GENERATIONS {
            let table = match outer.get(&generation, 0) {
                Err(error) if not_found(&error) => continue,
                table => table.map_err(|source| failed("open one of the older", source))?,
            };
            let info = table.info();
            let info = info.map_err(|source| failed("describe one of the older", source))?;
            let bytes = info.max_entries() as usize * size_of::<Bucket>();
            let memory = Mapping::new(table.fd().as_fd(), bytes);
            tables.push(memory.map_err(|source| maps::unreadable(TABLES.name, source))?);
        }
        Ok(tables)
    }

    /// Removes its pins: the hooks are the new instance's.
    pub(super) fn forget(self) -> Result<(), Error> {
        self.folder.forget()
    }
}
