//! The two stages of the table as the order of changes in `netmesh_common::lines` sees them.

use std::collections::BTreeMap;

use aya::maps::lpm_trie::Key;
use netmesh_common::lines::{
    self, Backing, Class, Note, Place, SlotCounter, Table, place, prefix_of,
};
use netmesh_common::table::{FibEntry, Origin, PrefixKey};

use super::instance::View;
use super::maps::{found, gone, retry_memory};
use super::{Error, Instance};

/// Keys that are in both stages until readers are waited for: that takes about 10 ms.
const MOST_LEFT: usize = 4096;

impl View {
    /// What the programs find for the first address of a prefix, not looking beyond its length.
    pub(super) fn read_fib(&self, prefix: &PrefixKey) -> Result<Option<FibEntry>, Error> {
        let key = match place(prefix) {
            Place::Exact(key) | Place::Inside(key) => Some(key),
            Place::Elsewhere => None,
        };
        let first = || key.and_then(|key| self.read_first(key, prefix.family));
        if let Some(entry) = first() {
            return Ok(Some(entry));
        }
        let second = self.read_trie(prefix)?;
        // Nobody waits for this process: it may have gone from the trie to stage 1 meanwhile.
        Ok(first().or(second))
    }

    fn read_first(&self, key: u64, family: u8) -> Option<FibEntry> {
        let hit = self.lines.table()?.reader().find(key)?;
        let counter = SlotCounter {
            generation: self.lines.generation(),
            slot: hit.slot,
        };
        Some(
            self.lines
                .class(hit.class)?
                .entry(family, counter.counter()),
        )
    }

    /// What the trie holds for exactly this prefix.
    pub(super) fn in_trie(&self, prefix: &PrefixKey) -> Result<Option<FibEntry>, Error> {
        let entry = self.read_trie(prefix)?;
        Ok(entry.filter(|entry| entry.prefix_length == prefix.length))
    }

    /// What the trie says of it, not looking beyond its length.
    pub(super) fn read_trie(&self, prefix: &PrefixKey) -> Result<Option<FibEntry>, Error> {
        let length = u32::from(prefix.length);
        let a = prefix.address;
        if prefix.family == 6 {
            found(self.maps.fib6.get(&Key::new(length, a), 0), "FIB6")
        } else {
            let key = Key::new(length, [a[0], a[1], a[2], a[3]]);
            found(self.maps.fib4.get(&key, 0), "FIB4")
        }
    }
}

impl Instance {
    pub(super) fn write_trie(&mut self, prefix: &PrefixKey, entry: FibEntry) -> Result<(), Error> {
        self.trees.touch(prefix);
        let length = u32::from(prefix.length);
        let a = prefix.address;
        let maps = self.maps();
        let result = if prefix.family == 6 {
            let key = Key::new(length, a);
            retry_memory(|| maps.fib6.insert(&key, entry, 0))
        } else {
            let key = Key::new(length, [a[0], a[1], a[2], a[3]]);
            retry_memory(|| maps.fib4.insert(&key, entry, 0))
        };
        result.map_err(|source| self.full_or("FIB", source))
    }

    /// Makes the notes of stage 1 anew from the prefixes there are, in any order. Of those a killed
    /// writer had not come to none is in the trie yet; publishing them notes them.
    pub(super) fn renew_notes(
        &mut self,
        prefixes: impl Iterator<Item = PrefixKey>,
    ) -> Result<(), Error> {
        let mut inside = BTreeMap::<u64, u32>::new();
        let mut exact = Vec::new();
        for prefix in prefixes {
            match place(&prefix) {
                Place::Exact(key) => exact.push(key),
                Place::Inside(key) if self.in_trie(&prefix)?.is_some() => {
                    *inside.entry(key).or_default() += 1;
                }
                _ => {}
            }
        }
        exact.sort_unstable();
        for (key, note) in self.notes()? {
            let itself = note.itself && self.in_trie(&prefix_of(key))?.is_some();
            let inside = inside.remove(&key).unwrap_or(0);
            if note != (Note { inside, itself }) {
                self.set_note(key, Note { inside, itself })?;
            }
        }
        for (key, inside) in inside {
            let itself = false;
            self.set_note(key, Note { inside, itself })?;
        }
        if let Some(table) = self.lines.table() {
            table.recount();
            let live = table.entries().filter(|entry| entry.class.is_some());
            for entry in live.filter(|entry| exact.binary_search(&entry.key).is_err()) {
                table.kill(entry.key);
            }
        }
        Ok(())
    }

    /// Every note, in no order.
    pub(super) fn notes(&self) -> Result<Vec<(u64, Note)>, Error> {
        let mut notes = Vec::new();
        self.maps
            .each_inside(|key, word| notes.push((key, Note::from_word(word))))?;
        Ok(notes)
    }

    /// Takes out of the trie what stage 1 answers for by now.
    pub(super) fn retire(&mut self) -> Result<(), Error> {
        if self.left.is_empty() {
            return Ok(());
        }
        self.wait_for_readers()?;
        for key in std::mem::take(&mut self.left) {
            lines::retire(self, key)?;
        }
        Ok(())
    }
}

impl Backing for Instance {
    type Error = Error;

    fn trie_get(&self, prefix: &PrefixKey) -> Result<Option<FibEntry>, Error> {
        self.in_trie(prefix)
    }

    fn trie_put(&mut self, prefix: &PrefixKey, entry: FibEntry) -> Result<(), Error> {
        self.write_trie(prefix, entry)
    }

    fn trie_remove(&mut self, prefix: &PrefixKey) -> Result<(), Error> {
        self.trees.touch(prefix);
        let length = u32::from(prefix.length);
        let a = prefix.address;
        let maps = self.maps();
        let result = if prefix.family == 6 {
            maps.fib6.remove(&Key::new(length, a))
        } else {
            maps.fib4
                .remove(&Key::new(length, [a[0], a[1], a[2], a[3]]))
        };
        gone(result, "FIB", "remove a prefix")
    }

    fn note(&self, key: u64) -> Result<Note, Error> {
        Ok(Note::from_word(self.maps.inside.get(&key)?.unwrap_or(0)))
    }

    fn set_note(&mut self, key: u64, note: Note) -> Result<(), Error> {
        self.trees.touch(&prefix_of(key));
        if note.word() == 0 {
            return self.maps().inside.remove(&key, "remove a note");
        }
        let written = self.maps().inside.insert(&key, &note.word());
        written.map_err(|source| self.full_or("INSIDE", source))
    }

    fn table(&self) -> Option<Table<'_>> {
        self.lines.table()
    }

    fn class(&mut self, class: Class) -> Result<Option<u32>, Error> {
        let (lines, classes) = self.classes();
        Ok(classes.put(lines, class))
    }

    fn class_at(&self, index: u32) -> Option<Class> {
        self.lines.class(index)
    }

    fn grow(&mut self, class: u32) -> Result<(), Error> {
        self.renew(0, class)
    }

    fn counter(&mut self, prefix: &PrefixKey, origin: u8) -> Result<u32, Error> {
        let origin = Origin::from_u8(origin).unwrap_or(Origin::Kernel);
        self.counter_of(prefix, origin)
    }

    fn leave(&mut self, key: u64) -> Result<(), Error> {
        self.left.push(key);
        if self.left.len() < MOST_LEFT {
            return Ok(());
        }
        self.retire()
    }
}
