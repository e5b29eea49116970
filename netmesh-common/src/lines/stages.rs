//! The order in which a prefix comes into the two stages and leaves them.
//!
//! The trie holds what stage 1 does not answer: every prefix that is shorter or longer than those
//! of stage 1, those that have longer ones inside, and those that found no room. Where a prefix
//! goes from one stage to the other it is in both for a while:
//!
//! ```text
//!   stage 1 ─► trie     note ─► into the trie ─► stage 1 lets go
//!   trie ─► stage 1     stage 1 answers ─► all who had not found it there have ended ─► out of
//!                       the trie ─► note
//! ```
//! So whenever a writer is killed, every answer is the old or the new one of the prefix that was
//! being changed, and right for all others. The notes (what may be in the trie beside stage 1) are
//! made before and given up after what they speak of: they may say too much, and are then made anew
//! from the RIB, never too little.
//!
//! A reader that misses a prefix in stage 1, and comes to the trie only after further changes, has
//! those without the prefix: as if they had been made in another order. A prefix that leaves stage 1
//! for the trie is in the trie before: readers find it in one of them as long as the CPU loads in
//! order (x86-64); one that does not (arm64) may miss it for that moment.

use super::{Class, Place, Table, place, prefix_of};
use crate::table::{FibEntry, PrefixKey};

/// What is remembered of a prefix that stage 1 may hold, but does not answer alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// How many prefixes of the trie lie inside it, at most.
    pub inside: u32,
    /// It may be in the trie itself.
    pub itself: bool,
}

impl Note {
    const ITSELF: u32 = 1 << 31;

    /// As it is kept; 0 when there is nothing to note.
    #[must_use]
    pub const fn word(self) -> u32 {
        let itself = if self.itself { Self::ITSELF } else { 0 };
        self.inside & !Self::ITSELF | itself
    }

    /// The note behind a word.
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        Self {
            inside: word & !Self::ITSELF,
            itself: word & Self::ITSELF != 0,
        }
    }
}

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

    /// What is noted of a key.
    ///
    /// # Errors
    /// When the note cannot be read.
    fn note(&self, key: u64) -> Result<Note, Self::Error>;

    /// Notes it.
    ///
    /// # Errors
    /// When the note cannot be written.
    fn set_note(&mut self, key: u64, note: Note) -> Result<(), Self::Error>;

    /// Stage 1; `None` when there is none, and the trie alone answers.
    fn table(&self) -> Option<Table<'_>>;

    /// The index of a class, given out on first use; `None` when there is none left.
    ///
    /// # Errors
    /// When the table of classes cannot be read.
    fn class(&mut self, class: Class) -> Result<Option<u32>, Self::Error>;

    /// The class with this index.
    fn class_at(&self, index: u32) -> Option<Class>;

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

    /// Stage 1 has begun to answer for a key that is in the trie as well. Once every reader has
    /// ended that may have missed it in stage 1, it is to be [`retire`]d; there is no hurry.
    ///
    /// # Errors
    /// When it could not be done at once.
    fn leave(&mut self, key: u64) -> Result<(), Self::Error>;
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
        Place::Exact(key) => exact(stages, prefix, key, class),
        Place::Inside(key) => {
            let new = stages.trie_get(prefix)?.is_none();
            let counter = stages.counter(prefix, class.origin)?;
            if !new {
                return write(stages, prefix, class, counter);
            }
            inside(stages, key, 1)?;
            let first = let_go(stages, key);
            let result = first.and_then(|()| write(stages, prefix, class, counter));
            if result.is_err() {
                inside(stages, key, -1)?;
                settle(stages, key)?;
            }
            result
        }
        Place::Elsewhere => {
            let counter = stages.counter(prefix, class.origin)?;
            write(stages, prefix, class, counter)
        }
    }
}

/// Takes a prefix out of the stages.
///
/// # Errors
/// The backing's.
pub fn withdraw<B: Backing>(stages: &mut B, prefix: &PrefixKey) -> Result<(), B::Error> {
    match place(prefix) {
        Place::Exact(key) => {
            let note = stages.note(key)?;
            // One of them answers and is the last to go: stage 1 unless it has let go.
            if note.itself {
                stages.trie_remove(prefix)?;
            }
            if let Some(table) = stages.table() {
                table.kill(key);
            }
            if note.itself {
                let itself = false;
                stages.set_note(key, Note { itself, ..note })?;
            }
            Ok(())
        }
        Place::Inside(key) => {
            if stages.trie_get(prefix)?.is_none() {
                return Ok(());
            }
            stages.trie_remove(prefix)?;
            inside(stages, key, -1)?;
            settle(stages, key)
        }
        Place::Elsewhere => stages.trie_remove(prefix),
    }
}

/// Puts a key that stage 1 answers for into the trie too: before stage 1 can let go of it, or a
/// table is asked that has no room for it.
///
/// # Errors
/// The backing's; stage 1 answers as before.
pub fn copy_out<B: Backing>(stages: &mut B, key: u64, class: Class) -> Result<(), B::Error> {
    let prefix = prefix_of(key);
    let counter = stages.counter(&prefix, class.origin)?;
    let note = stages.note(key)?;
    if !note.itself {
        let itself = true;
        stages.set_note(key, Note { itself, ..note })?;
    }
    let result = write(stages, &prefix, class, counter);
    if result.is_err() && !note.itself {
        stages.set_note(key, note)?;
    }
    result
}

/// Takes a key that stage 1 answers for out of the trie, when [`Backing::leave`] says.
///
/// # Errors
/// The backing's.
pub fn retire<B: Backing>(stages: &mut B, key: u64) -> Result<(), B::Error> {
    let note = stages.note(key)?;
    if note.inside != 0 || !note.itself {
        return Ok(());
    }
    let prefix = prefix_of(key);
    if answers(stages, key) {
        stages.trie_remove(&prefix)?;
    } else if stages.trie_get(&prefix)?.is_some() {
        return Ok(());
    }
    stages.set_note(key, Note::default())
}

/// Stage 1 answers for a key of the trie, if it can.
fn settle<B: Backing>(stages: &mut B, key: u64) -> Result<(), B::Error> {
    let note = stages.note(key)?;
    if note.inside != 0 || !note.itself {
        return Ok(());
    }
    if answers(stages, key) {
        return stages.leave(key);
    }
    let Some(entry) = stages.trie_get(&prefix_of(key))? else {
        return stages.set_note(key, Note::default());
    };
    let Some(index) = slot_for(stages, key, entry.class())? else {
        return Ok(());
    };
    put(stages, key, index, false);
    stages.leave(key)
}

/// Stage 1 lets go of a key, if it has answered for it.
fn let_go<B: Backing>(stages: &mut B, key: u64) -> Result<(), B::Error> {
    let entry = stages.table().and_then(|table| table.get(key));
    let Some(index) = entry.and_then(|entry| entry.class.filter(|_| !entry.longer)) else {
        return Ok(());
    };
    let Some(class) = stages.class_at(index) else {
        return Ok(());
    };
    copy_out(stages, key, class)?;
    put(stages, key, index, true);
    Ok(())
}

fn exact<B: Backing>(
    stages: &mut B,
    prefix: &PrefixKey,
    key: u64,
    class: Class,
) -> Result<(), B::Error> {
    make_room(stages, key, class)?;
    let note = stages.note(key)?;
    let index = slot_for(stages, key, class)?;
    if let Some(index) = index
        && note.inside == 0
    {
        put(stages, key, index, false);
        return if note.itself {
            stages.leave(key)
        } else {
            Ok(())
        };
    }
    debug_assert!(prefix_of(key) == *prefix);
    copy_out(stages, key, class)?;
    match index {
        Some(index) => put(stages, key, index, true),
        None => {
            if let Some(table) = stages.table() {
                table.kill(key);
            }
        }
    }
    Ok(())
}

/// Makes room in stage 1 for a key and its class, if it can be had.
fn make_room<B: Backing>(stages: &mut B, key: u64, class: Class) -> Result<(), B::Error> {
    let Some(index) = stages.class(class)? else {
        return Ok(());
    };
    let tight = stages.table().is_some_and(|table| {
        index > table.shape().max_class() || (table.is_full() && table.get(key).is_none())
    });
    if tight {
        stages.grow(index)?;
    }
    Ok(())
}

/// The index of the class, when stage 1 has a slot for the key and it fits there.
fn slot_for<B: Backing>(stages: &mut B, key: u64, class: Class) -> Result<Option<u32>, B::Error> {
    let Some(index) = stages.class(class)? else {
        return Ok(None);
    };
    let takes = stages
        .table()
        .is_some_and(|table| index <= table.shape().max_class() && table.reserve(key).is_ok());
    Ok(takes.then_some(index))
}

/// Of a key and a class that [`slot_for`] has found room for.
fn put<B: Backing>(stages: &B, key: u64, index: u32, longer: bool) {
    if let Some(table) = stages.table() {
        let _ = table.put(key, index, longer);
    }
}

fn answers<B: Backing>(stages: &B, key: u64) -> bool {
    stages
        .table()
        .is_some_and(|table| table.reader().find(key).is_some())
}

/// Notes one more prefix inside, or one less.
fn inside<B: Backing>(stages: &mut B, key: u64, more: i32) -> Result<(), B::Error> {
    let note = stages.note(key)?;
    let inside = note.inside.saturating_add_signed(more);
    stages.set_note(key, Note { inside, ..note })
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
