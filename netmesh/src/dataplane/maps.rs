//! The pinned maps, opened only after their shape has been checked: the library does not.

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray};
use netmesh_common::table::{
    FibEntry, NeighbourKey, NextHop, Port, PortCounters, PrefixCounters, PrefixKey, RibEntry,
    RibKey,
};

use super::Error;
use super::pin::Folder;

/// Every map of an instance.
pub(super) struct Maps {
    pub(super) fib6: LpmTrie<MapData, [u8; 16], FibEntry>,
    pub(super) fib4: LpmTrie<MapData, [u8; 4], FibEntry>,
    pub(super) next_hops: Array<MapData, NextHop>,
    pub(super) neighbours: HashMap<MapData, NeighbourKey, u32>,
    pub(super) ports: HashMap<MapData, u32, Port>,
    pub(super) tx: DevMapHash<MapData>,
    pub(super) prefix_counters: PerCpuArray<MapData, PrefixCounters>,
    pub(super) port_counters: PerCpuArray<MapData, PortCounters>,
    pub(super) rib: HashMap<MapData, RibKey, RibEntry>,
    pub(super) counter_ids: HashMap<MapData, PrefixKey, u32>,
}

/// Names, in the order they are pinned.
pub(super) const NAMES: [&str; 10] = [
    "FIB6",
    "FIB4",
    "NEXT_HOPS",
    "NEIGHBOURS",
    "PORTS",
    "TX",
    "PREFIX_CNT",
    "PORT_CNT",
    "RIB",
    "COUNTER_IDS",
];

impl Maps {
    /// Opens all maps of a folder.
    pub(super) fn open(folder: &Folder) -> Result<Self, Error> {
        Ok(Self {
            fib6: typed(open(folder, "FIB6", 20, size_of::<FibEntry>())?, "FIB6")?,
            fib4: typed(open(folder, "FIB4", 8, size_of::<FibEntry>())?, "FIB4")?,
            next_hops: typed(
                open(folder, "NEXT_HOPS", 4, size_of::<NextHop>())?,
                "NEXT_HOPS",
            )?,
            neighbours: typed(
                open(folder, "NEIGHBOURS", size_of::<NeighbourKey>(), 4)?,
                "NEIGHBOURS",
            )?,
            ports: typed(open(folder, "PORTS", 4, size_of::<Port>())?, "PORTS")?,
            tx: typed(open(folder, "TX", 4, 8)?, "TX")?,
            prefix_counters: typed(
                open(folder, "PREFIX_CNT", 4, size_of::<PrefixCounters>())?,
                "PREFIX_CNT",
            )?,
            port_counters: typed(
                open(folder, "PORT_CNT", 4, size_of::<PortCounters>())?,
                "PORT_CNT",
            )?,
            rib: typed(
                open(folder, "RIB", size_of::<RibKey>(), size_of::<RibEntry>())?,
                "RIB",
            )?,
            counter_ids: typed(
                open(folder, "COUNTER_IDS", size_of::<PrefixKey>(), 4)?,
                "COUNTER_IDS",
            )?,
        })
    }
}

fn open(folder: &Folder, map: &'static str, key: usize, value: usize) -> Result<Map, Error> {
    let path = folder.map(map);
    let fail = |source| Error::Map {
        map,
        action: "open its pin",
        source,
    };
    let info = MapInfo::from_pin(&path).map_err(fail)?;
    for (field, found, expected) in [
        ("key size", info.key_size(), key),
        ("value size", info.value_size(), value),
    ] {
        if found as usize != expected {
            return Err(Error::Incompatible {
                map,
                field,
                found: u64::from(found),
                expected: expected as u64,
                path,
            });
        }
    }
    Map::from_map_data(MapData::from_pin(&path).map_err(fail)?).map_err(fail)
}

/// The map as its type; another kind of map under that name is refused.
fn typed<T: TryFrom<Map, Error = MapError>>(map: Map, name: &'static str) -> Result<T, Error> {
    T::try_from(map).map_err(|source| Error::Map {
        map: name,
        action: "use it as its type",
        source,
    })
}
