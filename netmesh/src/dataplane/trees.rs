//! The tree in front of the trie: made anew when the trie has changed.
//!
//! ```text
//!   valid = none ─► the trie is changed ─► … ─► the next tree, in the other memory ─► valid = it
//! ```
//! While none is valid the trie is asked. So a writer that is killed leaves slow answers, and right
//! ones; the next that changes the trie, or mends the tables, makes a tree again.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapError;
use netmesh_common::intervals::{
    self, GENERATIONS, HEADER, KEYS, Memory, NO_ROUTE, PIECE, PIECES, Shape, Span, sweep,
};
use netmesh_common::lines::{Backing as _, Place, exact_length, place, prefix_of};
use netmesh_common::table::PrefixKey;

use super::edit::{Change, edit};
use super::maps::Maps;
use super::pieces::Kind;
use super::sys::Mapping;
use super::{Error, Instance, sys};

/// Fewer prefixes than these the trie finds as fast.
const FEWEST: u64 = 256;

/// More changes than these are not followed one by one.
const MOST_CHANGES: usize = 1 << 14;

/// Pieces of trees.
const TREES: Kind = Kind {
    name: "netmesh_trees",
    bytes: PIECE as usize * KEYS * size_of::<u64>(),
};

/// What a writer knows of the trees.
#[derive(Debug)]
pub(super) struct Trees {
    words: Mapping,
    /// The tree that was asked before the first change.
    before: Option<u32>,
    /// What has changed since.
    changed: BTreeSet<PrefixKey>,
    /// There were more changes than these.
    lost: bool,
}

/// Words behind the headers.
#[derive(Clone, Copy)]
enum Word {
    /// The generation that is asked, and one; 0 for none.
    Valid,
    /// The prefixes there were when they were counted, and changes since.
    Prefixes,
    /// The generation that was made last.
    Last,
}

impl Trees {
    pub(super) fn open(maps: &Maps) -> Result<Self, Error> {
        let bytes = (GENERATIONS as usize + 1) * HEADER * size_of::<u64>();
        let words = Mapping::new(maps.trees_fd.as_fd(), bytes);
        let words = words.map_err(|error| failed("map it", MapError::IoError(error)))?;
        Ok(Self {
            words,
            before: None,
            changed: BTreeSet::new(),
            lost: false,
        })
    }

    fn word(&self, word: Word) -> Option<&AtomicU64> {
        let at = GENERATIONS as usize * HEADER + word as usize;
        self.words.words().get(at)
    }

    fn get(&self, word: Word) -> u64 {
        self.word(word).map_or(0, |w| w.load(Ordering::Acquire))
    }

    fn set(&self, word: Word, value: u64) {
        if let Some(word) = self.word(word) {
            word.store(value, Ordering::Release);
        }
    }

    /// The generation that is asked.
    pub(super) fn valid(&self) -> Option<u32> {
        let valid = self.get(Word::Valid).checked_sub(1)?;
        Some(valid as u32 & (GENERATIONS - 1))
    }

    /// From here on the trie is asked: this prefix is about to change there.
    pub(super) fn touch(&mut self, prefix: &PrefixKey) {
        if let Some(valid) = self.valid() {
            self.set(Word::Valid, 0);
            self.before = Some(valid);
        }
        if self.lost {
            return;
        }
        self.changed.insert(match place(prefix) {
            Place::Exact(key) | Place::Inside(key) => prefix_of(key & !1),
            Place::Elsewhere => *prefix,
        });
        if self.changed.len() > MOST_CHANGES {
            self.forget();
        }
    }

    /// Nobody knows what has changed.
    pub(super) fn forget(&mut self) {
        self.changed.clear();
        self.lost = true;
    }

    /// The shape of a generation's tree.
    fn shape(&self, generation: u32) -> Option<Shape> {
        let first = generation as usize * HEADER;
        let words = self.words.words().get(first..first + HEADER)?;
        let mut header = [0; HEADER];
        for (copy, word) in header.iter_mut().zip(words) {
            *copy = word.load(Ordering::Acquire);
        }
        Shape::of_header(&header)
    }

    fn set_shape(&self, generation: u32, shape: &Shape) {
        let first = generation as usize * HEADER;
        for (word, value) in self.words.words().iter().skip(first).zip(shape.header()) {
            word.store(value, Ordering::Release);
        }
    }
}

impl Instance {
    /// Makes a tree if the trie has changed and is worth one.
    pub(super) fn plant(&mut self) -> Result<(), Error> {
        if self.trees.changed.is_empty() && !self.trees.lost {
            return Ok(());
        }
        let list = match self.trees.before.filter(|_| !self.trees.lost) {
            Some(before) => self.edited(before)?,
            None => self.gathered()?,
        };
        if let Some(list) = list {
            self.grow_tree(&list)?;
        }
        self.trees.changed.clear();
        self.trees.lost = false;
        self.trees.before = None;
        Ok(())
    }

    /// The intervals of the tree that was asked, and what has changed since.
    fn edited(&self, before: u32) -> Result<Option<Vec<(u64, u64)>>, Error> {
        let Some(shape) = self.trees.shape(before) else {
            return Ok(None);
        };
        let memory = self.tree_memory(before, &shape)?;
        let Some(old) = Memory::open(memory.words(), shape) else {
            return Ok(None);
        };
        let mut changes = Vec::with_capacity(self.trees.changed.len());
        for prefix in &self.trees.changed {
            changes.extend(self.change_of(prefix)?);
        }
        Ok(Some(edit(old.intervals(), &changes)))
    }

    /// What is to be said of a prefix, or a key, now.
    fn change_of(&self, prefix: &PrefixKey) -> Result<Option<Change>, Error> {
        let gone = match place(prefix) {
            // A key stands for its neighbour too.
            Place::Exact(key) if self.note(key)?.word() | self.note(key ^ 1)?.word() != 0 => {
                let (span, gone) = (Span::ask(key), false);
                return Ok(Some(Change { span, gone }));
            }
            Place::Elsewhere => match self.in_trie(prefix)? {
                Some(entry) => {
                    let span = Span::new(prefix, entry.word());
                    return Ok(span.map(|span| Change { span, gone: false }));
                }
                None => prefix,
            },
            _ => prefix,
        };
        let cover = match gone.length.checked_sub(1) {
            Some(length) => self.read_trie(&PrefixKey { length, ..*gone })?,
            None => None,
        };
        let word = cover.map_or(NO_ROUTE, |entry| entry.word());
        let span = Span::new(gone, word).map(|span| Span { word, ..span });
        Ok(span.map(|span| Change { span, gone: true }))
    }

    /// The intervals of all there is, from RIB and notes.
    fn gathered(&self) -> Result<Option<Vec<(u64, u64)>>, Error> {
        let most = self.trees.get(Word::Prefixes) + self.trees.changed.len() as u64;
        self.trees.set(Word::Prefixes, most);
        if most < FEWEST && !self.trees.lost {
            return Ok(None);
        }
        let mut prefixes = Vec::new();
        self.maps.each_rib(|key, _| {
            if key.prefix.length < exact_length(key.prefix.family) {
                prefixes.push(key.prefix);
            }
        })?;
        prefixes.sort_unstable();
        prefixes.dedup();
        let notes = self.notes()?;
        let count = (prefixes.len() + notes.len()) as u64;
        self.trees.set(Word::Prefixes, count);
        if count < FEWEST {
            return Ok(None);
        }
        let mut spans: Vec<Span> = notes.iter().map(|(key, _)| Span::ask(*key)).collect();
        for prefix in prefixes {
            if let Some(entry) = self.in_trie(&prefix)? {
                spans.extend(Span::new(&prefix, entry.word()));
            }
        }
        spans.sort_unstable_by_key(intervals::order);
        spans.dedup_by_key(|span| intervals::order(span));
        let mut list = Vec::with_capacity(2 * spans.len() + 1);
        sweep(&spans, |start, word| list.push((start, word)));
        Ok(Some(list))
    }

    /// Makes the tree of these intervals, in the memory that nobody asks, and has it asked.
    fn grow_tree(&mut self, list: &[(u64, u64)]) -> Result<(), Error> {
        let last = self.trees.get(Word::Last) as u32 & (GENERATIONS - 1);
        let next = 1 - self.trees.before.unwrap_or(last);
        let shape = Shape::new(list.len()).filter(|shape| shape.lines() <= MOST_LINES);
        let Some(shape) = shape else {
            // The trie alone answers for what is larger than any table yet.
            return Ok(());
        };
        // Some may still be at the tree that was asked before the last one.
        self.wait_for_readers()?;
        let memory = self.tree_memory(next, &shape)?;
        if shape.fill(memory.words(), list.iter().copied()).is_none() {
            return Ok(());
        }
        self.trees.set_shape(next, &shape);
        self.trees.set(Word::Last, next.into());
        self.trees.set(Word::Valid, u64::from(next) + 1);
        Ok(())
    }

    fn tree_memory(&self, generation: u32, shape: &Shape) -> Result<Mapping, Error> {
        let count = shape.lines().div_ceil(PIECE as usize) as u32;
        let (outer, again) = (&self.maps.pieces, self.maps.pieces_fd.as_fd());
        TREES
            .complete(outer, again, generation * PIECES, count)
            .map_err(|source| failed("map a piece", source))
    }

    /// The words the tree that is asked says of keys.
    #[cfg(test)]
    pub(super) fn tree_says(&self, keys: &[u64]) -> Option<Vec<u64>> {
        let generation = self.trees.valid()?;
        let shape = self.trees.shape(generation)?;
        let memory = self.tree_memory(generation, &shape).ok()?;
        let tree = Memory::open(memory.words(), shape)?;
        Some(keys.iter().map(|key| tree.find(*key)).collect())
    }
}

/// Lines that a tree may have.
const MOST_LINES: usize = (PIECE * PIECES) as usize;

/// Makes the map that holds the trees' memory, with one piece, and pins it. As with the tables of
/// stage 1 the loader's would be one that kernels before 6.2 let nobody add to.
///
/// # Errors
/// When the kernel refuses it, or the pin.
pub(super) fn make_memory(path: &Path) -> Result<(), Error> {
    let first = TREES
        .piece()
        .map_err(|source| failed("make a piece", source))?;
    let fail = |action| move |error| failed(action, MapError::IoError(error));
    let outer = sys::array_of_maps(first.fd().as_fd(), GENERATIONS * PIECES);
    let outer = outer.map_err(fail("make it"))?;
    sys::pin(outer.as_fd(), path).map_err(fail("pin it"))
}

fn failed(action: &'static str, source: MapError) -> Error {
    Error::Map {
        map: "PIECES",
        action,
        source,
    }
}
