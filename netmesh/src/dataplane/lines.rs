//! Stage 1 of the table in this process's memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapError;
use netmesh_common::lines::{
    Bucket, Class, GENERATIONS, HEADER, MAX_CLASSES, MAX_PIECES, NO_PIECE, PIECE, PIECES, Shape,
    Table,
};

use super::maps::Maps;
use super::pieces::Kind;
use super::sys::Mapping;
use super::{Error, sys};

/// Pieces of tables.
const LINES: Kind = Kind {
    name: "netmesh_lines",
    bytes: PIECE * size_of::<Bucket>(),
};

/// The tables, as long as nobody makes a new one; the holder of the lock alone does.
#[derive(Debug)]
pub(super) struct Lines {
    active: Mapping,
    headers: Mapping,
    classes: Mapping,
    tables: [Option<Mapping>; GENERATIONS as usize],
}

impl Lines {
    pub(super) fn open(maps: &Maps) -> Result<Self, Error> {
        let map = |fd: &std::os::fd::OwnedFd, bytes| {
            Mapping::new(fd.as_fd(), bytes).map_err(|error| fail("map it", error))
        };
        let mut lines = Self {
            active: map(&maps.active_fd, size_of::<u64>())?,
            headers: map(
                &maps.headers_fd,
                GENERATIONS as usize * HEADER * size_of::<u64>(),
            )?,
            classes: map(&maps.classes_fd, MAX_CLASSES as usize * size_of::<u64>())?,
            tables: [const { None }; GENERATIONS as usize],
        };
        for generation in 0..GENERATIONS {
            let count = lines.pieces(generation);
            if count == 0 {
                continue;
            }
            let memory = LINES.open(&maps.tables, first_piece(generation), count);
            let memory = memory.map_err(|source| failed("open it", source))?;
            if let Some(place) = lines.tables.get_mut(generation as usize) {
                *place = memory;
            }
        }
        Ok(lines)
    }

    /// How many pieces the header of a generation speaks of; 0 where there is no table, nor part of
    /// one that a writer has left.
    pub(super) fn pieces(&self, generation: u32) -> u32 {
        let word = self.header(generation).next();
        let bits = word.map_or(0, |word| word.load(Ordering::Acquire));
        Shape::pieces_of(bits)
    }

    fn header(&self, generation: u32) -> impl Iterator<Item = &AtomicU64> {
        let first = generation as usize * HEADER;
        self.headers.words().iter().skip(first).take(HEADER)
    }

    /// Which table is asked.
    pub(super) fn generation(&self) -> u32 {
        let word = self.active.words().first();
        let word = word.map_or(0, |word| word.load(Ordering::Acquire));
        word as u32 & (GENERATIONS - 1)
    }

    /// From now on this one is.
    pub(super) fn set_generation(&self, generation: u32) {
        if let Some(word) = self.active.words().first() {
            word.store(generation.into(), Ordering::Release);
        }
    }

    /// The table that is asked.
    pub(super) fn table(&self) -> Option<Table<'_>> {
        self.of(self.generation())
    }

    /// The table of a generation.
    pub(super) fn of(&self, generation: u32) -> Option<Table<'_>> {
        let memory = self.tables.get(generation as usize)?.as_ref()?;
        Table::open(memory.words())
    }

    /// Makes an empty table of this shape, of a generation that is not asked and has none.
    pub(super) fn make(&mut self, maps: &Maps, generation: u32, shape: Shape) -> Result<(), Error> {
        // First how large it is: whoever finds what a writer has left knows what to clear.
        self.set_header(generation, shape.header());
        let made = make(maps.tables_fd.as_fd(), generation, shape);
        if made.is_err() {
            // There may be no memory for this either; the next writer tries again.
            let _ = self.clear(maps, generation);
        }
        if let Some(place) = self.tables.get_mut(generation as usize) {
            *place = Some(made?);
        }
        Ok(())
    }

    /// Gives back the memory of a generation that no program asks any more.
    pub(super) fn clear(&mut self, maps: &Maps, generation: u32) -> Result<(), Error> {
        let count = self.pieces(generation);
        let outer = maps.tables_fd.as_fd();
        let nobodys = maps.tables.get(&NO_PIECE, 0);
        let nobodys = nobodys.map_err(|source| failed("open a piece", source))?;
        Kind::clear(outer, &nobodys, first_piece(generation), count)
            .map_err(|error| fail("give a table back", error))?;
        self.set_header(generation, [0; HEADER]);
        if let Some(place) = self.tables.get_mut(generation as usize) {
            *place = None;
        }
        Ok(())
    }

    fn set_header(&self, generation: u32, header: [u64; HEADER]) {
        for (place, word) in self.header(generation).zip(header) {
            place.store(word, Ordering::Release);
        }
    }

    /// The class with this index.
    pub(super) fn class(&self, index: u32) -> Option<Class> {
        let word = self.classes.words().get(index as usize)?;
        Class::from_word(word.load(Ordering::Acquire))
    }

    fn set_class(&self, index: u32, word: u64) {
        if let Some(place) = self.classes.words().get(index as usize) {
            place.store(word, Ordering::Release);
        }
    }
}

/// Which classes there are; only the holder of the lock needs to know.
#[derive(Debug)]
pub(super) struct Classes {
    by_class: BTreeMap<Class, u32>,
    free: Vec<u32>,
}

impl Classes {
    pub(super) fn read(lines: &Lines) -> Self {
        let mut classes = Self {
            by_class: BTreeMap::new(),
            free: Vec::new(),
        };
        // The lowest are taken first: they fit the smallest tables.
        for index in (1..MAX_CLASSES).rev() {
            match lines.class(index) {
                Some(class) => drop(classes.by_class.insert(class, index)),
                None => classes.free.push(index),
            }
        }
        classes
    }

    /// The index of a class, given out on first use; `None` when there is none left.
    pub(super) fn put(&mut self, lines: &Lines, class: Class) -> Option<u32> {
        if let Some(&index) = self.by_class.get(&class) {
            return Some(index);
        }
        let index = self.free.pop()?;
        lines.set_class(index, class.word());
        self.by_class.insert(class, index);
        Some(index)
    }

    /// Frees the classes no entry has. None of the tables that are asked may have one of them.
    pub(super) fn keep(&mut self, lines: &Lines, used: impl Fn(u32) -> bool) {
        self.by_class.retain(|_, index| {
            let stays = used(*index);
            if !stays {
                lines.set_class(*index, 0);
                self.free.push(*index);
            }
            stays
        });
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }
}

/// The place of a generation's first piece.
const fn first_piece(generation: u32) -> u32 {
    generation * MAX_PIECES
}

/// An empty table in the places of a generation.
fn make(outer: BorrowedFd<'_>, generation: u32, shape: Shape) -> Result<Mapping, Error> {
    let memory = LINES.make(outer, first_piece(generation), shape.pieces());
    let memory = memory.map_err(|source| failed("make a table", source))?;
    if Table::make(memory.words(), shape).is_none() {
        return Err(fail("make a table", io::ErrorKind::OutOfMemory.into()));
    }
    Ok(memory)
}

/// The table an instance begins with, in this process's memory.
#[derive(Debug)]
pub struct FirstTable {
    memory: Mapping,
    header: [u64; HEADER],
}

impl FirstTable {
    /// The table, to be written by whoever has made it.
    #[must_use]
    pub fn table(&self) -> Option<Table<'_>> {
        Table::open(self.words())
    }

    /// All its words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// What belongs into the map of headers at its index 0.
    #[must_use]
    pub const fn header(&self) -> [u64; HEADER] {
        self.header
    }
}

/// Makes the map that holds the tables of stage 1, with the one an instance begins with, and pins
/// it.
///
/// The loader would make it of the object's type information, and kernels before 6.2 would then
/// refuse every piece that was not made of the same (`bpf_map_meta_equal` in kernel/bpf/map_in_map.c).
///
/// # Errors
/// When the kernel refuses it, or the pin.
pub fn make_tables(path: &Path) -> Result<FirstTable, Error> {
    make_first(Shape::for_entries(0, 0, random()?), path)
}

/// As [`make_tables`], with what the table that is asked says of these keys: for a program that must
/// find it there, but not count in it.
pub(super) fn make_extract(lines: &Lines, keys: &[u64], path: &Path) -> Result<FirstTable, Error> {
    let known: Vec<_> = lines.table().map_or_else(Vec::new, |table| {
        keys.iter().filter_map(|key| table.get(*key)).collect()
    });
    let class = known.iter().filter_map(|entry| entry.class).max();
    let shape = Shape::for_entries(known.len() as u64, class.unwrap_or(0), random()?);
    let first = make_first(shape, path)?;
    let table = first.table();
    for (table, entry) in known.iter().filter_map(|entry| Some((table?, entry))) {
        // Where there is no room for it the trie answers, as it would anywhere.
        let _ = match entry.class {
            Some(class) => table.put(entry.key, class, entry.longer),
            None => table.reserve(entry.key),
        };
    }
    Ok(first)
}

/// The array of maps with an empty table as its first generation, pinned.
fn make_first(shape: Shape, path: &Path) -> Result<FirstTable, Error> {
    let nobodys = LINES
        .piece()
        .map_err(|source| failed("make a piece", source))?;
    let piece = nobodys.fd().as_fd();
    let outer = sys::array_of_maps(piece, PIECES).map_err(|error| fail("make it", error))?;
    sys::put(outer.as_fd(), &NO_PIECE, &piece.as_raw_fd())
        .map_err(|error| fail("put a piece into it", error))?;
    let memory = make(outer.as_fd(), 0, shape)?;
    sys::pin(outer.as_fd(), path).map_err(|error| fail("pin it", error))?;
    let header = shape.header();
    Ok(FirstTable { memory, header })
}

/// Numbers nobody can foresee.
pub(super) fn random() -> Result<[u64; 4], Error> {
    let mut bytes = [[0; 8]; 4];
    let source = File::open("/dev/urandom").and_then(|mut file| {
        bytes
            .iter_mut()
            .try_for_each(|bytes| file.read_exact(bytes))
    });
    source.map_err(|error| fail("draw random numbers for a table", error))?;
    Ok(bytes.map(u64::from_ne_bytes))
}

pub(super) fn failed(action: &'static str, source: MapError) -> Error {
    Error::Map {
        map: "TABLES",
        action,
        source,
    }
}

fn fail(action: &'static str, error: io::Error) -> Error {
    failed(action, MapError::IoError(error))
}
