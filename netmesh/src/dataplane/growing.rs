//! Hash maps that only user space reads: made small, and copied into a larger one when full.
//!
//! The kernel makes the buckets of a hash map for all it may ever hold, and a reader walks all of
//! them. A map for millions of prefixes would cost every node, and every look at it, what only the
//! largest need.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use aya::Pod;
use aya::maps::{HashMap, MapData, MapError};
use aya::sys::SyscallError;

use super::maps::{Shape, found, gone, retry_memory, unreadable};
use super::pin::Folder;
use super::{Error, maps, sys};

/// Entries a new map has room for.
pub(super) const FIRST: u32 = 1 << 12;

/// Entries that are copied by one call.
const CHUNK: usize = 4096;

/// A map that grows. Readers of the old map keep it as it was: they see the table of the moment
/// they opened it. Only the holder of the lock among writers may change it.
pub(super) struct Growing<K: Pod, V: Pod> {
    shape: &'static Shape,
    path: PathBuf,
    map: HashMap<MapData, K, V>,
    /// The map again, for calls on many entries.
    again: OwnedFd,
    room: u32,
    limit: u32,
}

impl<K: Pod, V: Pod> Growing<K, V> {
    /// Opens the pinned map; it never grows beyond `limit` entries.
    pub(super) fn open(folder: &Folder, shape: &'static Shape, limit: u32) -> Result<Self, Error> {
        Ok(Self {
            room: maps::check(folder, shape)?.max_entries(),
            map: maps::typed(folder, shape)?,
            again: maps::raw(folder, shape)?,
            path: folder.map(shape.name),
            shape,
            limit,
        })
    }

    /// Entries there is room for before it grows.
    pub(super) fn room(&self) -> u64 {
        self.room.into()
    }

    /// Entries it can ever hold.
    pub(super) fn limit(&self) -> u64 {
        self.limit.into()
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &K) -> Result<Option<V>, Error> {
        found(self.map.get(key, 0), self.shape.name)
    }

    /// Every entry, in no order.
    pub(super) fn each(&self, entry: impl FnMut(K, V)) -> Result<(), Error> {
        sys::read_hash(self.again.as_fd(), entry)
            .map_err(|source| unreadable(self.shape.name, source))
    }

    /// Puts an entry in or changes it; `E2BIG` when the limit is reached.
    pub(super) fn insert(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        loop {
            match retry_memory(|| self.map.insert(key, value, 0)) {
                Err(MapError::SyscallError(error)) if self.can_grow(&error.io_error) => {
                    self.grow(self.room.saturating_mul(4))?;
                }
                result => return result,
            }
        }
    }

    /// Puts many entries in; when it fails some may be there. As [`insert`](Self::insert).
    pub(super) fn put_all(&mut self, entries: &[(K, V)]) -> Result<(), MapError> {
        loop {
            match sys::put_all(self.again.as_fd(), entries) {
                Err(error) if self.can_grow(&error) => self.grow(self.room.saturating_mul(4))?,
                result => return result.map_err(refused),
            }
        }
    }

    /// Grows once instead of several times when this many entries are about to come. Some may be
    /// there already: the same ones again need no more room.
    pub(super) fn reserve(&mut self, coming: usize) -> Result<(), MapError> {
        let coming = u32::try_from(coming).unwrap_or(u32::MAX);
        if coming > self.room && self.room < self.limit {
            self.grow(coming)?;
        }
        Ok(())
    }

    /// Removes what a writer left that was killed while it made room.
    pub(super) fn tidy(&self) -> io::Result<()> {
        match std::fs::remove_file(self.next()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Where the larger map is pinned first; bpffs takes no dots in names.
    fn next(&self) -> PathBuf {
        self.path
            .with_file_name(format!("{}_next", self.shape.name))
    }

    /// Removes an entry; one that is not there is as good as removed.
    pub(super) fn remove(&mut self, key: &K, action: &'static str) -> Result<(), Error> {
        gone(self.map.remove(key), self.shape.name, action)
    }

    fn can_grow(&self, error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::E2BIG) && self.room < self.limit
    }

    /// Copies everything into a map with more room, which then takes the place of the pin: whoever
    /// dies before that leaves a second pin, which the next writer removes.
    fn grow(&mut self, room: u32) -> Result<(), MapError> {
        let room = room.checked_next_power_of_two().unwrap_or(u32::MAX);
        let room = room.min(self.limit);
        let larger = self.shape.make(room)?;
        let mut batch: Vec<(K, V)> = Vec::with_capacity(CHUNK);
        let mut result = Ok(());
        let read = sys::read_hash(self.again.as_fd(), |key, value| {
            batch.push((key, value));
            if batch.len() == CHUNK && result.is_ok() {
                result = sys::put_all(larger.fd().as_fd(), &batch);
                batch.clear();
            }
        });
        read.and(result)
            .and_then(|()| sys::put_all(larger.fd().as_fd(), &batch))
            .and_then(|()| self.replace(&larger))
            .map_err(refused)?;
        let opened = MapData::from_pin(&self.path)?;
        self.again = sys::open(&self.path).map_err(refused)?;
        self.map = HashMap::try_from(aya::maps::Map::from_map_data(opened)?)?;
        self.room = room;
        Ok(())
    }

    fn replace(&self, larger: &MapData) -> io::Result<()> {
        self.tidy()?;
        let next = self.next();
        sys::pin(larger.fd().as_fd(), &next)?;
        std::fs::rename(&next, &self.path)
    }
}

fn refused(io_error: io::Error) -> MapError {
    MapError::SyscallError(SyscallError {
        call: "bpf",
        io_error,
    })
}
