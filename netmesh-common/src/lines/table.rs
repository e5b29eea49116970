//! The writer of stage 1: one at a time, upon memory that readers look at meanwhile.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Buckets, Direction, SLOTS, Shape, WORDS, find, key_in, shape, tally};

/// Word of the header that counts the slots taken.
const USED: usize = SLOTS;

/// Both buckets of a key are full, or it is the one key in 2^40 whose tag is zero: stage 2 alone
/// holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// What a slot says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: u64,
    /// Number of the slot, counted through all buckets.
    pub slot: u32,
    /// Its class; `None` when the prefix is gone.
    pub class: Option<u32>,
    /// Longer prefixes lie inside it.
    pub longer: bool,
}

/// A table in memory.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    words: &'a [AtomicU64],
    shape: Shape,
}

impl<'a> Table<'a> {
    /// Makes zeroed memory a table; `None` when there is not enough of it.
    #[must_use]
    pub fn make(words: &'a [AtomicU64], shape: Shape) -> Option<Self> {
        let table = Self { words, shape };
        words.get(..table.words_needed())?;
        for (word, value) in words.iter().zip(shape.header()) {
            word.store(value, Ordering::Release);
        }
        Some(table)
    }

    /// The table in this memory; `None` when it holds none.
    #[must_use]
    pub fn open(words: &'a [AtomicU64]) -> Option<Self> {
        let shape = shape(&Memory(words))?;
        let known = (super::MIN_BITS..=super::MAX_BITS).contains(&shape.bits);
        let odd = shape.keys[1] & shape.keys[2] & shape.keys[3] & 1 == 1;
        if !known || !odd {
            return None;
        }
        let table = Self { words, shape };
        words.get(..table.words_needed())?;
        Some(table)
    }

    const fn words_needed(&self) -> usize {
        self.shape.buckets() as usize * WORDS
    }

    /// Size and keys.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The same memory as readers see it.
    #[must_use]
    pub const fn reader(&self) -> Memory<'a> {
        Memory(self.words)
    }

    /// Slots taken, dead ones included.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.words
            .get(USED)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The table should get a successor.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used() >= self.shape.full_at()
    }

    /// Counts the slots taken: a writer may have been killed before it had counted one.
    pub fn recount(&self) {
        let used = self.entries().count() as u64;
        if let Some(word) = self.words.get(USED) {
            word.store(used, Ordering::Relaxed);
        }
    }

    /// What the table says of a key.
    #[must_use]
    pub fn get(&self, key: u64) -> Option<Entry> {
        let (slot, word) = self.seek(key).ok()?;
        self.entry(slot, word)
    }

    /// Gives a key its class, or changes it, in one store. Returns its slot.
    ///
    /// # Errors
    /// When there is no room for it, or the class does not fit an entry; the entry then is what it
    /// was.
    pub fn put(&self, key: u64, class: u32, longer: bool) -> Result<u32, NoRoom> {
        if class == 0 || class > self.shape.max_class() {
            return Err(NoRoom);
        }
        let class = u64::from(class);
        let longer = if longer { self.shape.longer() } else { 0 };
        self.write(key, class | longer)
    }

    /// The key's prefix is gone. Its slot and its tallies stay.
    pub fn kill(&self, key: u64) {
        if self.seek(key).is_ok() {
            // A slot that is there always has room.
            let _ = self.write(key, self.shape.dead());
        }
    }

    /// Gives a key a slot, dead, if it has none: for its tallies.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn reserve(&self, key: u64) -> Result<u32, NoRoom> {
        match self.seek(key) {
            Ok((slot, _)) => Ok(slot),
            Err(_) => self.write(key, self.shape.dead()),
        }
    }

    /// Every slot that is taken.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + use<'a> {
        let table = *self;
        let slots = (1u32 << self.shape.bits) * SLOTS as u32;
        (0..slots).filter_map(move |slot| {
            let word = table.at(slot)?.load(Ordering::Acquire);
            table.entry(slot, word)
        })
    }

    /// The tally of a slot.
    #[must_use]
    pub fn tally(&self, slot: u32, direction: Direction) -> Option<&'a AtomicU64> {
        let word = tally::word(direction, slot as usize % SLOTS);
        self.words.get((1 + slot as usize / SLOTS) * WORDS + word)
    }

    fn write(&self, key: u64, low: u64) -> Result<u32, NoRoom> {
        let (slot, high) = match self.seek(key) {
            Ok((slot, word)) => (slot, word & !(self.shape.choice() - 1)),
            Err(free) => {
                let (slot, high) = free.ok_or(NoRoom)?;
                // First the count: a crash leaves it too high, never too low.
                if let Some(word) = self.words.get(USED) {
                    word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                }
                (slot, high)
            }
        };
        self.at(slot)
            .ok_or(NoRoom)?
            .store(high | low, Ordering::Release);
        Ok(slot)
    }

    /// The slot of a key and what it says, or where it would go and the upper part of its entry.
    fn seek(&self, key: u64) -> Result<(u32, u64), Option<(u32, u64)>> {
        let mixed = self.shape.mix(key);
        let first = self.shape.upper(mixed);
        let tag = mixed << self.shape.bits;
        if tag == 0 {
            return Err(None);
        }
        let second = first ^ self.shape.distance(tag);
        for (line, want) in [(first, tag), (second, tag | self.shape.choice())] {
            for slot in line * 8..line * 8 + 8 {
                let word = self.at(slot).map_or(0, |word| word.load(Ordering::Acquire));
                if word == 0 {
                    return Err(Some((slot, want)));
                }
                if (word ^ want) >> (self.shape.bits - 1) == 0 {
                    return Ok((slot, word));
                }
            }
        }
        Err(None)
    }

    fn entry(&self, slot: u32, word: u64) -> Option<Entry> {
        let class = word & self.shape.dead();
        Some(Entry {
            key: key_in(&self.shape, slot >> 3, word)?,
            slot,
            class: (class != self.shape.dead()).then_some(class as u32),
            longer: word & self.shape.longer() != 0,
        })
    }

    fn at(&self, slot: u32) -> Option<&'a AtomicU64> {
        let slot = slot as usize;
        self.words.get((1 + slot / SLOTS) * WORDS + slot % SLOTS)
    }
}

/// Memory that holds a table, for readers.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a>(pub &'a [AtomicU64]);

impl Memory<'_> {
    /// What [`find`] finds here.
    #[must_use]
    pub fn find(&self, key: u64) -> Option<super::Hit> {
        find(self, key, Direction::To)
    }
}

impl<'a> Buckets for Memory<'a> {
    type Bucket = &'a [AtomicU64];

    fn bucket(&self, index: u32) -> Option<Self::Bucket> {
        self.0.chunks_exact(WORDS).nth(index as usize)
    }

    fn word(&self, bucket: &Self::Bucket, word: usize) -> u64 {
        bucket
            .get(word)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn touch(&self, _bucket: &Self::Bucket, _word: usize) {}
}
