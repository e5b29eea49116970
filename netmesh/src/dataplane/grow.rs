//! A new table in the place of stage 1, while packets are forwarded.
//!
//! ```text
//!   copy ─► TABLES[new] ─► ACTIVE = new ─► every program on the old one has ended
//!        ─► tallies of the old one to the new ─► TABLES[old] = none, memory is given back
//! ```
//! A reader asks the one or the other, each of them whole. It counts in the table it has asked,
//! which stays until no program knows it any more. A writer that is killed leaves both: the next
//! one takes up the tallies of the table that is not asked.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use netmesh_common::lines::tally::{self, Tally};
use netmesh_common::lines::{Direction, NO_PIECE, Shape, prefix_of};
use netmesh_common::table::PrefixCounters;

use super::lines::{Classes, failed, random};
use super::{Error, Instance};

impl Instance {
    /// Makes room in stage 1 for so many more prefixes, so that it need not grow while they come.
    ///
    /// # Errors
    /// When there is no memory for it; the table is what it was.
    pub fn reserve(&mut self, more: u64) -> Result<(), Error> {
        let Some(table) = self.lines.table() else {
            return Ok(());
        };
        if table.used() + more <= table.shape().full_at() {
            return Ok(());
        }
        self.note()?;
        self.renew(more, 0)
    }

    /// Puts a new table in the place of the one that is there, with room for so many more prefixes
    /// and classes up to this one. What is dead stays behind.
    pub(super) fn renew(&mut self, more: u64, class: u32) -> Result<(), Error> {
        self.begin_renewal(more, class)?;
        self.take_up_the_other()?;
        self.free_classes();
        Ok(())
    }

    /// Up to where the new table is asked and the old one still there.
    pub(super) fn begin_renewal(&mut self, more: u64, class: u32) -> Result<(), Error> {
        self.take_up_the_other()?;
        let Some(old) = self.lines.table() else {
            return Ok(());
        };
        let live: Vec<_> = old
            .entries()
            .filter_map(|entry| Some((entry.key, entry.class?, entry.longer)))
            .collect();
        let classes = live.iter().map(|(_, class, _)| *class).max();
        let room = live.len() as u64 + more.max(live.len() as u64 / 4);
        let shape = Shape::for_entries(room, class.max(classes.unwrap_or(0)), random()?);
        let next = 1 - self.lines.generation();
        self.make_table(next, shape)?;
        let table = self.lines.of(next);
        let mut homeless = Vec::new();
        for (key, class, longer) in live {
            let put = table.and_then(|table| table.put(key, class, longer).ok());
            if put.is_none() {
                homeless.push(key);
            }
        }
        // The trie answers for these from now on, so it must count them.
        for key in homeless {
            let prefix = prefix_of(key);
            if let Some(mut entry) = self.in_trie(&prefix)? {
                let origin = netmesh_common::table::Origin::from_u8(entry.origin);
                let origin = origin.unwrap_or(netmesh_common::table::Origin::Kernel);
                entry.counter = self.counter_of(&prefix, origin)?;
                self.write_trie(&prefix, entry)?;
            }
        }
        self.lines.set_generation(next);
        Ok(())
    }

    /// Takes the tallies of the table that is not asked to where they belong, and frees it.
    pub(super) fn take_up_the_other(&mut self) -> Result<(), Error> {
        let other = 1 - self.lines.generation();
        if self.lines.pieces(other) == 0 {
            return Ok(());
        }
        // The kernel lets an update of this map return when no program runs any more that may
        // have seen what was there before.
        let nobodys = self.maps.tables.get(&NO_PIECE, 0);
        let nobodys = nobodys.map_err(|source| failed("open a piece", source))?;
        let put = self.maps().tables.set(NO_PIECE, &nobodys, 0);
        put.map_err(|source| failed("wait for its readers", source))?;
        self.take_up(other)?;
        self.clear_table(other)
    }

    fn take_up(&mut self, other: u32) -> Result<(), Error> {
        let mut kept: Vec<(u64, PrefixCounters)> = Vec::new();
        if let (Some(old), Some(new)) = (self.lines.of(other), self.lines.table()) {
            for entry in old.entries() {
                let slot = new.get(entry.key).map(|entry| entry.slot);
                let mut left = PrefixCounters::default();
                for direction in [Direction::To, Direction::From] {
                    let word = old.tally(entry.slot, direction);
                    let word = word.map_or(0, |word| word.swap(0, Ordering::AcqRel));
                    if word == 0 {
                        continue;
                    }
                    let home = slot.and_then(|slot| new.tally(slot, direction));
                    match home.filter(|_| !tally::is_due(word) && !tally::is_carrying(word)) {
                        Some(home) => drop(home.fetch_add(word, Ordering::AcqRel)),
                        None => add(&mut left, direction, tally::unpacked(word)),
                    }
                }
                if left != PrefixCounters::default() {
                    kept.push((entry.key, left));
                }
            }
        }
        for (key, more) in kept {
            self.keep(key, &more)?;
        }
        Ok(())
    }

    /// Adds to what user space remembers of a prefix's packets.
    fn keep(&mut self, key: u64, more: &PrefixCounters) -> Result<(), Error> {
        let before = self.maps.kept.get(&key)?.unwrap_or_default();
        let sum = PrefixCounters {
            to_packets: before.to_packets + more.to_packets,
            to_bytes: before.to_bytes + more.to_bytes,
            from_packets: before.from_packets + more.from_packets,
            from_bytes: before.from_bytes + more.from_bytes,
        };
        match self.maps().kept.insert(&key, &sum) {
            // No more can be remembered of prefixes that are gone: as with counters, they are
            // given away when all are taken.
            Err(_) if before == PrefixCounters::default() => Ok(()),
            result => result.map_err(|source| Error::Map {
                map: "KEPT",
                action: "write it",
                source,
            }),
        }
    }

    fn free_classes(&mut self) {
        let used: BTreeSet<u32> = match self.lines.table() {
            Some(table) => table.entries().filter_map(|entry| entry.class).collect(),
            None => return,
        };
        let (lines, classes) = self.classes();
        Classes::keep(classes, lines, |index| used.contains(&index));
    }
}

fn add(sum: &mut PrefixCounters, direction: Direction, more: Tally) {
    let (packets, bytes) = match direction {
        Direction::To => (&mut sum.to_packets, &mut sum.to_bytes),
        Direction::From => (&mut sum.from_packets, &mut sum.from_bytes),
    };
    *packets += more.packets;
    *bytes += more.bytes;
}
