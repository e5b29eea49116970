//! The whole way of a packet over veth: a source, a router, a sink, each in a namespace of its own,
//! all on one CPU, so that no time is lost or won by working side by side.
//!
//! Every way to forward has a port of its own into the router, so that nothing is attached or
//! detached between two measurements; they take turns in every round.

mod born;
mod clock;
mod programs;
pub(crate) mod scrape;
mod variants;
mod wires;

use anyhow::Context as _;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya_obj::generated::BPF_F_NO_PREALLOC;
use netmesh_common::table::FibEntry;

use crate::netlink;
use crate::report::Cell;
use crate::sets::Set;
use crate::usage::{Cpu, Usage};
use programs::Programs;
use variants::{Variants, WHOLE};
use wires::{EGRESS, KERNEL_EGRESS, PORTS, Wires};

/// Rounds that count; one before them warms up.
const ROUNDS: usize = 11;
/// Packets of one measurement.
const PACKETS: u32 = 200_000;
/// From so many routes on it makes a difference which are asked for how often.
const ZIPF: usize = 1_000_000;
/// Destinations of packets of a socket.
const BORN_STREAM: usize = 1 << 18;
/// Numbers of routes at which parts are left out.
const PARTS_OF: [usize; 2] = [1, 1_000_000];
/// Next hops of the routes, in turn.
pub(crate) const NEXT_HOPS: usize = 16;

/// A way to forward, and where its port is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Way {
    name: &'static str,
    /// Index of its port.
    port: usize,
    /// Our first stage is taken away.
    former: bool,
    /// The program that takes the place of ours.
    variant: Option<&'static str>,
    /// What runs on the other CPU.
    beside: Beside,
    /// The packets are a socket's.
    born: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// Routes are changed all the while.
    Writer,
    /// All counters are read.
    Reader,
    /// A trace is asked for.
    Watcher,
}

const fn way(name: &'static str, port: usize) -> Way {
    Way {
        name,
        port,
        former: false,
        variant: None,
        beside: Beside::Nothing,
        born: false,
    }
}

const fn beside(name: &'static str, beside: Beside) -> Way {
    Way {
        beside,
        ..way(name, PORTS.ours)
    }
}

const fn without(name: &'static str, port: usize, program: &'static str) -> Way {
    Way {
        variant: Some(program),
        ..way(name, port)
    }
}

const fn born(name: &'static str, port: usize) -> Way {
    Way {
        born: true,
        ..way(name, port)
    }
}

const OURS: &str = "netmesh, everything on";

const XDP: [Way; 8] = [
    way(OURS, PORTS.ours),
    way("netmesh, sources not checked", PORTS.any),
    beside("netmesh, a writer on the other CPU", Beside::Writer),
    way("dropped at once", PORTS.drop),
    way("redirected without a look-up", PORTS.redirect),
    Way {
        former: true,
        ..way("netmesh, trie and per-CPU counters alone", PORTS.ours)
    },
    way("`bpf_fib_lookup`", PORTS.fib),
    way("the kernel", PORTS.kernel),
];

/// What each part costs, and what disturbs.
const PARTS: [Way; 7] = [
    way(OURS, PORTS.ours),
    without(
        "without counters of prefixes",
        PORTS.ours,
        "bench_uncounted",
    ),
    without(
        "without classes of addresses",
        PORTS.ours,
        "bench_unclassed",
    ),
    without(
        "without a look-up of sources",
        PORTS.any,
        "bench_sourceless",
    ),
    beside("a trace of other packets on", Beside::Watcher),
    beside("all counters read on the other CPU", Beside::Reader),
    way("redirected without a look-up", PORTS.redirect),
];

const TC: [Way; 4] = [
    way(OURS, PORTS.ours_tc),
    way("dropped at once", PORTS.drop_tc),
    way("redirected without a look-up", PORTS.redirect_tc),
    way("the kernel", PORTS.kernel),
];

/// Packets of a socket, which XDP must make frames of first.
const BORN: [Way; 5] = [
    born(OURS, PORTS.ours_tc),
    born("dropped at once", PORTS.drop_tc),
    born("redirected without a look-up", PORTS.redirect_tc),
    born("netmesh behind XDP", PORTS.ours),
    born("the kernel", PORTS.kernel),
];

/// What one way took, in nanoseconds a packet, source and sink included.
pub(crate) struct Row {
    pub(crate) hook: &'static str,
    pub(crate) routes: usize,
    pub(crate) traffic: &'static str,
    pub(crate) way: &'static str,
    pub(crate) time: Cell,
    /// How many times as long as ours, round by round.
    pub(crate) ratio: Cell,
}

/// How fast routes were put into a table, and what they take there.
pub(crate) struct Load {
    pub(crate) routes: usize,
    pub(crate) way: &'static str,
    pub(crate) seconds: f64,
    /// Bytes of the kernel's memory, where that was looked at.
    pub(crate) bytes: Option<i64>,
}

/// Measures with so many routes.
pub(crate) fn measure(
    object: &[u8],
    routes: usize,
    rows: &mut Vec<Row>,
    loads: &mut Vec<Load>,
) -> anyhow::Result<()> {
    clock::check()?;
    let set = Set::random(routes);
    let wires = Wires::new()?;
    let mut programs = Programs::load(object, &wires)?;
    eprintln!("{routes} routes into the kernel's table");
    let before = Usage::now()?;
    let seconds = wires.inside("rtr", || netlink::add(&set, KERNEL_EGRESS))??;
    loads.push(Load {
        routes,
        way: "the kernel, netlink in bulk",
        seconds,
        bytes: Some(before.until(&Usage::now()?)),
    });
    eprintln!("{routes} routes into netmesh's");
    let before = Usage::now()?;
    let seconds = wires.import(&set)?;
    loads.push(Load {
        routes,
        way: "netmesh, `route import` of text",
        seconds,
        bytes: Some(before.until(&Usage::now()?)),
    });
    wires.count_in_the_trie(&set)?;
    for (way, load) in [
        (
            "an LPM trie map, a call for each",
            by_calls as fn(&Set) -> anyhow::Result<f64>,
        ),
        ("stage 1 alone, through memory", through_memory),
    ] {
        loads.push(Load {
            routes,
            way,
            seconds: load(&set)?,
            bytes: None,
        });
    }

    programs.sink(&wires, EGRESS, false)?;
    let length = crate::kernel::STREAM;
    for (traffic, stream) in [("uniform", set.uniform(length)), ("Zipf", set.zipf(length))] {
        // Among few routes there is nothing to prefer.
        if traffic == "Zipf" && routes < ZIPF {
            continue;
        }
        programs.set_stream(&stream);
        let what = ("XDP", traffic);
        take_turns(&wires, &mut programs, what, &set, &XDP, rows)?;
        if traffic == "uniform" && PARTS_OF.contains(&routes) {
            let what = ("XDP, part by part", traffic);
            take_turns(&wires, &mut programs, what, &set, &PARTS, rows)?;
        }
    }
    programs.set_stream(&set.uniform(length));
    programs.sink(&wires, EGRESS, true)?;
    take_turns(&wires, &mut programs, ("TC", "uniform"), &set, &TC, rows)?;
    let what = ("TC, packets of a socket", "uniform");
    take_turns(&wires, &mut programs, what, &set, &BORN, rows)
}

/// Seconds to put a set into a trie as whoever uses the system call would.
fn by_calls(set: &Set) -> anyhow::Result<f64> {
    let most = u32::try_from(set.keys.len())?;
    let mut trie = LpmTrie::<_, [u8; 16], FibEntry>::create(most, BPF_F_NO_PREALLOC)?;
    let clock = Cpu::thread()?;
    for key in &set.keys {
        let mut address = [0; 16];
        address[..8].copy_from_slice(&key.to_be_bytes());
        trie.insert(&Key::new(64, address), FibEntry::NONE, 0)?;
    }
    clock.elapsed()
}

/// Seconds to make a table of stage 1 and to put a set into it.
fn through_memory(set: &Set) -> anyhow::Result<f64> {
    let clock = Cpu::thread()?;
    let _table = crate::kernel::make_table(set)?;
    clock.elapsed()
}

fn take_turns(
    wires: &Wires,
    programs: &mut Programs,
    (hook, traffic): (&'static str, &'static str),
    set: &Set,
    ways: &[Way],
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    let routes = set.keys.len();
    let stream = set.uniform(BORN_STREAM);
    let mut variants = Variants::load(programs.object(), wires)?;
    let mut times = vec![Vec::new(); ways.len()];
    for round in 0..=ROUNDS {
        for (way, times) in ways.iter().zip(&mut times) {
            wires.take_first_stage_away(way.former)?;
            let beside = match way.beside {
                Beside::Nothing => None,
                Beside::Writer => Some(wires.writer(set)?),
                Beside::Reader => Some(wires.reader()?),
                Beside::Watcher => Some(wires.watcher()?),
            };
            let port = wires.index("rtr", &format!("r{}", way.port))?;
            if let Some(variant) = way.variant {
                variants.put(variant, port)?;
            }
            let sent = if way.born {
                let (count, keys) = (PACKETS as usize, &stream);
                programs.send_born(wires, way.port, keys, count)
            } else {
                programs.send(wires, way.port, PACKETS)
            };
            let time = sent.with_context(|| format!("{hook}, {routes} routes, {}", way.name))?;
            if way.variant.is_some() {
                variants.put(WHOLE, port)?;
            }
            if let Some(beside) = beside {
                beside.end()?;
            }
            if round > 0 {
                times.push(time);
            }
        }
        eprint!("\r{hook}, {routes} routes: round {round} of {ROUNDS}");
    }
    eprintln!();
    wires.take_first_stage_away(false)?;
    let ours = times.first().cloned().unwrap_or_default();
    for (way, times) in ways.iter().zip(&times) {
        // What disturbs one measurement disturbs the one beside it: so round by round.
        let ratios: Vec<f64> = times
            .iter()
            .zip(&ours)
            .map(|(one, ours)| one / ours)
            .collect();
        rows.push(Row {
            hook,
            routes,
            traffic,
            way: way.name,
            time: Cell::of(times),
            ratio: Cell::of(&ratios),
        });
    }
    Ok(())
}
