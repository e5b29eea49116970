//! The order in which a prefix comes into the two stages and leaves them.
//!
//! The trie is changed first, and has the new state before stage 1 answers with it. What stage 1
//! does not answer, the trie does; so whenever a writer is killed, every answer is the old or the
//! new one of the prefix that was being changed, and right for all others. Only the notes of
//! stage 1 (which prefixes have longer ones inside) may then lag, and are made anew from the RIB.

use super::{Class, Place, Table, place};
use crate::table::{FibEntry, PrefixKey};

/// Where the stages are kept.
pub trait Backing {
    /// What can go wrong there.
    type Error;

    /// What the trie holds for exactly this prefix.
    ///
    /// # Errors
    /// When it cannot be read.
    fn trie_get(&self, prefix: &PrefixKey) -> Result<Option<FibEntry>, Self::Error>;

    /// Puts an entry into the trie, or in the place of the one that is there.
    ///
    /// # Errors
    /// When it is full or cannot be written.
    fn trie_put(&mut self, prefix: &PrefixKey, entry: FibEntry) -> Result<(), Self::Error>;

    /// Takes a prefix out of the trie, if it is there.
    ///
    /// # Errors
    /// When it cannot be written.
    fn trie_remove(&mut self, prefix: &PrefixKey) -> Result<(), Self::Error>;

    /// How many prefixes of the trie lie inside the one with this key.
    ///
    /// # Errors
    /// When the note cannot be read.
    fn inside(&self, key: u64) -> Result<u32, Self::Error>;

    /// Notes how many there are.
    ///
    /// # Errors
    /// When the note cannot be written.
    fn set_inside(&mut self, key: u64, count: u32) -> Result<(), Self::Error>;

    /// Stage 1; `None` when there is none, and the trie alone answers.
    fn table(&self) -> Option<Table<'_>>;

    /// The index of a class, given out on first use; `None` when there is none left.
    ///
    /// # Errors
    /// When the table of classes cannot be read.
    fn class(&mut self, class: Class) -> Result<Option<u32>, Self::Error>;

    /// Makes room in stage 1 for one more key and this class, if it can. Called when a key is to
    /// be added and [`Table::is_full`], or the class does not fit.
    ///
    /// # Errors
    /// When there was no memory for a larger table; the old one is as it was.
    fn grow(&mut self, class: u32) -> Result<(), Self::Error>;

    /// The counter of a prefix that the trie answers for.
    ///
    /// # Errors
    /// When there is none left for a prefix that must be counted.
    fn counter(&mut self, prefix: &PrefixKey, origin: u8) -> Result<u32, Self::Error>;

    /// The counter of a prefix that stage 1 answers for, if it has one from a time when it did
    /// not.
    ///
    /// # Errors
    /// When the counters cannot be read.
    fn known_counter(&self, prefix: &PrefixKey) -> Result<u32, Self::Error>;
}

/// Puts a prefix into the stages, or changes it.
///
/// # Errors
/// The backing's; the prefix then is what it was.
pub fn publish<B: Backing>(
    stages: &mut B,
    prefix: &PrefixKey,
    class: Class,
) -> Result<(), B::Error> {
    match place(prefix) {
        Place::Exact(key) => {
            let longer = stages.inside(key)? != 0;
            exact(stages, prefix, key, class, longer)
        }
        Place::Inside(key) => {
            let new = stages.trie_get(prefix)?.is_none();
            let count = stages.inside(key)?;
            if new && count == 0 {
                again(stages, key, true)?;
            }
            let counter = stages.counter(prefix, class.origin)?;
            if new {
                stages.set_inside(key, count.saturating_add(1))?;
            }
            let result = write(stages, prefix, class, counter);
            if new && result.is_err() {
                stages.set_inside(key, count)?;
                if count == 0 {
                    again(stages, key, false)?;
                }
            }
            result
        }
        Place::Elsewhere => {
            let counter = stages.counter(prefix, class.origin)?;
            write(stages, prefix, class, counter)
        }
    }
}

/// Takes a prefix out of the stages; the next shorter one answers.
///
/// # Errors
/// The backing's.
pub fn withdraw<B: Backing>(stages: &mut B, prefix: &PrefixKey) -> Result<(), B::Error> {
    match place(prefix) {
        Place::Exact(key) => {
            // Packets are counted by stage 1 until it lets go.
            stages.trie_remove(prefix)?;
            if let Some(table) = stages.table() {
                table.kill(key);
            }
            Ok(())
        }
        Place::Inside(key) => {
            if stages.trie_get(prefix)?.is_none() {
                return Ok(());
            }
            stages.trie_remove(prefix)?;
            let count = stages.inside(key)?.saturating_sub(1);
            stages.set_inside(key, count)?;
            if count == 0 {
                again(stages, key, false)?;
            }
            Ok(())
        }
        Place::Elsewhere => stages.trie_remove(prefix),
    }
}

/// The prefix with this key, if there is one, has got its first longer one or lost its last.
fn again<B: Backing>(stages: &mut B, key: u64, longer: bool) -> Result<(), B::Error> {
    let prefix = super::prefix_of(key);
    match stages.trie_get(&prefix)? {
        Some(entry) => exact(stages, &prefix, key, class_of(&entry), longer),
        None => Ok(()),
    }
}

fn exact<B: Backing>(
    stages: &mut B,
    prefix: &PrefixKey,
    key: u64,
    class: Class,
    longer: bool,
) -> Result<(), B::Error> {
    let index = room(stages, key, class)?;
    // A slot is the key's from here on: nothing can fail once the trie has been written.
    let slot = |table: Table<'_>| table.reserve(key).is_ok();
    let answers = !longer && index.is_some() && stages.table().is_some_and(slot);
    let counter = if answers {
        stages.known_counter(prefix)?
    } else {
        stages.counter(prefix, class.origin)?
    };
    write(stages, prefix, class, counter)?;
    if let Some(table) = stages.table()
        && table.get(key).is_some()
    {
        match index {
            Some(index) => drop(table.put(key, index, longer)),
            None => table.kill(key),
        }
    }
    Ok(())
}

/// The index of the class, once stage 1 has room for it and the key.
fn room<B: Backing>(stages: &mut B, key: u64, class: Class) -> Result<Option<u32>, B::Error> {
    let Some(index) = stages.class(class)? else {
        return Ok(None);
    };
    let tight = stages.table().is_some_and(|table| {
        index > table.shape().max_class() || (table.is_full() && table.get(key).is_none())
    });
    if tight {
        stages.grow(index)?;
    }
    let fits = |table: Table<'_>| index <= table.shape().max_class();
    Ok(stages.table().is_some_and(fits).then_some(index))
}

fn write<B: Backing>(
    stages: &mut B,
    prefix: &PrefixKey,
    class: Class,
    counter: u32,
) -> Result<(), B::Error> {
    let entry = FibEntry {
        prefix_length: prefix.length,
        ..class.entry(prefix.family, counter)
    };
    if stages.trie_get(prefix)? == Some(entry) {
        return Ok(());
    }
    stages.trie_put(prefix, entry)
}

/// The class of an entry.
const fn class_of(entry: &FibEntry) -> Class {
    Class {
        next_hop: entry.next_hop,
        action: entry.action,
        origin: entry.origin,
    }
}
