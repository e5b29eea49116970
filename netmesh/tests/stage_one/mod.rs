//! Stage 1 of the table, filled by hand from a router's prefixes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{Array, Map, MapData};
use aya::{Ebpf, EbpfLoader};
use netmesh::dataplane::pin::ensure_bpffs;
use netmesh::dataplane::{FirstTable, make_tables};
use netmesh_common::lines::tally;
use netmesh_common::lines::{Class, Direction, HEADER, MAX_PIECES, Place, SLOTS, WORDS, place};
use netmesh_common::table::{FibEntry, Port, PortPlace, PrefixCounters, PrefixKey};
use nix::unistd::gettid;

use crate::cases::reference::Prefix;

/// Loads an object with tables as the product makes them: a kernel takes only such as are alike.
pub(crate) fn load(object: &[u8], counters: u32) -> (Ebpf, FirstTable) {
    ensure_bpffs().unwrap();
    let pin = PathBuf::from(format!("/sys/fs/bpf/nmt-tables-{}", gettid()));
    let first = make_tables(&pin).unwrap();
    let mut loader = EbpfLoader::new();
    for name in [
        "FIB6",
        "FIB4",
        "RIB",
        "COUNTER_IDS",
        "CARRIED",
        "KEPT",
        "INSIDE",
    ] {
        loader.map_max_entries(name, 256);
    }
    loader.map_max_entries("PREFIX_CNT", counters);
    loader.map_pin_path("TABLES", &pin);
    let loaded = loader.load(object);
    std::fs::remove_file(&pin).unwrap();
    (loaded.unwrap(), first)
}

/// A table in the kernel, and the classes of its entries.
pub(crate) struct StageOne {
    classes: Array<MapData, u64>,
    first: FirstTable,
    /// The counter of each slot in use, as the router names it.
    pub(crate) slots: BTreeMap<u32, u32>,
}

impl StageOne {
    /// An empty table, which the programs of an object ask from now on: as that of the second
    /// generation.
    pub(crate) fn make(object: &mut Ebpf, first: FirstTable) -> Self {
        let mut tables: ArrayOfMaps<_, MapData> = taken(object, "TABLES");
        for place in 0..first.table().unwrap().shape().pieces() {
            let piece = tables.get(&place, 0).unwrap();
            tables.set(MAX_PIECES + place, &piece, 0).unwrap();
        }
        let mut headers: Array<_, [u64; HEADER]> = taken(object, "HEADERS");
        headers.set(1, first.header(), 0).unwrap();
        let mut active: Array<_, u64> = taken(object, "ACTIVE");
        active.set(0, 1, 0).unwrap();
        Self {
            classes: taken(object, "CLASSES"),
            first,
            slots: BTreeMap::new(),
        }
    }

    /// Makes what stage 1 can hold of these prefixes all it holds.
    pub(crate) fn fill(&mut self, fib: &[(Prefix, FibEntry)]) {
        let buckets: BTreeSet<usize> = self.slots.keys().map(|slot| bucket(*slot)).collect();
        for bucket in buckets {
            for word in self.first.words().iter().skip(bucket * WORDS).take(WORDS) {
                word.store(0, SeqCst);
            }
        }
        self.slots.clear();
        let table = self.first.table().unwrap();
        table.recount();
        for (class, (prefix, entry)) in (1..).zip(fib) {
            let Place::Exact(key) = place_of(prefix) else {
                continue;
            };
            let word = Class {
                next_hop: entry.next_hop,
                action: entry.action,
                origin: entry.origin,
            };
            let longer = |(other, _): &(_, _)| place_of(other) == Place::Inside(key);
            let longer = fib.iter().any(longer);
            self.classes.set(class, word.word(), 0).unwrap();
            let slot = table.put(key, class, longer).unwrap();
            self.slots.insert(slot, entry.counter);
        }
    }

    /// A slot's tally as it stands in memory.
    pub(crate) fn word(&self, slot: u32, direction: Direction) -> &AtomicU64 {
        let table = self.first.table().unwrap();
        table.tally(slot, direction).unwrap()
    }

    /// What the slots have counted, by the router's counter.
    pub(crate) fn counted(&self, mut each: impl FnMut(u32, PrefixCounters)) {
        for (slot, counter) in &self.slots {
            let held = |direction| tally::unpacked(self.word(*slot, direction).load(SeqCst));
            let (to, from) = (held(Direction::To), held(Direction::From));
            each(
                *counter,
                PrefixCounters {
                    to_packets: to.packets,
                    to_bytes: to.bytes,
                    from_packets: from.packets,
                    from_bytes: from.bytes,
                },
            );
        }
    }
}

/// The bucket of a slot; the first one is the header.
fn bucket(slot: u32) -> usize {
    1 + slot as usize / SLOTS
}

fn taken<T: TryFrom<Map>>(object: &mut Ebpf, name: &str) -> T {
    object.take_map(name).unwrap().try_into().ok().unwrap()
}

fn place_of((network, length): &Prefix) -> Place {
    let mut address = [0; 16];
    address[..network.len()].copy_from_slice(network);
    place(&PrefixKey {
        address,
        family: if network.len() == 16 { 6 } else { 4 },
        length: *length,
        reserved: [0; 2],
    })
}

/// A port as it stands in the table.
pub(crate) fn in_place(ifindex: u32, port: Port) -> PortPlace {
    PortPlace {
        ifindex,
        reserved: 0,
        port,
    }
}
