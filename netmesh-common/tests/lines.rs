//! The two stages together give the answers of longest-prefix match, whatever is done to them and
//! whenever they are asked.

mod stages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use netmesh_common::lines::tally::{self, CLAIM, Tally};
use netmesh_common::lines::{
    Direction, Memory, Shape, SlotCounter, Table, WORDS, key_at, prefix_of, publish, withdraw,
};
use netmesh_common::table::{FibEntry, PrefixKey};
use proptest::prelude::*;

use stages::{Model, Stages, class as class_of, memory, probes, universe};

const RANDOM: [u64; 4] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
];

/// Marsaglia's xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A key of IPv6 unicast.
fn key(random: &mut Random) -> u64 {
    random.next() >> 3 | 1 << 61
}

/// Every key is found with its own class, in both its buckets, at any load, and no other is.
#[test]
fn a_table_gives_back_what_was_put_into_it() {
    for (keys, room) in [(1_000, 0), (16_384, 64), (28_000, 3_000), (40_000, 20_000)] {
        let shape = Shape::for_entries(1, 1, RANDOM);
        let memory = memory(&shape);
        let table = Table::make(&memory, shape).unwrap();
        let mut random = Random(0x5eed);
        let mut model = BTreeMap::new();
        let mut refused = 0;
        for n in 0..keys {
            let (key, class) = (key(&mut random), 1 + n as u32 % 1000);
            match table.put(key, class, false) {
                Ok(_) => drop(model.insert(key, class)),
                Err(_) => refused += 1,
            }
        }
        assert!(refused <= room, "{refused} of {keys} found no room");
        assert_eq!(table.used(), model.len() as u64);
        let reader = table.reader();
        for (&key, &class) in &model {
            let hit = reader.find(key).unwrap();
            assert_eq!(hit.class, class);
            assert_eq!(key_at(&reader, hit.slot), Some(key));
        }
        for _ in 0..keys {
            let key = key(&mut random);
            assert_eq!(reader.find(key).is_some(), model.contains_key(&key));
        }
        let found: BTreeMap<u64, u32> = table
            .entries()
            .map(|entry| (entry.key, entry.class.unwrap()))
            .collect();
        assert_eq!(found, model);
        // The dead are not found, keep their slots, and come back to them.
        for &key in model.keys().step_by(3) {
            let slot = table.get(key).unwrap().slot;
            table.kill(key);
            assert_eq!(reader.find(key), None);
            assert_eq!(table.put(key, 7, false), Ok(slot));
            table.kill(key);
        }
        for (n, (&key, &class)) in model.iter().enumerate() {
            let found = reader.find(key).map(|hit| hit.class);
            assert_eq!(found, (n % 3 != 0).then_some(class));
        }
        table.recount();
        assert_eq!(table.used(), model.len() as u64);
        assert_eq!(Table::open(&memory).map(|t| *t.shape()), Some(shape));
    }
}

#[test]
fn a_class_that_does_not_fit_is_refused() {
    let shape = Shape::for_entries(1, 1, RANDOM);
    let memory = memory(&shape);
    let table = Table::make(&memory, shape).unwrap();
    let most = shape.max_class();
    assert!(table.put(1, most, false).is_ok());
    assert_eq!(table.reader().find(1).unwrap().class, most);
    assert!(table.put(1, most + 1, false).is_err());
    assert!(table.put(1, 0, false).is_err());
    assert_eq!(table.reader().find(1).unwrap().class, most);
    let larger = Shape::for_entries(1, most + 1, RANDOM);
    assert!(larger.max_class() > most);
    assert!(Shape::for_entries(16 << 20, 1, RANDOM).full_at() >= 16 << 20);
}

#[test]
fn memory_that_holds_no_table_is_refused() {
    let shape = Shape::for_entries(1, 1, RANDOM);
    let words = memory(&shape);
    assert!(Table::open(&words).is_none());
    assert!(Table::make(&words[..WORDS], shape).is_none());
    Table::make(&words, shape).unwrap();
    assert!(Table::open(&words[..words.len() - 1]).is_none());
}

proptest! {
    #[test]
    fn a_key_and_its_prefix_are_one(upper in any::<u64>(), v4 in any::<[u8; 3]>()) {
        use netmesh_common::lines::{Place, place};
        let key = if upper >> 56 == 0xff { upper ^ 1 << 63 } else { upper };
        prop_assert_eq!(place(&prefix_of(key)), Place::Exact(key));
        let [a, b, c] = v4;
        let mut address = [0; 16];
        address[..3].copy_from_slice(&[a, b, c]);
        let prefix = PrefixKey { address, family: 4, length: 24, reserved: [0; 2] };
        let Place::Exact(key) = place(&prefix) else { panic!("{prefix:?}") };
        prop_assert_eq!(prefix_of(key), prefix);
    }

    #[test]
    fn a_slot_is_a_counter_of_its_own(generation in 0..2_u32, slot in 0..1_u32 << 27, id in 0..1_u32 << 31) {
        let counter = SlotCounter { generation, slot };
        prop_assert_eq!(SlotCounter::from_counter(counter.counter()), Some(counter));
        prop_assert_ne!(counter.counter(), FibEntry::UNCOUNTED);
        prop_assert_eq!(SlotCounter::from_counter(id), None);
    }

    /// Whatever is carried when it is due arrives, and nothing else is lost.
    #[test]
    fn a_tally_loses_nothing(adds in prop::collection::vec((1..100_000_u32, 0..tally::MOST_BYTES), 1..400)) {
        let (mut word, mut carried, mut wanted) = (0_u64, Tally::default(), Tally::default());
        for (packets, bytes) in adds {
            word = word.wrapping_add(tally::packed(packets, bytes));
            wanted = Tally { packets: wanted.packets + u64::from(packets), bytes: wanted.bytes + bytes };
            if tally::is_due(word) {
                let before = word;
                word |= CLAIM;
                prop_assert!(tally::is_carrying(word) && !tally::is_due(word));
                let part = tally::unpacked(before);
                carried = Tally { packets: carried.packets + part.packets, bytes: carried.bytes + part.bytes };
                // Another one counts meanwhile.
                word = word.wrapping_add(tally::packed(1, 60));
                wanted = Tally { packets: wanted.packets + 1, bytes: wanted.bytes + 60 };
                word = word.wrapping_sub(tally::settled(before));
            }
            let rest = tally::unpacked(word);
            let sum = Tally { packets: carried.packets + rest.packets, bytes: carried.bytes + rest.bytes };
            prop_assert_eq!(sum, wanted);
        }
    }
}

/// What is done to a prefix: a class comes or it goes.
fn changes() -> impl Strategy<Value = Vec<(usize, Option<u32>)>> {
    let one = (0..universe().len(), prop::option::weighted(0.65, 1..40_u32));
    prop::collection::vec(one, 1..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn answers_are_those_of_longest_prefix_match(changes in changes(), rooms in prop::option::of(0..6_usize)) {
        let prefixes = universe();
        let mut stages = Stages::new(RANDOM);
        stages.classes_fit = rooms.map_or(usize::MAX, |rooms| rooms * 8);
        let mut model = Model::default();
        for (index, class) in changes {
            let prefix = prefixes[index];
            match class {
                Some(next_hop) => {
                    publish(&mut stages, &prefix, class_of(next_hop)).unwrap();
                    model.insert(prefix, next_hop);
                }
                None => {
                    withdraw(&mut stages, &prefix).unwrap();
                    model.remove(&prefix);
                }
            }
            for probe in probes() {
                let found = stages.shared.lookup(&probe).map(|entry| (entry.prefix_length, entry.next_hop));
                prop_assert_eq!(found, model.lookup(&probe), "{:?}", probe);
            }
        }
        // Stage 1 answers for what it can, and the trie holds nothing else.
        stages.retire();
        if rooms.is_none() {
            for prefix in model.keys() {
                prop_assert!(stages.is_in_its_place(prefix), "{:?}", prefix);
            }
        }
        for prefix in model.keys() {
            withdraw(&mut stages, prefix).unwrap();
        }
        stages.retire();
        prop_assert!(stages.is_bare());
    }
}

/// A reader that asks while a writer writes gets an answer that was right at some moment between
/// question and answer. One that is kept from going on between the two stages while more than one
/// change is made may have the later ones without that of the prefix it had missed in stage 1.
#[test]
fn readers_beside_a_writer_are_always_right() {
    const STEPS: usize = 30_000;
    let (prefixes, probes) = (universe(), probes());
    let mut random = Random(0xbead);
    let changes: Vec<(PrefixKey, Option<u32>)> = (0..STEPS)
        .map(|_| {
            let prefix = prefixes[random.next() as usize % prefixes.len()];
            let class =
                (!random.next().is_multiple_of(3)).then(|| 1 + (random.next() % 900) as u32);
            (prefix, class)
        })
        .collect();
    let mut model = Model::default();
    let mut truth = vec![vec![None; probes.len()]];
    // Without the prefix that stage 1 may hold; and whether it was there.
    let mut second = vec![vec![(None, false); probes.len()]];
    for (prefix, class) in &changes {
        match class {
            Some(class) => drop(model.insert(*prefix, *class)),
            None => drop(model.remove(prefix)),
        }
        truth.push(probes.iter().map(|probe| model.lookup(probe)).collect());
        second.push(probes.iter().map(|probe| model.second(probe)).collect());
    }

    let mut stages = Stages::new(RANDOM);
    let shared = stages.shared.clone();
    let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for (reader, seed) in [(0, 0x11), (1, 0x22)] {
            let (shared, probes, truth, second) = (&shared, &probes, &truth, &second);
            let (begun, done, over, asked) = (&begun, &done, &over, &asked);
            scope.spawn(move || {
                let mut random = Random(seed);
                while !over.load(Ordering::SeqCst) {
                    let n = random.next() as usize % probes.len();
                    let from = done.load(Ordering::SeqCst);
                    let found = shared.lookup_as(reader, &probes[n]);
                    let to = begun.load(Ordering::SeqCst);
                    let found = found.map(|entry| (entry.prefix_length, entry.next_hop));
                    assert!(
                        (from..=to).any(|step| {
                            let missed = (from..=step).any(|before| !second[before][n].1);
                            truth[step][n] == found || missed && second[step][n].0 == found
                        }),
                        "{:?} between {from} and {to}: {found:?}, not {:?}",
                        probes[n],
                        (from..=to)
                            .map(|step| truth[step][n])
                            .collect::<BTreeSet<_>>()
                    );
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for (step, (prefix, class)) in changes.iter().enumerate() {
            begun.store(step + 1, Ordering::SeqCst);
            match class {
                Some(next_hop) => {
                    let class = class_of(*next_hop);
                    publish(&mut stages, prefix, class).unwrap();
                }
                None => withdraw(&mut stages, prefix).unwrap(),
            }
            if step % 1000 == 999 {
                stages.renew(3 + random.next() % 4);
            }
            if step % 50 == 49 {
                stages.retire();
            }
            done.store(step + 1, Ordering::SeqCst);
            if step.is_multiple_of(64) {
                thread::yield_now();
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(asked.load(Ordering::Relaxed) > 1000);
}

/// A writer killed between any two of its stores leaves answers that are old or new for the prefix
/// it was at, and unchanged for all others; and so is every answer at every step it makes.
#[test]
fn a_killed_writer_leaves_right_answers() {
    let (prefixes, all) = (universe(), probes());
    let mut random = Random(0xdead);
    let mut interrupted = 0;
    for round in 0..3000 {
        let mut stages = Stages::new(RANDOM);
        // At times there is no room for most.
        stages.classes_fit = [usize::MAX, 3, 5][round % 3];
        let mut model = Model::default();
        for n in 0..30 {
            let prefix = prefixes[random.next() as usize % prefixes.len()];
            let class = 1 + (random.next() % 9) as u32;
            publish(&mut stages, &prefix, class_of(class)).unwrap();
            model.insert(prefix, class);
            if n == round % 60 {
                stages.retire();
                stages.renew(4);
            }
        }
        if round % 2 == 0 {
            stages.retire();
        }
        let prefix = prefixes[random.next() as usize % prefixes.len()];
        let before = model.clone();
        let withdrawn = random.next().is_multiple_of(2);
        if withdrawn {
            model.remove(&prefix);
        } else {
            model.insert(prefix, 77);
        }
        let right: Vec<_> = all
            .iter()
            .map(|probe| (*probe, [before.lookup(probe), model.lookup(probe)]))
            .collect();
        stages.watch = Some(Box::new(move |shared| {
            for (probe, right) in &right {
                let found = shared.lookup(probe);
                let found = found.map(|entry| (entry.prefix_length, entry.next_hop));
                assert!(
                    right.contains(&found),
                    "{prefix:?} {probe:?} {found:?} {right:?}"
                );
            }
        }));
        stages.dies_after = Some(round % 13);
        let died = if withdrawn {
            withdraw(&mut stages, &prefix).is_err()
        } else {
            publish(&mut stages, &prefix, class_of(77)).is_err()
        };
        interrupted += usize::from(died);
        // The next writer does it again, and all is as if nothing had happened.
        stages.dies_after = None;
        // What goes stands in the RIB until it is gone.
        stages.mend(if died && withdrawn { &before } else { &model });
        stages.watch = None;
        match model.get(&prefix) {
            Some(&class) => publish(&mut stages, &prefix, class_of(class)).unwrap(),
            None => withdraw(&mut stages, &prefix).unwrap(),
        }
        stages.retire();
        for probe in &all {
            let found = stages
                .shared
                .lookup(probe)
                .map(|entry| (entry.prefix_length, entry.next_hop));
            assert_eq!(found, model.lookup(probe), "{prefix:?} {probe:?}");
        }
        if round % 3 == 0 {
            for prefix in model.keys() {
                assert!(stages.is_in_its_place(prefix), "{prefix:?}");
            }
        }
    }
    assert!(interrupted > 500, "{interrupted}");
}

/// The tallies of a slot are where a reader's counter says.
#[test]
fn a_slot_has_a_tally_for_each_direction() {
    let shape = Shape::for_entries(1, 1, RANDOM);
    let memory = memory(&shape);
    let table = Table::make(&memory, shape).unwrap();
    let slot = table.put(42, 1, false).unwrap();
    for (direction, n) in [(Direction::To, 3), (Direction::From, 5)] {
        let (bucket, place) = SlotCounter {
            generation: 0,
            slot,
        }
        .bucket();
        let at = bucket as usize * WORDS + tally::word(direction, place);
        memory[at].fetch_add(tally::packed(n, 100), Ordering::Relaxed);
        let word = table
            .tally(slot, direction)
            .unwrap()
            .load(Ordering::Relaxed);
        let wanted = Tally {
            packets: u64::from(n),
            bytes: 100,
        };
        assert_eq!(tally::unpacked(word), wanted);
    }
    assert_eq!(Memory(&memory).find(42).unwrap().slot, slot);
}
