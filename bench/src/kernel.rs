//! The measuring programs and their maps.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::of_maps::ArrayOfMaps;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, Pod};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type};
use netmesh_common::intervals::Span;
use netmesh_common::lines::{Bucket, Class, HEADER, PIECE, Shape, Table};
use netmesh_common::table::{FibEntry, PrefixKey};

use crate::memory::Mapping;
use crate::sets::Set;
use crate::tree;

/// Places in the stream.
pub(crate) const STREAM: usize = 1 << 20;
/// Look-ups of one run of a program.
const STEPS: u64 = 64;

/// Where a CPU is: `State` of the programs.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct State {
    pub(crate) position: u64,
    pub(crate) sum: u64,
    pub(crate) frames: u64,
    pub(crate) dependent: u64,
    pub(crate) last: u64,
    pub(crate) ifindex: u64,
}

// SAFETY: six numbers, without padding.
unsafe impl Pod for State {}

/// Programs and maps of one set of prefixes.
pub(crate) struct Kernel {
    ebpf: Ebpf,
    stream: Mapping,
    /// Lines of entries of stage 1.
    pub(crate) lines: u32,
    /// Interface the kernel's own look-ups start at.
    ifindex: u32,
}

/// Which structures are filled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Filled {
    pub(crate) trie: bool,
    pub(crate) hash: bool,
}

impl Kernel {
    /// Loads the programs and fills the structures with a set.
    pub(crate) fn new(object: &[u8], set: &Set, filled: Filled) -> anyhow::Result<Self> {
        let most = u32::try_from(set.keys.len() + set.shorter.len())?.max(16);
        let lines = shape(set)?.buckets() - 1;
        let mut loader = EbpfLoader::new();
        for name in ["INSIDE", "CARRIED", "KEPT", "RIB", "COUNTER_IDS", "FIB4"] {
            loader.map_max_entries(name, 16);
        }
        let mut ebpf = loader
            .map_max_entries("FIB6", most)
            .map_max_entries("HASH", if filled.hash { most } else { 1 })
            .map_max_entries("CHASE", lines)
            .load(object)?;
        let stream = map(ebpf.map("STREAM").context("STREAM")?, STREAM * 8)?;
        let chase = map(ebpf.map("CHASE").context("CHASE")?, lines as usize * 64)?;
        for word in chase.words().iter().step_by(8) {
            word.store(1, Ordering::Relaxed);
        }
        let mut homeless = fill_table(&mut ebpf, set)?;
        // As the data plane does where it is worth a tree.
        if set.shorter.len() >= 256 {
            let mut spans: Vec<_> = homeless.iter().map(|n| Span::ask(set.keys[*n])).collect();
            for (n, (key, length)) in set.shorter.iter().enumerate() {
                let (prefix, entry) = shorter(*key, *length, n);
                spans.extend(Span::new(&prefix, entry.word()));
            }
            tree::plant(&mut ebpf, spans)?;
        }
        if filled.trie {
            homeless = (0..set.keys.len()).collect();
        }
        {
            let mut trie: LpmTrie<_, [u8; 16], FibEntry> =
                ebpf.map_mut("FIB6").context("FIB6")?.try_into()?;
            for n in homeless {
                let key = set.keys[n];
                let mut address = [0; 16];
                address[..8].copy_from_slice(&key.to_be_bytes());
                trie.insert(&Key::new(64, address), entry(n), 0)?;
            }
            for (n, (key, length)) in set.shorter.iter().enumerate() {
                let (prefix, entry) = shorter(*key, *length, n);
                trie.insert(&Key::new(u32::from(*length), prefix.address), entry, 0)?;
            }
        }
        if filled.hash {
            let mut hash: HashMap<_, u64, FibEntry> =
                ebpf.map_mut("HASH").context("HASH")?.try_into()?;
            for (n, key) in set.keys.iter().enumerate() {
                hash.insert(key, entry(n), 0)?;
            }
        }
        Ok(Self {
            ebpf,
            stream,
            lines,
            ifindex: 1,
        })
    }

    /// What the stream holds from now on; short ones are repeated.
    pub(crate) fn set_stream(&self, keys: &[u64]) {
        for (word, key) in self.stream.words().iter().zip(keys.iter().cycle()) {
            word.store(*key, Ordering::Relaxed);
        }
    }

    /// Nanoseconds a look-up of a program takes on this CPU, and the sum of what it found.
    pub(crate) fn run(
        &mut self,
        name: &str,
        dependent: bool,
        times: u32,
    ) -> anyhow::Result<(f64, u64)> {
        self.set_state(State {
            dependent: if dependent { u64::MAX } else { 0 },
            last: STREAM as u64 - 1,
            ifindex: self.ifindex.into(),
            ..State::default()
        })?;
        let program: &mut Xdp = self
            .ebpf
            .program_mut(name)
            .context("no such program")?
            .try_into()?;
        if program.info().is_err() {
            program.load()?;
        }
        let frame = [0_u8; 64];
        let result = program.test_run(TestRunOptions {
            data_in: Some(&frame),
            repeat: times,
            ..TestRunOptions::default()
        })?;
        let sum = self.state()?.iter().map(|state| state.sum).sum();
        Ok((result.duration.as_nanos() as f64 / STEPS as f64, sum))
    }

    /// The same while another CPU looks the same stream up all the time, and counts like this one.
    pub(crate) fn run_beside(&mut self, name: &str, times: u32) -> anyhow::Result<f64> {
        // Loads it, and lets both begin where the stream does.
        self.run(name, false, 1)?;
        let program: &Xdp = self
            .ebpf
            .program(name)
            .context("no such program")?
            .try_into()?;
        let frame = [0_u8; 64];
        let options = |repeat| TestRunOptions {
            data_in: Some(&frame),
            repeat,
            ..TestRunOptions::default()
        };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| -> anyhow::Result<()> {
                crate::stay_on(crate::Place::First)?;
                while !over.load(Ordering::Relaxed) {
                    program.test_run(options(64))?;
                }
                Ok(())
            });
            std::thread::sleep(Duration::from_millis(20));
            let result = program.test_run(options(times));
            over.store(true, Ordering::Relaxed);
            other
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))?;
            Ok(result?.duration.as_nanos() as f64 / STEPS as f64)
        })
    }

    fn set_state(&mut self, state: State) -> anyhow::Result<()> {
        let cpus = nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let mut map: PerCpuArray<_, State> =
            self.ebpf.map_mut("STATE").context("STATE")?.try_into()?;
        map.set(0, PerCpuValues::try_from(vec![state; cpus])?, 0)?;
        Ok(())
    }

    fn state(&self) -> anyhow::Result<Vec<State>> {
        let map: PerCpuArray<_, State> = self.ebpf.map("STATE").context("STATE")?.try_into()?;
        Ok(map.get(&0, 0)?.to_vec())
    }
}

/// What a prefix's next hop is, the same in every structure.
fn next_hop(n: usize) -> u32 {
    1 + n as u32 % 16
}

fn entry(n: usize) -> FibEntry {
    FibEntry {
        next_hop: next_hop(n),
        action: 1,
        prefix_length: 64,
        ..FibEntry::NONE
    }
}

/// One of the shorter prefixes, and its entry.
fn shorter(key: u64, length: u8, n: usize) -> (PrefixKey, FibEntry) {
    let mut address = [0; 16];
    address[..8].copy_from_slice(&key.to_be_bytes());
    let prefix = PrefixKey {
        address,
        family: 6,
        length,
        reserved: [0; 2],
    };
    let entry = FibEntry {
        prefix_length: length,
        ..entry(n)
    };
    (prefix, entry)
}

/// A table of stage 1 with a set in it.
pub(crate) struct Stage1 {
    pieces: Vec<MapData>,
    header: [u64; HEADER],
    /// Some in ten thousand find no room there: those the trie must have.
    homeless: Vec<usize>,
}

/// Makes one and fills it.
pub(crate) fn make_table(set: &Set) -> anyhow::Result<Stage1> {
    let shape = shape(set)?;
    let bytes = PIECE * size_of::<Bucket>();
    let pieces = (0..shape.pieces()).map(|_| {
        let kind = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        let map = aya_obj::Map::new_from_params(kind, 4, bytes as u32, 1, BPF_F_MMAPABLE);
        MapData::create(map, "bench_lines", None)
    });
    let pieces = pieces.collect::<Result<Vec<_>, _>>()?;
    let memory = Mapping::of_pieces(&pieces, bytes)?;
    let table = Table::make(memory.words(), shape).context("no table")?;
    let mut homeless = Vec::new();
    for (n, key) in set.keys.iter().enumerate() {
        if table.put(*key, next_hop(n), false).is_err() {
            homeless.push(n);
        }
    }
    Ok(Stage1 {
        pieces,
        header: shape.header(),
        homeless,
    })
}

fn shape(set: &Set) -> anyhow::Result<Shape> {
    Ok(Shape::for_entries(set.keys.len() as u64, 16, random()?))
}

/// Gives the programs stage 1.
fn fill_table(ebpf: &mut Ebpf, set: &Set) -> anyhow::Result<Vec<usize>> {
    let Stage1 {
        pieces,
        header,
        homeless,
    } = make_table(set)?;
    let mut classes: Array<_, u64> = ebpf.map_mut("CLASSES").context("CLASSES")?.try_into()?;
    for next_hop in 1..=16 {
        let class = Class {
            next_hop,
            action: 1,
            origin: 3,
        };
        classes.set(next_hop, class.word(), 0)?;
    }
    let mut headers: Array<_, [u64; HEADER]> =
        ebpf.map_mut("HEADERS").context("HEADERS")?.try_into()?;
    headers.set(0, header, 0)?;
    let mut tables: ArrayOfMaps<_, MapData> =
        ebpf.map_mut("TABLES").context("TABLES")?.try_into()?;
    for (place, piece) in (0..).zip(&pieces) {
        tables.set(place, piece, 0)?;
    }
    Ok(homeless)
}

fn random() -> anyhow::Result<[u64; 4]> {
    use std::io::Read as _;
    let mut bytes = [[0; 8]; 4];
    let mut file = std::fs::File::open("/dev/urandom")?;
    bytes
        .iter_mut()
        .try_for_each(|bytes| file.read_exact(bytes))?;
    Ok(bytes.map(u64::from_ne_bytes))
}

/// An array map in this process's memory.
pub(crate) fn map(map: &aya::maps::Map, bytes: usize) -> anyhow::Result<Mapping> {
    let aya::maps::Map::Array(data) = map else {
        anyhow::bail!("not an array");
    };
    let fd: BorrowedFd<'_> = data.fd().as_fd();
    Mapping::new(fd, bytes)
}
