//! Measures what look-ups and the way of a packet cost, method beside method, and writes it down.
#![expect(
    clippy::print_stderr,
    reason = "a command that takes a minute says what it does"
)]

mod forward;
mod kernel;
mod memory;
mod netlink;
mod plot;
mod report;
mod sets;
mod tree;
mod usage;

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

use kernel::{Filled, Kernel, STREAM};
use report::{Cell, Row};
use sets::{Kind, Set};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netmesh-bench"));

/// Rounds that count; one before them warms up.
const ROUNDS: usize = 9;
/// Runs of a sample, of 64 look-ups each.
const RUNS: u32 = 1024;
/// Above this the trie is left out: it takes minutes to fill.
const TRIE_LIMIT: usize = 2_000_000;

/// A program and what people call its method. The first measures the loop, the second is ours.
const METHODS: [(&str, &str); 6] = [
    ("bench_nothing", ""),
    ("bench_table", "two stages"),
    ("bench_trie", "LPM trie map"),
    ("bench_hash", "hash map, exact"),
    ("bench_chase", "one random line"),
    ("bench_entries", "stage 1 without counters"),
];

/// `netmesh-bench FILE WHAT SIZE…`: the file whose tables are replaced, `look-ups`,
/// `forwarding` or `scrapes`, and numbers of prefixes.
fn main() -> anyhow::Result<()> {
    // The pieces of a large table are more than a process may usually hold.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut arguments = std::env::args().skip(1);
    let file = PathBuf::from(arguments.next().context("which file?")?);
    let what = arguments
        .next()
        .context("look-ups, forwarding or scrapes?")?;
    let sizes: Vec<usize> = arguments
        .map(|size| size.parse().context("a size is a number"))
        .collect::<anyhow::Result<_>>()?;
    stay_on(Place::Last)?;
    match what.as_str() {
        "look-ups" => {
            let mut rows = Vec::new();
            for size in sizes {
                measure(Kind::Random, size, &mut rows)?;
                let others = match size {
                    200_000 => vec![Kind::Global],
                    1_000_000 => vec![Kind::Dense, Kind::Mesh],
                    _ => Vec::new(),
                };
                for kind in others {
                    measure(kind, size, &mut rows)?;
                }
            }
            let mut pairs = Vec::new();
            both(&mut pairs)?;
            report::write(&file, "two CPUs", &report::both(&pairs)?)?;
            plot::look_ups(&file, &rows)?;
            report::write(&file, "look-ups", &report::look_ups(&rows)?)
        }
        "forwarding" => {
            let (mut rows, mut loads) = (Vec::new(), Vec::new());
            for size in sizes {
                forward::measure(OBJECT, size, &mut rows, &mut loads)?;
            }
            plot::forwarding(&file, &rows)?;
            report::write(&file, "forwarding", &report::forwarding(&rows)?)?;
            report::write(&file, "programming", &report::programming(&loads)?)
        }
        "scrapes" => {
            let mut rows = Vec::new();
            for size in sizes {
                forward::scrape::measure(OBJECT, size, &mut rows)?;
            }
            report::write(&file, "scrapes", &report::scrapes(&rows)?)
        }
        other => anyhow::bail!("{other} cannot be measured"),
    }
}

/// All methods on one set of prefixes, and both kinds of traffic.
fn measure(kind: Kind, size: usize, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let set = Set::new(kind, size);
    let filled = Filled {
        trie: size <= TRIE_LIMIT,
        // It knows one length.
        hash: set.shorter.is_empty(),
    };
    let mut kernel = Kernel::new(OBJECT, &set, filled)?;
    // As many lines as hold the entries of stage 1.
    let lines = sets::numbers(kernel.lines.into(), STREAM);
    for (traffic, stream) in [("uniform", set.uniform(STREAM)), ("Zipf", set.zipf(STREAM))] {
        eprintln!("{size} {}, {traffic} traffic", kind.name());
        let mut samples = vec![[Vec::new(), Vec::new()]; METHODS.len()];
        let mut sums = vec![None; METHODS.len()];
        for round in 0..=ROUNDS {
            for (method, (program, _)) in METHODS.iter().enumerate() {
                let is_there = match *program {
                    "bench_trie" => filled.trie,
                    "bench_hash" => filled.hash,
                    "bench_entries" => !set.keys.is_empty(),
                    _ => true,
                };
                if !is_there {
                    continue;
                }
                let is_chase = *program == "bench_chase";
                kernel.set_stream(if is_chase { &lines } else { &stream });
                for dependent in [false, true] {
                    let (time, sum) = kernel.run(program, dependent, RUNS)?;
                    if round > 0 {
                        samples[method][usize::from(dependent)].push(time);
                    }
                    sums[method] = Some(sum);
                }
            }
        }
        for method in [2, 3] {
            let agrees = sums[method].is_none() || sums[method] == sums[1];
            anyhow::ensure!(agrees, "{} finds other next hops", METHODS[method].1);
        }
        let [loops, methods @ ..] = &samples[..] else {
            continue;
        };
        let loops = [0, 1].map(|kind| Cell::of(&loops[kind]).median);
        for ((_, name), samples) in METHODS[1..].iter().zip(methods) {
            let cell = |kind: usize| Cell::of(&samples[kind]).without(loops[kind]);
            rows.push(Row {
                kind,
                size,
                traffic,
                method: name,
                independent: cell(0),
                dependent: cell(1),
            });
        }
    }
    Ok(())
}

/// Which CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It answers most interrupts.
    First,
    Last,
}

/// Binds the calling thread to one of the CPUs this machine has.
fn stay_on(place: Place) -> anyhow::Result<()> {
    let last = std::thread::available_parallelism()?.get();
    static MOST: OnceLock<usize> = OnceLock::new();
    // Asked before the first thread was bound.
    let most = *MOST.get_or_init(|| last);
    let cpu = if place == Place::First { 0 } else { most - 1 };
    let mut one = CpuSet::new();
    one.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &one)?)
}

/// What two CPUs cost each other that count: on one prefix, and on many.
fn both(rows: &mut Vec<report::Both>) -> anyhow::Result<()> {
    const PREFIXES: usize = 65_536;
    let set = Set::new(Kind::Random, PREFIXES);
    let filled = Filled {
        trie: false,
        hash: false,
    };
    let mut kernel = Kernel::new(OBJECT, &set, filled)?;
    let one = vec![set.keys[0]; STREAM];
    for (traffic, stream) in [
        ("one prefix", one),
        ("65,536 prefixes", set.uniform(STREAM)),
    ] {
        kernel.set_stream(&stream);
        for (name, program) in [
            ("looked up", "bench_table"),
            ("and counted", "bench_counted"),
        ] {
            let (mut alone, mut beside) = (Vec::new(), Vec::new());
            for round in 0..=ROUNDS {
                let (time, _) = kernel.run(program, false, RUNS)?;
                let both = kernel.run_beside(program, RUNS)?;
                if round > 0 {
                    alone.push(time);
                    beside.push(both);
                }
            }
            rows.push(report::Both {
                traffic,
                name,
                alone: Cell::of(&alone),
                beside: Cell::of(&beside),
            });
        }
    }
    Ok(())
}
