//! The two stages of the table as the order of changes in `netmesh_common::lines` sees them.

use aya::maps::lpm_trie::Key;
use netmesh_common::lines::{Backing, Class, Place, Table, place};
use netmesh_common::table::{FibEntry, Origin, PrefixKey};

use super::instance::View;
use super::maps::{found, gone, retry_memory};
use super::{Error, Instance};

impl View {
    /// What the programs find for the first address of a prefix, not looking beyond its length.
    pub(super) fn read_fib(&self, prefix: &PrefixKey) -> Result<Option<FibEntry>, Error> {
        let key = match place(prefix) {
            Place::Exact(key) | Place::Inside(key) => Some(key),
            Place::Elsewhere => None,
        };
        if let Some(key) = key
            && let Some(table) = self.lines.table()
            && let Some(hit) = table.reader().find(key)
            && let Some(class) = self.lines.class(hit.class)
        {
            let counter = netmesh_common::lines::SlotCounter {
                generation: self.lines.generation(),
                slot: hit.slot,
            };
            return Ok(Some(class.entry(prefix.family, counter.counter())));
        }
        self.read_trie(prefix)
    }

    /// What the trie holds for exactly this prefix.
    pub(super) fn in_trie(&self, prefix: &PrefixKey) -> Result<Option<FibEntry>, Error> {
        let entry = self.read_trie(prefix)?;
        Ok(entry.filter(|entry| entry.prefix_length == prefix.length))
    }

    fn read_trie(&self, prefix: &PrefixKey) -> Result<Option<FibEntry>, Error> {
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

    /// Makes the notes of stage 1 anew from the prefixes there are.
    pub(super) fn renew_notes(
        &mut self,
        prefixes: impl Iterator<Item = PrefixKey>,
    ) -> Result<(), Error> {
        let mut inside = std::collections::BTreeMap::<u64, u32>::new();
        let mut exact = std::collections::BTreeSet::new();
        for prefix in prefixes {
            match place(&prefix) {
                Place::Exact(key) => drop(exact.insert(key)),
                Place::Inside(key) => *inside.entry(key).or_default() += 1,
                Place::Elsewhere => {}
            }
        }
        let mut noted = Vec::new();
        self.maps
            .each_inside(|key, count| noted.push((key, count)))?;
        for (key, count) in noted {
            if inside.get(&key) != Some(&count) {
                self.set_inside(key, 0)?;
            }
        }
        for (key, count) in inside {
            self.set_inside(key, count)?;
        }
        if let Some(table) = self.lines.table() {
            table.recount();
            let live = table.entries().filter(|entry| entry.class.is_some());
            for entry in live.filter(|entry| !exact.contains(&entry.key)) {
                table.kill(entry.key);
            }
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

    fn inside(&self, key: u64) -> Result<u32, Error> {
        Ok(self.maps.inside.get(&key)?.unwrap_or(0))
    }

    fn set_inside(&mut self, key: u64, count: u32) -> Result<(), Error> {
        if count == 0 {
            return self.maps().inside.remove(&key, "remove a note");
        }
        let written = self.maps().inside.insert(&key, &count);
        written.map_err(|source| self.full_or("INSIDE", source))
    }

    fn table(&self) -> Option<Table<'_>> {
        self.lines.table()
    }

    fn class(&mut self, class: Class) -> Result<Option<u32>, Error> {
        let (lines, classes) = self.classes();
        Ok(classes.put(lines, class))
    }

    fn grow(&mut self, class: u32) -> Result<(), Error> {
        self.renew(0, class)
    }

    fn counter(&mut self, prefix: &PrefixKey, origin: u8) -> Result<u32, Error> {
        let origin = Origin::from_u8(origin).unwrap_or(Origin::Kernel);
        self.counter_of(prefix, origin)
    }

    fn known_counter(&self, prefix: &PrefixKey) -> Result<u32, Error> {
        Ok(self.identity(prefix)?.unwrap_or(FibEntry::UNCOUNTED))
    }
}
