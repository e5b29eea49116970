//! Stage 1 of the table, filled by hand.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{Array, HashMap, MapData};
use netmesh_common::lines::tally::{self, Tally};
use netmesh_common::lines::{Bucket, Class, Direction, HEADER, Place, Shape, Table, WORDS, place};
use netmesh_common::table::{Port, PrefixCounters, PrefixKey};

use super::alone;
use super::kernel::Kernel;
use crate::cases::reference::{Hook, Router};
use crate::cases::{Outcome, all, lab};

/// Keys of the table: any that mix well.
const KEYS: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
];

impl Kernel {
    /// Puts what stage 1 can hold into stage 1 as well.
    pub(super) fn fill_lines(&mut self, router: &Router) {
        let shape = Shape::for_entries(1, 1, KEYS);
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
        let mut classes: Array<_, u64> =
            self.object.map_mut("CLASSES").unwrap().try_into().unwrap();
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
            self.object.map_mut("HEADERS").unwrap().try_into().unwrap();
        headers.set(1, table.header(), 0).unwrap();
        let mut active: Array<_, u64> = self.object.map_mut("ACTIVE").unwrap().try_into().unwrap();
        active.set(0, 1, 0).unwrap();
        let mut tables: ArrayOfMaps<_, Array<MapData, Bucket>> =
            self.object.map_mut("TABLES").unwrap().try_into().unwrap();
        tables.set(1, &lines, 0).unwrap();
        self.lines = Some(lines);
    }
}

/// The prefix behind [`lab::C_SEGMENT`], as a key.
const SEGMENT: u64 = 0x2a02_1802_005e_0001;

/// The packet that brings a tally half way has all of it carried, and the next one starts anew.
#[test]
fn a_tally_is_carried_before_it_runs_over() {
    alone(|| {
        let cases = all();
        let towards = |outcome: &Outcome| match outcome {
            Outcome::Forward { to, .. } if to.counter == lab::C_SEGMENT => Some(*to),
            _ => None,
        };
        let case = cases
            .iter()
            .find(|case| {
                case.flags & Port::LAYER3 == 0 && case.xdp.as_ref().and_then(towards).is_some()
            })
            .unwrap();
        let one = case.xdp.as_ref().and_then(towards).unwrap();
        for (hook, before) in [
            (
                Hook::Xdp,
                Tally {
                    packets: (1 << 26) - 1,
                    bytes: 1000,
                },
            ),
            (
                Hook::Tc,
                Tally {
                    packets: 7,
                    bytes: (1 << 35) - 1,
                },
            ),
        ] {
            let mut kernel = Kernel::new();
            kernel.fill(&lab::router(case.flags));
            kernel.fill_lines(&lab::router(case.flags));
            let slots = kernel.slots.iter();
            let slot = *slots
                .clone()
                .find(|(_, c)| **c == lab::C_SEGMENT)
                .unwrap()
                .0;
            let (bucket, word) = (1 + slot / 8, tally::word(Direction::To, slot as usize % 8));
            let lines = kernel.lines.as_mut().unwrap();
            let mut words = lines.get(&bucket, 0).unwrap();
            words.0[word] = before.packets << 36 | before.bytes;
            lines.set(bucket, words, 0).unwrap();

            let mut out = [0; 4096];
            let mut held = Vec::new();
            for _ in 0..2 {
                match hook {
                    Hook::Xdp => drop(kernel.run_xdp(&case.input.bytes, &mut out)),
                    Hook::Tc => drop(kernel.run_tc(&case.input, &mut out)),
                }
                let lines = kernel.lines.as_ref().unwrap();
                held.push(lines.get(&bucket, 0).unwrap().0[word]);
            }
            assert_eq!(held[0], 0, "{hook:?}");
            let second = Tally {
                packets: one.packets,
                bytes: one.bytes,
            };
            assert_eq!(tally::unpacked(held[1]), second, "{hook:?}");
            let carried: HashMap<_, u64, PrefixCounters> =
                kernel.object.map("CARRIED").unwrap().try_into().unwrap();
            let sum = carried.get(&SEGMENT, 0).unwrap();
            let wanted = PrefixCounters {
                to_packets: before.packets + one.packets,
                to_bytes: before.bytes + one.bytes,
                ..PrefixCounters::default()
            };
            assert_eq!(sum, wanted, "{hook:?}");
        }
    });
}
