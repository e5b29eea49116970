//! Stage 1 of the table in this process's memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::sync::atomic::Ordering;

use aya::maps::{MapData, MapError};
use aya_obj::generated::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, bpf_map_type};
use netmesh_common::lines::{Bucket, Class, Entry, GENERATIONS, HEADER, MAX_CLASSES, Shape, Table};

use super::maps::{Maps, not_found};
use super::sys::Mapping;
use super::{Error, sys};

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
        let mut tables = [const { None }; GENERATIONS as usize];
        for (generation, table) in (0..).zip(&mut tables) {
            *table = match maps.tables.get(&generation, 0) {
                Ok(data) => Some(mapping(&data)?),
                Err(error) if not_found(&error) => None,
                Err(source) => return Err(failed("open it", source)),
            };
        }
        Ok(Self {
            active: map(&maps.active_fd, size_of::<u64>())?,
            headers: map(
                &maps.headers_fd,
                GENERATIONS as usize * HEADER * size_of::<u64>(),
            )?,
            classes: map(&maps.classes_fd, MAX_CLASSES as usize * size_of::<u64>())?,
            tables,
        })
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

    /// Another table takes the place of a generation's, or none. Before it is asked.
    pub(super) fn set(&mut self, generation: u32, table: Option<Mapping>) {
        let header = table
            .as_ref()
            .and_then(|memory| Table::open(memory.words()));
        let header = header.map_or([0; HEADER], |table| table.header());
        let first = generation as usize * HEADER;
        for (place, word) in self.headers.words().iter().skip(first).zip(header) {
            place.store(word, Ordering::Release);
        }
        if let Some(place) = self.tables.get_mut(generation as usize) {
            *place = table;
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

/// A table that no program knows yet.
pub(super) fn make(shape: Shape) -> Result<(MapData, Mapping), Error> {
    let data = create(shape.buckets()).map_err(|source| failed("make a table", source))?;
    let memory = mapping(&data)?;
    if Table::make(memory.words(), shape).is_none() {
        return Err(fail("make a table", io::ErrorKind::OutOfMemory.into()));
    }
    Ok((data, memory))
}

/// Makes the map that holds the tables of stage 1, with the one an instance begins with, and pins
/// it. Returns what belongs into the map of headers at its index 0.
///
/// The loader would make it of the object's type information, and kernels before 6.2 would then
/// refuse every table that was not made of the same (`bpf_map_meta_equal` in kernel/bpf/map_in_map.c).
///
/// # Errors
/// When the kernel refuses it, or the pin.
pub fn make_tables(path: &Path) -> Result<[u64; HEADER], Error> {
    let (data, memory) = make(Shape::for_entries(0, 0, random()?))?;
    pin_tables(&data, path)?;
    Ok(Table::open(memory.words()).map_or([0; HEADER], |table| table.header()))
}

/// As [`make_tables`], with what the table that is asked says of these keys: for a program that must
/// find it there, but not count in it.
pub(super) fn make_extract(
    lines: &Lines,
    keys: &[u64],
    path: &Path,
) -> Result<[u64; HEADER], Error> {
    let known: Vec<_> = lines.table().map_or_else(Vec::new, |table| {
        keys.iter().filter_map(|key| table.get(*key)).collect()
    });
    let class = known.iter().filter_map(|entry| entry.class).max();
    let mut patience = 8;
    let (data, header) = loop {
        let shape = Shape::for_entries(known.len() as u64, class.unwrap_or(0), random()?);
        let (data, memory) = make(shape)?;
        let table = Table::open(memory.words());
        let put = |entry: &Entry| {
            table.is_some_and(|table| match entry.class {
                Some(class) => table.put(entry.key, class, entry.longer).is_ok(),
                None => table.reserve(entry.key).is_ok(),
            })
        };
        patience -= 1;
        // Once in a million years a key has no place under these random numbers.
        if known.iter().all(put) || patience == 0 {
            break (data, table.map_or([0; HEADER], |table| table.header()));
        }
    };
    pin_tables(&data, path)?;
    Ok(header)
}

fn pin_tables(first: &MapData, path: &Path) -> Result<(), Error> {
    let outer = sys::array_of_maps(first.fd().as_fd(), GENERATIONS)
        .map_err(|error| fail("make it", error))?;
    sys::put(outer.as_fd(), &0_u32, &first.fd().as_fd().as_raw_fd())
        .map_err(|error| fail("put a table into it", error))?;
    sys::pin(outer.as_fd(), path).map_err(|error| fail("pin it", error))
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

fn create(buckets: u32) -> Result<MapData, MapError> {
    let map = aya_obj::Map::new_from_params(
        bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        size_of::<u32>() as u32,
        size_of::<Bucket>() as u32,
        buckets,
        BPF_F_MMAPABLE | BPF_F_INNER_MAP,
    );
    MapData::create(map, "netmesh_lines", None)
}

fn mapping(table: &MapData) -> Result<Mapping, Error> {
    let info = table
        .info()
        .map_err(|source| failed("describe a table", source))?;
    let bytes = info.max_entries() as usize * size_of::<Bucket>();
    Mapping::new(table.fd().as_fd(), bytes).map_err(|error| fail("map a table", error))
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
