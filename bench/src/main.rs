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
mod usage;

use std::path::PathBuf;

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

use kernel::{Filled, Kernel, STREAM};
use report::{Cell, Row};
use sets::{Kind, Set};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netmesh-bench"));

/// Rounds that count; one before them warms up.
const ROUNDS: usize = 9;
/// Runs of a sample, of 256 look-ups each.
const RUNS: u32 = 256;
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

/// `netmesh-bench FILE WHAT SIZE…`: the file whose tables are replaced, `look-ups` or `forwarding`,
/// and numbers of prefixes.
fn main() -> anyhow::Result<()> {
    // The pieces of a large table are more than a process may usually hold.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut arguments = std::env::args().skip(1);
    let file = PathBuf::from(arguments.next().context("which file?")?);
    let what = arguments.next().context("look-ups or forwarding?")?;
    let sizes: Vec<usize> = arguments
        .map(|size| size.parse().context("a size is a number"))
        .collect::<anyhow::Result<_>>()?;
    stay_on_one_cpu()?;
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

/// The last CPU this process may use: the first one answers most interrupts.
fn stay_on_one_cpu() -> anyhow::Result<()> {
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me)?;
    let last = (0..CpuSet::count())
        .rev()
        .find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(last.context("no CPU")?)?;
    Ok(sched_setaffinity(me, &one)?)
}
