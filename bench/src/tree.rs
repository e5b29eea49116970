//! The tree in front of the trie, for the programs that measure.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{Array, MapData};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type};
use netmesh_common::intervals::{GENERATIONS, HEADER, KEYS, PIECE, Shape, Span, order, sweep};

use crate::memory::Mapping;

/// Bytes of a piece.
const BYTES: usize = PIECE as usize * KEYS * size_of::<u64>();

/// Gives the programs a tree of these.
pub(crate) fn plant(ebpf: &mut Ebpf, mut spans: Vec<Span>) -> anyhow::Result<()> {
    spans.sort_unstable_by_key(order);
    spans.dedup_by_key(|span| order(span));
    let mut list = Vec::new();
    sweep(&spans, |start, word| list.push((start, word)));
    let shape = Shape::new(list.len()).context("too many")?;
    let words: Vec<AtomicU64> = (0..shape.lines() * KEYS)
        .map(|_| AtomicU64::new(0))
        .collect();
    shape.fill(&words, list).context("no tree")?;
    let mut pieces: ArrayOfMaps<_, MapData> =
        ebpf.map_mut("PIECES").context("PIECES")?.try_into()?;
    for (place, words) in (0..).zip(words.chunks(BYTES / size_of::<u64>())) {
        let piece = aya_obj::Map::new_from_params(
            bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
            4,
            u32::try_from(BYTES)?,
            1,
            BPF_F_MMAPABLE,
        );
        let piece = MapData::create(piece, "bench_piece", None)?;
        let memory = Mapping::new(piece.fd().as_fd(), BYTES)?;
        for (to, from) in memory.words().iter().zip(words) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        pieces.set(place, &piece, 0)?;
    }
    let mut trees: Array<_, [u64; HEADER]> = ebpf.map_mut("TREES").context("TREES")?.try_into()?;
    trees.set(0, shape.header(), 0)?;
    let mut asked = [0; HEADER];
    asked[0] = 1;
    trees.set(GENERATIONS, asked, 0)?;
    Ok(())
}
