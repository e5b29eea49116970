//! Memory that programs find in pieces of one size, an array map each, and this process as a whole.
//!
//! The look-up of such a piece is a few instructions of the program, where that of a map which may
//! have any size (`BPF_F_INNER_MAP`) is a call. An array of maps holds the pieces, those of one
//! generation one behind the other. To change a place of it waits until no program runs that may
//! have seen what was there (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c), to change many at
//! once waits once.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{MapData, MapError};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type};

use super::maps::not_found;
use super::sys;
use super::sys::Mapping;

/// Pieces whose descriptors are held at a time: a process may have 1,024 of them.
const CHUNK: usize = 256;

/// What pieces are called, and their size in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) bytes: usize,
}

impl Kind {
    /// One that nobody else knows yet.
    pub(super) fn piece(self) -> Result<MapData, MapError> {
        let map = aya_obj::Map::new_from_params(
            bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
            size_of::<u32>() as u32,
            self.bytes as u32,
            1,
            BPF_F_MMAPABLE,
        );
        MapData::create(map, self.name, None)
    }

    /// Makes zeroed pieces and puts them into the places from `first` on. When it fails some may be
    /// there.
    pub(super) fn make(
        self,
        outer: BorrowedFd<'_>,
        first: u32,
        count: u32,
    ) -> Result<Mapping, MapError> {
        let memory = self.reserve(count)?;
        let places: Vec<u32> = (0..count).collect();
        for places in places.chunks(CHUNK) {
            let pieces = places.iter().map(|place| {
                let piece = self.piece()?;
                self.place(&memory, *place, &piece)?;
                Ok((first + place, piece))
            });
            put(outer, &pieces.collect::<Result<Vec<_>, MapError>>()?)?;
        }
        Ok(memory)
    }

    /// The pieces that are there; `None` when one of them is not.
    pub(super) fn open(
        self,
        outer: &ArrayOfMaps<MapData>,
        first: u32,
        count: u32,
    ) -> Result<Option<Mapping>, MapError> {
        let memory = self.reserve(count)?;
        for place in 0..count {
            match outer.get(&(first + place), 0) {
                Ok(piece) => self.place(&memory, place, &piece)?,
                Err(error) if not_found(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(memory))
    }

    /// The pieces from `first` on, those that are not there yet made and put there.
    pub(super) fn complete(
        self,
        outer: &ArrayOfMaps<MapData>,
        again: BorrowedFd<'_>,
        first: u32,
        count: u32,
    ) -> Result<Mapping, MapError> {
        let memory = self.reserve(count)?;
        let mut new = Vec::new();
        for place in 0..count {
            match outer.get(&(first + place), 0) {
                Ok(piece) => self.place(&memory, place, &piece)?,
                Err(error) if not_found(&error) => {
                    let piece = self.piece()?;
                    self.place(&memory, place, &piece)?;
                    new.push((first + place, piece));
                }
                Err(error) => return Err(error),
            }
            if new.len() == CHUNK {
                put(again, &new)?;
                new.clear();
            }
        }
        put(again, &new)?;
        Ok(memory)
    }

    /// Gives the memory of these places back: one piece that is nobody's stands in all of them.
    pub(super) fn clear(
        outer: BorrowedFd<'_>,
        nobodys: &MapData,
        first: u32,
        count: u32,
    ) -> io::Result<()> {
        let piece = nobodys.fd().as_fd().as_raw_fd();
        let entries: Vec<(u32, i32)> = (first..first + count).map(|place| (place, piece)).collect();
        sys::put_all(outer, &entries)
    }

    fn reserve(self, count: u32) -> Result<Mapping, MapError> {
        Mapping::reserve(count as usize * self.bytes).map_err(MapError::IoError)
    }

    fn place(self, memory: &Mapping, place: u32, piece: &MapData) -> Result<(), MapError> {
        memory
            .place(piece.fd().as_fd(), place as usize * self.bytes, self.bytes)
            .map_err(MapError::IoError)
    }
}

/// Puts pieces into their places.
fn put(outer: BorrowedFd<'_>, pieces: &[(u32, MapData)]) -> Result<(), MapError> {
    let entries: Vec<(u32, i32)> = pieces
        .iter()
        .map(|(place, piece)| (*place, piece.fd().as_fd().as_raw_fd()))
        .collect();
    sys::put_all(outer, &entries).map_err(MapError::IoError)
}
