//! Stage 1 of the table, filled by hand from a router's prefixes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{Array, Map, MapData};
use aya::{Ebpf, EbpfLoader};
use netmesh::dataplane::make_tables;
use netmesh::dataplane::pin::ensure_bpffs;
use netmesh_common::lines::tally;
use netmesh_common::lines::{
    Bucket, Class, Direction, HEADER, Place, SLOTS, Shape, Table, WORDS, place,
};
use netmesh_common::table::{FibEntry, PrefixCounters, PrefixKey};
use nix::unistd::gettid;

use crate::cases::reference::Prefix;

/// Keys of the table: any that mix well.
const KEYS: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
];

/// Loads an object with tables as the product makes them: a kernel takes only such as are alike.
pub(crate) fn load(object: &[u8], counters: u32) -> Ebpf {
    ensure_bpffs().unwrap();
    let pin = PathBuf::from(format!("/sys/fs/bpf/nmt-tables-{}", gettid()));
    make_tables(&pin).unwrap();
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
    loaded.unwrap()
}

/// A table in the kernel, and the classes of its entries.
pub(crate) struct StageOne {
    classes: Array<MapData, u64>,
    /// Its buckets.
    pub(crate) lines: Array<MapData, Bucket>,
    /// The counter of each slot in use, as the router names it.
    pub(crate) slots: BTreeMap<u32, u32>,
}

impl StageOne {
    /// An empty table, which the programs of an object ask from now on.
    pub(crate) fn make(object: &mut Ebpf) -> Self {
        let shape = Shape::for_entries(1, 1, KEYS);
        // BPF_F_MMAPABLE, BPF_F_INNER_MAP.
        let mut lines: Array<MapData, Bucket> =
            Array::create(shape.buckets(), 1 << 10 | 1 << 12).unwrap();
        let memory = memory(shape);
        let table = Table::make(&memory, shape).unwrap();
        // The header.
        lines.set(0, words(&memory, 0), 0).unwrap();
        let mut headers: Array<_, [u64; HEADER]> = taken(object, "HEADERS");
        headers.set(1, table.header(), 0).unwrap();
        let mut active: Array<_, u64> = taken(object, "ACTIVE");
        active.set(0, 1, 0).unwrap();
        let mut tables: ArrayOfMaps<_, Array<MapData, Bucket>> = taken(object, "TABLES");
        tables.set(1, &lines, 0).unwrap();
        Self {
            classes: taken(object, "CLASSES"),
            lines,
            slots: BTreeMap::new(),
        }
    }

    /// Makes what stage 1 can hold of these prefixes all it holds.
    pub(crate) fn fill(&mut self, fib: &[(Prefix, FibEntry)]) {
        let shape = Shape::for_entries(1, 1, KEYS);
        let memory = memory(shape);
        let table = Table::make(&memory, shape).unwrap();
        let mut slots = BTreeMap::new();
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
            slots.insert(slot, entry.counter);
        }
        let before = std::mem::replace(&mut self.slots, slots);
        let buckets: BTreeSet<u32> = before
            .keys()
            .chain(self.slots.keys())
            .map(|slot| bucket(*slot))
            .collect();
        for index in buckets {
            self.lines.set(index, words(&memory, index), 0).unwrap();
        }
    }

    /// What the slots have counted, by the router's counter.
    pub(crate) fn counted(&self, mut each: impl FnMut(u32, PrefixCounters)) {
        for (slot, counter) in &self.slots {
            let words = self.lines.get(&bucket(*slot), 0).unwrap().0;
            let held =
                |direction| tally::unpacked(words[tally::word(direction, *slot as usize % 8)]);
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
pub(crate) fn bucket(slot: u32) -> u32 {
    1 + slot / SLOTS as u32
}

fn memory(shape: Shape) -> Vec<AtomicU64> {
    let words = shape.buckets() as usize * WORDS;
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

fn words(memory: &[AtomicU64], bucket: u32) -> Bucket {
    let words = memory[bucket as usize * WORDS..][..WORDS].iter();
    let words: Vec<u64> = words.map(|word| word.load(SeqCst)).collect();
    Bucket(words.try_into().unwrap())
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
