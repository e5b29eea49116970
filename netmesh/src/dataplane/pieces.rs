//! Memory for programs in pieces of one size. The kernel inlines the look-up in an array of such
//! maps, as it does not where they differ in size; this process sees one behind the other.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{MapData, MapError};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type};

use super::maps::not_found;
use super::sys::{self, Mapping};

/// A piece that is in no array yet.
pub(super) fn make(bytes: usize) -> Result<MapData, MapError> {
    let map = aya_obj::Map::new_from_params(
        bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        size_of::<u32>() as u32,
        u32::try_from(bytes).unwrap_or(u32::MAX),
        1,
        BPF_F_MMAPABLE,
    );
    MapData::create(map, "netmesh_piece", None)
}

/// The pieces of an array from one of its places on, as one memory of at least so many. Those that
/// are not there yet are made, and put there by one call: it waits for programs once.
pub(super) fn map(
    array: &ArrayOfMaps<MapData>,
    again: BorrowedFd<'_>,
    first: u32,
    count: u32,
    bytes: usize,
) -> Result<Mapping, MapError> {
    let (mut pieces, mut new) = (Vec::new(), Vec::new());
    for place in first..first + count {
        let piece = match array.get(&place, 0) {
            Ok(piece) => piece,
            Err(error) if not_found(&error) => {
                let piece = make(bytes)?;
                new.push((place, piece.fd().as_fd().as_raw_fd()));
                piece
            }
            Err(error) => return Err(error),
        };
        pieces.push(piece);
    }
    sys::put_all(again, &new).map_err(MapError::IoError)?;
    let pieces: io::Result<Vec<OwnedFd>> = pieces
        .iter()
        .map(|piece| piece.fd().as_fd().try_clone_to_owned())
        .collect();
    let mapped = pieces.and_then(|pieces| Mapping::of_pieces(&pieces, bytes));
    mapped.map_err(MapError::IoError)
}
