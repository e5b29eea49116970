//! The pinned maps, opened only after their shape has been checked: the library does not.

use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray, RingBuf};
use aya_obj::generated::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_F_RDONLY_PROG};
use netmesh_common::group::{Group, MAX_GROUPS};
use netmesh_common::intervals;
use netmesh_common::lines::{self, GENERATIONS, HEADER, MAX_CLASSES};
use netmesh_common::table::{
    FibEntry, MAX_MARTIANS, MAX_NEXT_HOPS, MAX_PORTS, NeighbourKey, NextHop, PORT_PLACES,
    PortCounters, PortPlace, PrefixCounters, PrefixKey, RibEntry, RibKey,
};
use netmesh_common::trace::{RING, TraceFilter};

use super::growing::Growing;
use super::pin::Folder;
use super::places::Places;
use super::{Error, sys};

/// Every map of an instance.
pub(super) struct Maps {
    pub(super) fib6: LpmTrie<MapData, [u8; 16], FibEntry>,
    pub(super) fib4: LpmTrie<MapData, [u8; 4], FibEntry>,
    /// The pieces of stage 1.
    pub(super) tables: ArrayOfMaps<MapData>,
    pub(super) next_hops: Array<MapData, NextHop>,
    pub(super) groups: Array<MapData, Group>,
    pub(super) neighbours: HashMap<MapData, NeighbourKey, u32>,
    pub(super) ports: Places,
    pub(super) tx: DevMapHash<MapData>,
    pub(super) vlans: DevMapHash<MapData>,
    /// What ports say themselves of prefixes: 1 a martian, 0 none.
    pub(super) martians: LpmTrie<MapData, [u32; 6], u32>,
    pub(super) prefix_counters: PerCpuArray<MapData, PrefixCounters>,
    pub(super) port_counters: PerCpuArray<MapData, PortCounters>,
    pub(super) rib: Growing<RibKey, RibEntry>,
    pub(super) counter_ids: HashMap<MapData, PrefixKey, u32>,
    /// What is noted of those that stage 1 may hold, but does not answer alone.
    pub(super) inside: Growing<u64, u32>,
    /// What the slots of tables that are gone had counted.
    pub(super) kept: Growing<u64, PrefixCounters>,
    /// Which generation is asked, to be mapped into memory.
    pub(super) active_fd: OwnedFd,
    /// The words of the tables' headers, to be mapped into memory.
    pub(super) headers_fd: OwnedFd,
    /// The classes, to be mapped into memory.
    pub(super) classes_fd: OwnedFd,
    /// Memory of the trees of stage 2.
    pub(super) pieces: ArrayOfMaps<MapData>,
    pub(super) pieces_fd: OwnedFd,
    /// Their headers, to be mapped into memory.
    pub(super) trees_fd: OwnedFd,
    /// What stage 1 has carried, to be read as a whole.
    carried_fd: OwnedFd,
    /// The tries again, to be written many at a time.
    pub(super) fib6_fd: OwnedFd,
    pub(super) fib4_fd: OwnedFd,
    /// Stage 1 again, to be written many pieces at a time.
    pub(super) tables_fd: OwnedFd,
    /// The next-hop table again, to be mapped into memory.
    pub(super) next_hops_fd: OwnedFd,
    /// The counter identities again, to be read as a whole.
    pub(super) counter_ids_fd: OwnedFd,
    /// Prefixes of one family the FIB can hold.
    pub(super) route_capacity: u32,
}

/// What a map must look like to be used by this binary.
pub(super) struct Shape {
    pub(super) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    /// `None` where the size is chosen when the instance is made.
    entries: Option<u32>,
    flags: u32,
}

impl Shape {
    /// Type, key size and value size are its own.
    pub(super) const fn is(&self, found: (u32, u32, u32)) -> bool {
        let own = (self.kind as u32, self.key as u32, self.value as u32);
        found.0 == own.0 && found.1 == own.1 && found.2 == own.2
    }

    /// A map like this, for so many entries, that nobody else knows yet.
    pub(super) fn make(&self, entries: u32) -> Result<MapData, MapError> {
        let map = aya_obj::Map::new_from_params(
            self.kind as u32,
            self.key as u32,
            self.value as u32,
            entries,
            self.flags,
        );
        MapData::create(map, self.name, None)
    }
}

/// How many prefixes something may have to be remembered of beside their entries: that they have
/// counted more than a slot holds.
pub(super) fn notes(routes: u32) -> u32 {
    (routes / 4).clamp(1 << 10, 1 << 18)
}

pub(super) const fn shape(
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: Option<u32>,
    flags: u32,
) -> Shape {
    Shape {
        name,
        kind,
        key,
        value,
        entries,
        flags,
    }
}

pub(super) const FIB6: Shape = shape(
    "FIB6",
    MapType::LpmTrie,
    20,
    size_of::<FibEntry>(),
    None,
    BPF_F_NO_PREALLOC,
);
const FIB4: Shape = shape(
    "FIB4",
    MapType::LpmTrie,
    8,
    size_of::<FibEntry>(),
    None,
    BPF_F_NO_PREALLOC,
);
const TABLES: Shape = shape("TABLES", MapType::ArrayOfMaps, 4, 4, Some(lines::PIECES), 0);
const HEADERS: Shape = shape(
    "HEADERS",
    MapType::Array,
    4,
    8 * HEADER,
    Some(GENERATIONS),
    BPF_F_MMAPABLE,
);
const ACTIVE: Shape = shape("ACTIVE", MapType::Array, 4, 8, Some(1), BPF_F_MMAPABLE);
const PIECES: Shape = shape(
    "PIECES",
    MapType::ArrayOfMaps,
    4,
    4,
    Some(intervals::GENERATIONS * intervals::PIECES),
    0,
);
const TREES: Shape = shape(
    "TREES",
    MapType::Array,
    4,
    8 * intervals::HEADER,
    Some(intervals::GENERATIONS + 1),
    BPF_F_MMAPABLE,
);
const CLASSES: Shape = shape(
    "CLASSES",
    MapType::Array,
    4,
    8,
    Some(MAX_CLASSES),
    BPF_F_MMAPABLE,
);
pub(super) const CARRIED: Shape = by_key("CARRIED", size_of::<PrefixCounters>());
pub(super) const KEPT: Shape = by_key("KEPT", size_of::<PrefixCounters>());
const INSIDE: Shape = by_key("INSIDE", 4);

/// A hash map by the keys of stage 1.
const fn by_key(name: &'static str, value: usize) -> Shape {
    shape(name, MapType::Hash, 8, value, None, BPF_F_NO_PREALLOC)
}

pub(super) const NEXT_HOPS: Shape = shape(
    "NEXT_HOPS",
    MapType::Array,
    4,
    size_of::<NextHop>(),
    Some(MAX_NEXT_HOPS),
    BPF_F_MMAPABLE,
);
pub(super) const GROUPS: Shape = shape(
    "GROUPS",
    MapType::Array,
    4,
    size_of::<Group>(),
    Some(MAX_GROUPS),
    0,
);
pub(super) const NEIGHBOURS: Shape = shape(
    "NEIGHBOURS",
    MapType::Hash,
    size_of::<NeighbourKey>(),
    4,
    Some(MAX_NEXT_HOPS),
    0,
);
pub(super) const PORTS: Shape = shape(
    "PORTS",
    MapType::Array,
    4,
    size_of::<PortPlace>(),
    Some(PORT_PLACES),
    BPF_F_MMAPABLE,
);
/// The kernel makes every device map read-only for programs.
pub(super) const TX: Shape = shape(
    "TX",
    MapType::DevMapHash,
    4,
    8,
    Some(MAX_PORTS),
    BPF_F_RDONLY_PROG,
);
pub(super) const VLANS: Shape = shape(
    "VLANS",
    MapType::DevMapHash,
    4,
    8,
    Some(MAX_PORTS),
    BPF_F_RDONLY_PROG,
);
pub(super) const MARTIANS: Shape = shape(
    "MARTIANS",
    MapType::LpmTrie,
    28,
    4,
    Some(MAX_MARTIANS),
    BPF_F_NO_PREALLOC,
);
pub(super) const PREFIX_CNT: Shape = shape(
    "PREFIX_CNT",
    MapType::PerCpuArray,
    4,
    size_of::<PrefixCounters>(),
    None,
    0,
);
pub(super) const PORT_CNT: Shape = shape(
    "PORT_CNT",
    MapType::PerCpuArray,
    4,
    size_of::<PortCounters>(),
    Some(MAX_PORTS),
    0,
);
pub(super) const RIB: Shape = shape(
    "RIB",
    MapType::Hash,
    size_of::<RibKey>(),
    size_of::<RibEntry>(),
    None,
    BPF_F_NO_PREALLOC,
);
pub(super) const COUNTER_IDS: Shape = shape(
    "COUNTER_IDS",
    MapType::Hash,
    size_of::<PrefixKey>(),
    4,
    None,
    BPF_F_NO_PREALLOC,
);

const TRACE: Shape = shape(
    "TRACE",
    MapType::Array,
    4,
    size_of::<TraceFilter>(),
    Some(1),
    0,
);
const EVENTS: Shape = shape("EVENTS", MapType::RingBuf, 0, 0, Some(RING), 0);

/// Every map, in the order they are pinned.
pub(super) const SHAPES: [&Shape; 24] = [
    &FIB6,
    &FIB4,
    &TABLES,
    &HEADERS,
    &ACTIVE,
    &CLASSES,
    &PIECES,
    &TREES,
    &CARRIED,
    &KEPT,
    &INSIDE,
    &NEXT_HOPS,
    &GROUPS,
    &NEIGHBOURS,
    &PORTS,
    &TX,
    &VLANS,
    &MARTIANS,
    &PREFIX_CNT,
    &PORT_CNT,
    &RIB,
    &COUNTER_IDS,
    &TRACE,
    &EVENTS,
];

/// Their names.
pub(super) const NAMES: [&str; SHAPES.len()] = {
    let mut names = [""; SHAPES.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = SHAPES[at].name;
        at += 1;
    }
    names
};

/// Those a program counts and tells into: a copy of it on trial has its own. The tallies of stage 1
/// lie beside its entries, so it has a table of its own too, and a header and a generation with it.
pub(super) const TOLD: [&str; 8] = [
    TABLES.name,
    HEADERS.name,
    ACTIVE.name,
    CARRIED.name,
    PREFIX_CNT.name,
    PORT_CNT.name,
    TRACE.name,
    EVENTS.name,
];

impl Maps {
    /// Opens all maps of a folder.
    pub(super) fn open(folder: &Folder) -> Result<Self, Error> {
        let route_capacity = check(folder, &FIB6)?.max_entries();
        Ok(Self {
            fib6: typed(folder, &FIB6)?,
            fib4: typed(folder, &FIB4)?,
            tables: typed(folder, &TABLES)?,
            next_hops: typed(folder, &NEXT_HOPS)?,
            groups: typed(folder, &GROUPS)?,
            neighbours: typed(folder, &NEIGHBOURS)?,
            ports: Places::open(checked(folder, &PORTS)?.as_fd())
                .map_err(|source| unreadable(PORTS.name, source))?,
            tx: typed(folder, &TX)?,
            vlans: typed(folder, &VLANS)?,
            martians: typed(folder, &MARTIANS)?,
            prefix_counters: typed(folder, &PREFIX_CNT)?,
            port_counters: typed(folder, &PORT_CNT)?,
            rib: Growing::open(folder, &RIB, route_capacity.saturating_mul(2))?,
            counter_ids: typed(folder, &COUNTER_IDS)?,
            inside: Growing::open(folder, &INSIDE, route_capacity)?,
            kept: Growing::open(folder, &KEPT, notes(route_capacity))?,
            headers_fd: checked(folder, &HEADERS)?,
            active_fd: checked(folder, &ACTIVE)?,
            classes_fd: checked(folder, &CLASSES)?,
            carried_fd: checked(folder, &CARRIED)?,
            pieces: typed(folder, &PIECES)?,
            pieces_fd: raw(folder, &PIECES)?,
            trees_fd: checked(folder, &TREES)?,
            fib6_fd: raw(folder, &FIB6)?,
            fib4_fd: raw(folder, &FIB4)?,
            tables_fd: raw(folder, &TABLES)?,
            next_hops_fd: raw(folder, &NEXT_HOPS)?,
            counter_ids_fd: raw(folder, &COUNTER_IDS)?,
            route_capacity,
        })
    }

    /// Removes maps that a killed writer had not yet put in the place of smaller ones.
    pub(super) fn tidy(&self) -> Result<(), Error> {
        let tidied = self.rib.tidy();
        tidied
            .and_then(|()| self.inside.tidy())
            .and_then(|()| self.kept.tidy())
            .map_err(|source| Error::Map {
                map: RIB.name,
                action: "remove what a killed writer left of it",
                source: MapError::IoError(source),
            })
    }

    /// Every entry of the RIB, in no order.
    pub(super) fn each_rib(&self, entry: impl FnMut(RibKey, RibEntry)) -> Result<(), Error> {
        self.rib.each(entry)
    }

    /// Every key that something is noted of, in no order.
    pub(super) fn each_inside(&self, entry: impl FnMut(u64, u32)) -> Result<(), Error> {
        self.inside.each(entry)
    }

    /// What the slots of stage 1 have counted beyond what they hold now, by key, in no order; a
    /// key may come twice.
    pub(super) fn each_beyond(
        &self,
        mut entry: impl FnMut(u64, PrefixCounters),
    ) -> Result<(), Error> {
        sys::read_hash(self.carried_fd.as_fd(), &mut entry)
            .map_err(|source| unreadable(CARRIED.name, source))?;
        self.kept.each(entry)
    }

    /// Every prefix with its counter, in no order.
    pub(super) fn each_counter(&self, mut entry: impl FnMut(PrefixKey, u32)) -> Result<(), Error> {
        // Family 0 is no prefix: it holds the high-water mark of the identities.
        sys::read_hash(self.counter_ids_fd.as_fd(), |key: PrefixKey, id| {
            if key.family != 0 {
                entry(key, id);
            }
        })
        .map_err(|source| unreadable(COUNTER_IDS.name, source))
    }
}

pub(super) fn unreadable(map: &'static str, source: std::io::Error) -> Error {
    Error::Map {
        map,
        action: "read it",
        source: MapError::IoError(source),
    }
}

/// The question that `netmesh trace` asks, and the ring the answers come in.
pub(super) fn trace(
    folder: &Folder,
) -> Result<(Array<MapData, TraceFilter>, RingBuf<MapData>), Error> {
    Ok((typed(folder, &TRACE)?, typed(folder, &EVENTS)?))
}

/// The pinned map's own description, once it is known to fit.
pub(super) fn check(folder: &Folder, shape: &Shape) -> Result<MapInfo, Error> {
    let path = folder.map(shape.name);
    let info = MapInfo::from_pin(&path).map_err(|source| Error::Map {
        map: shape.name,
        action: "open its pin",
        source,
    })?;
    let kind = info.map_type().map_or(u32::MAX, |kind| kind as u32);
    let entries = shape.entries.unwrap_or(info.max_entries());
    for (field, found, expected) in [
        ("type", kind, shape.kind as u32),
        ("key size", info.key_size(), shape.key as u32),
        ("value size", info.value_size(), shape.value as u32),
        ("capacity", info.max_entries(), entries),
        ("flags", info.map_flags(), shape.flags),
    ] {
        if found != expected {
            return Err(Error::Incompatible {
                map: shape.name,
                field,
                found: found.into(),
                expected: expected.into(),
                path: folder.path.clone(),
            });
        }
    }
    Ok(info)
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(
    folder: &Folder,
    shape: &Shape,
) -> Result<T, Error> {
    check(folder, shape)?;
    let fail = |source| Error::Map {
        map: shape.name,
        action: "open its pin",
        source,
    };
    let data = MapData::from_pin(folder.map(shape.name)).map_err(fail)?;
    T::try_from(Map::from_map_data(data).map_err(fail)?).map_err(fail)
}

fn checked(folder: &Folder, shape: &Shape) -> Result<OwnedFd, Error> {
    check(folder, shape)?;
    raw(folder, shape)
}

pub(super) fn raw(folder: &Folder, shape: &Shape) -> Result<OwnedFd, Error> {
    sys::open(&folder.map(shape.name)).map_err(|source| unreadable(shape.name, source))
}

/// The map has no such key.
pub(super) fn not_found(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        MapError::IoError(error) => error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

/// A fresh trie allocates without waiting and may be refused memory that is there a moment later.
pub(super) fn retry_memory(
    mut insert: impl FnMut() -> Result<(), MapError>,
) -> Result<(), MapError> {
    let mut attempt = 0;
    loop {
        match insert() {
            Err(MapError::SyscallError(error))
                if attempt < 5 && error.io_error.raw_os_error() == Some(libc::ENOMEM) =>
            {
                attempt += 1;
                std::thread::sleep(std::time::Duration::from_millis(1 << attempt));
            }
            other => return other,
        }
    }
}

/// What a lookup found.
pub(super) fn found<T>(result: Result<T, MapError>, map: &'static str) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if not_found(&error) => Ok(None),
        Err(source) => Err(Error::Map {
            map,
            action: "read it",
            source,
        }),
    }
}

/// A removal; what is not there is as good as removed.
pub(super) fn gone(
    result: Result<(), MapError>,
    map: &'static str,
    action: &'static str,
) -> Result<(), Error> {
    match result {
        Err(source) if !not_found(&source) => Err(Error::Map {
            map,
            action,
            source,
        }),
        _ => Ok(()),
    }
}
