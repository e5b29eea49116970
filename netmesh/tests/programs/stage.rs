//! Stage 1 of the table, filled by hand.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{Array, MapData};
use netmesh_common::lines::{Bucket, Class, HEADER, Place, Shape, Table, WORDS, place};
use netmesh_common::table::PrefixKey;

use super::Kernel;
use super::cases::reference::Router;

impl Kernel {
    /// Puts what stage 1 can hold into stage 1 as well.
    pub(super) fn fill_lines(&mut self, router: &Router) {
        let shape = Shape::for_entries(1, 1, [3; 4]);
        let memory: Vec<AtomicU64> = (0..shape.buckets() as usize * WORDS)
            .map(|_| AtomicU64::new(0))
            .collect();
        let table = Table::make(&memory, shape).unwrap();
        let place_of = |(network, length): &(Vec<u8>, u8)| {
            let mut address = [0; 16];
            address[..network.len()].copy_from_slice(network);
            place(&PrefixKey {
                address,
                family: if network.len() == 16 { 6 } else { 4 },
                length: *length,
                reserved: [0; 2],
            })
        };
        let mut classes: Array<_, u64> = self.ebpf.map_mut("CLASSES").unwrap().try_into().unwrap();
        for (class, (prefix, entry)) in (1..).zip(&router.fib) {
            let Place::Exact(key) = place_of(prefix) else {
                continue;
            };
            let longer = |(other, _): &(_, _)| place_of(other) == Place::Inside(key);
            let longer = router.fib.iter().any(longer);
            let word = Class {
                next_hop: entry.next_hop,
                action: entry.action,
                origin: entry.origin,
            };
            classes.set(class, word.word(), 0).unwrap();
            let slot = table.put(key, class, longer).unwrap();
            self.slots.insert(slot, entry.counter);
        }
        assert!(self.slots.len() > 10, "there is something to be found");

        // BPF_F_MMAPABLE, BPF_F_INNER_MAP.
        let mut lines = Array::create(shape.buckets(), 1 << 10 | 1 << 12).unwrap();
        for (index, words) in (0..).zip(memory.chunks_exact(WORDS)) {
            let words: Vec<u64> = words.iter().map(|word| word.load(SeqCst)).collect();
            if words.iter().any(|word| *word != 0) {
                lines
                    .set(index, Bucket(words.try_into().unwrap()), 0)
                    .unwrap();
            }
        }
        let mut headers: Array<_, [u64; HEADER]> =
            self.ebpf.map_mut("HEADERS").unwrap().try_into().unwrap();
        headers.set(1, table.header(), 0).unwrap();
        let mut active: Array<_, u64> = self.ebpf.map_mut("ACTIVE").unwrap().try_into().unwrap();
        active.set(0, 1, 0).unwrap();
        let mut tables: ArrayOfMaps<_, Array<MapData, Bucket>> =
            self.ebpf.map_mut("TABLES").unwrap().try_into().unwrap();
        tables.set(1, &lines, 0).unwrap();
        self.lines = Some(lines);
    }
}
