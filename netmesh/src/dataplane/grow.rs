//! A new table in the place of stage 1, while packets are forwarded.
//!
//! ```text
//!   copy ─► what finds no room, into the trie ─► TABLES[new] ─► ACTIVE = new
//!        ─► every program on the old one has ended
//!        ─► tallies of the old one to the new ─► TABLES[old] = none, memory is given back
//!        ─► out of the trie what had found no room in the old table, and has in the new
//! ```
//! A reader asks the one or the other, each of them whole. It counts in the table it has asked,
//! which stays until no program knows it any more. A writer that is killed leaves both: the next
//! one takes up the tallies of the table that is not asked.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use netmesh_common::lines::tally::{self, Tally};
use netmesh_common::lines::{self, Backing as _, Direction, NO_PIECE, Shape, Table, prefix_of};
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
        let coming = self.come_in()?;
        let classes = live.iter().map(|(_, class, _)| *class);
        let classes = classes.chain(coming.iter().map(|(_, class)| *class)).max();
        let room = (live.len() + coming.len()) as u64 + more.max(live.len() as u64 / 4);
        let shape = Shape::for_entries(room, class.max(classes.unwrap_or(0)), random()?);
        let next = 1 - self.lines.generation();
        self.make_table(next, shape)?;
        let table = self.lines.of(next);
        let put =
            |key, class, longer| table.is_some_and(|table| table.put(key, class, longer).is_ok());
        let mut homeless = Vec::new();
        for (key, class, longer) in live {
            if !put(key, class, longer) && !longer {
                homeless.push((key, class));
            }
        }
        // The trie answers for these from the moment the new table is asked.
        for (key, class) in homeless {
            if let Some(class) = self.lines.class(class) {
                lines::copy_out(self, key, class)?;
            }
        }
        let table = self.lines.of(next);
        let put =
            |key, class, longer| table.is_some_and(|table| table.put(key, class, longer).is_ok());
        let come: Vec<u64> = coming
            .into_iter()
            .filter_map(|(key, class)| put(key, class, false).then_some(key))
            .collect();
        self.lines.set_generation(next);
        self.left.extend(come);
        Ok(())
    }

    /// The keys that are in the trie for want of room here, and their classes.
    fn come_in(&mut self) -> Result<Vec<(u64, u32)>, Error> {
        let mut coming = Vec::new();
        for (key, note) in self.notes()? {
            let first = self.lines.table();
            let first = first.is_some_and(|table| table.reader().find(key).is_some());
            if note.inside != 0 || first {
                continue;
            }
            if let Some(entry) = self.in_trie(&prefix_of(key))?
                && let Some(index) = self.class(entry.class())?
            {
                coming.push((key, index));
            }
        }
        Ok(coming)
    }

    /// Takes the tallies of the table that is not asked to where they belong, and frees it.
    pub(super) fn take_up_the_other(&mut self) -> Result<(), Error> {
        let other = 1 - self.lines.generation();
        if self.lines.pieces(other) == 0 {
            return Ok(());
        }
        self.wait_for_readers()?;
        self.take_up(other)?;
        self.clear_table(other)
    }

    /// Returns when no program runs any more that may have seen what was there before.
    pub(super) fn wait_for_readers(&mut self) -> Result<(), Error> {
        // The kernel does so before an update of this map returns: `maybe_wait_bpf_programs` in
        // kernel/bpf/syscall.c.
        let nobodys = self.maps.tables.get(&NO_PIECE, 0);
        let nobodys = nobodys.map_err(|source| failed("open a piece", source))?;
        let put = self.maps().tables.set(NO_PIECE, &nobodys, 0);
        put.map_err(|source| failed("wait for its readers", source))
    }

    fn take_up(&mut self, other: u32) -> Result<(), Error> {
        let kept = match (self.lines.of(other), self.lines.table()) {
            (Some(old), Some(new)) => moved(&old, &new),
            _ => Vec::new(),
        };
        self.keep_all(kept)
    }

    /// Takes the tallies of a table that is none of this instance's to where they belong. No program
    /// may ask it any more.
    pub(super) fn take_up_foreign(&mut self, old: &Table<'_>) -> Result<(), Error> {
        let kept = match self.lines.table() {
            Some(new) => moved(old, &new),
            None => Vec::new(),
        };
        self.keep_all(kept)
    }

    fn keep_all(&mut self, kept: Vec<(u64, PrefixCounters)>) -> Result<(), Error> {
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

/// Moves the tallies of one table into another; returns those that find no place there, by key.
fn moved(old: &Table<'_>, new: &Table<'_>) -> Vec<(u64, PrefixCounters)> {
    let mut kept = Vec::new();
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
    kept
}

fn add(sum: &mut PrefixCounters, direction: Direction, more: Tally) {
    let (packets, bytes) = match direction {
        Direction::To => (&mut sum.to_packets, &mut sum.to_bytes),
        Direction::From => (&mut sum.from_packets, &mut sum.from_bytes),
    };
    *packets += more.packets;
    *bytes += more.bytes;
}
