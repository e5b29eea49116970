//! The programs in the running kernel: the verifier takes them, and on every packet they do what
//! the library does, byte for byte and count for count. Needs root.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of a test; the instruction counts are for its reader"
)]

#[path = "../../netmesh-common/tests/cases/mod.rs"]
mod cases;
#[path = "programs/stage.rs"]
mod stage;

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::thread;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::{
    BtfTracePoint, Program, ProgramError, ProgramInfo, SchedClassifier, TestRun as _,
    TestRunOptions, TestRunResult, Xdp,
};
use aya::{Btf, Ebpf, EbpfLoader, VerifierLogLevel};
use netmesh::dataplane::make_tables;
use netmesh::dataplane::pin::ensure_bpffs;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::gettid;

use cases::reference::{Hook, Router, run};
use cases::{Count, Input, Outcome, all, lab};
use netmesh_common::lines::{Bucket, Direction, tally};
use netmesh_common::table::{FibEntry, NextHop, Port, PortCounters, PrefixCounters};
use netmesh_common::verdict::{DropReason, PuntReason};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netmesh-ebpf"));

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// What the verifier may need for a program: what it needs today, rounded up. Growth is to be
/// noticed.
struct Budget {
    /// Instructions followed; kernels stop at a million.
    instructions: u32,
    /// States kept at a time.
    states: u32,
}

const XDP_BUDGET: Budget = Budget {
    instructions: 15_000,
    states: 900,
};
const TC_BUDGET: Budget = Budget {
    instructions: 35_000,
    states: 1_800,
};
const FOLLOWER_BUDGET: Budget = Budget {
    instructions: 2_000,
    states: 100,
};

/// The programs that follow the neighbours, and their tracepoints.
const FOLLOWERS: [(&str, &str); 3] = [
    ("neigh_update_done", "neigh_update_done"),
    ("neigh_timer_handler", "neigh_timer_handler"),
    ("neigh_cleanup", "neigh_cleanup_and_release"),
];

/// Prefix counters the cases use.
const COUNTERS: u32 = 64;

/// Kernels before 6.16 refuse a program that holds a trap, which is what LLVM makes of code that
/// cannot be reached after a panic.
#[test]
fn the_object_holds_no_trap() {
    let holds = |name: &str| OBJECT.windows(name.len()).any(|w| w == name.as_bytes());
    assert!(holds("netmesh_xdp"), "the names are there to be found");
    assert!(!holds("__bpf_trap"));
}

#[test]
fn the_verifier_takes_every_program() {
    alone(|| {
        let states = states();
        let mut kernel = Kernel::new();
        let info = kernel.xdp().info().unwrap();
        within("netmesh_xdp", &info, XDP_BUDGET, &states);
        let info = kernel.tc().info().unwrap();
        within("netmesh_tc", &info, TC_BUDGET, &states);
        let pass: &mut Xdp = kernel.program("netmesh_pass");
        pass.load().unwrap();

        let btf = Btf::from_sys_fs().unwrap();
        for (name, tracepoint) in FOLLOWERS {
            let follower: &mut BtfTracePoint = kernel.program(name);
            follower.load(tracepoint, &btf).unwrap();
            let info = follower.info().unwrap();
            within(name, &info, FOLLOWER_BUDGET, &states);
        }
    });
}

/// The verifier's own summary of each program. It is handed out with a failure only, so a process
/// of its own lets every load fail after the verifier is through: no file descriptor is left.
fn states() -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "programs_that_find_no_file_descriptor"])
        .args(["--ignored", "--nocapture"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "a part of the_verifier_takes_every_program"]
fn programs_that_find_no_file_descriptor() {
    let mut object = EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(OBJECT)
        .unwrap();
    let btf = Btf::from_sys_fs().unwrap();
    let next = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(next).unwrap(), most).unwrap();
    for (name, program) in object.programs_mut() {
        let refused = match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            Program::BtfTracePoint(program) => {
                let tracepoint = FOLLOWERS.iter().find(|(follower, _)| *follower == name);
                program.load(tracepoint.unwrap().1, &btf)
            }
            _ => panic!("{name} is of another kind"),
        };
        let Err(ProgramError::LoadError { verifier_log, .. }) = refused else {
            panic!("{name}: {refused:?}");
        };
        let log = verifier_log.to_string();
        let summary = log.lines().find(|line| line.starts_with("processed "));
        println!(
            "{name}: {}",
            summary.unwrap_or_else(|| panic!("{name}: {log}"))
        );
    }
}

fn within(name: &str, info: &ProgramInfo, budget: Budget, summaries: &str) {
    let instructions = info.verified_instruction_count().unwrap();
    let prefix = format!("{name}: ");
    let summary = summaries
        .lines()
        .find_map(|line| line.strip_prefix(&prefix));
    let states: u32 = summary
        .and_then(|line| line.split_once("peak_states ")?.1.split(' ').next())
        .and_then(|states| states.parse().ok())
        .unwrap_or_else(|| panic!("no summary of {name} in {summaries}"));
    println!(
        "{name}: {instructions} instructions followed of {} allowed, {states} states of {}",
        budget.instructions, budget.states
    );
    assert!(
        instructions <= budget.instructions,
        "{name}: {instructions}"
    );
    assert!(states <= budget.states, "{name}: {states} states");
}

#[test]
fn every_case_has_its_outcome_in_the_kernel() {
    alone(|| {
        let mut wrong = Vec::new();
        let cases = all();
        for (case, stage) in cases.iter().flat_map(|case| [(case, 1), (case, 2)]) {
            let mut kernel = Kernel::new();
            kernel.fill(&lab::router(case.flags));
            if stage == 1 {
                kernel.fill_lines(&lab::router(case.flags));
            }
            for (hook, wanted) in [(Hook::Tc, Some(&case.tc)), (Hook::Xdp, case.xdp.as_ref())] {
                let Some(wanted) = wanted.cloned().map(without_device) else {
                    continue;
                };
                if !takes(hook, &case.input.bytes) {
                    continue;
                }
                let found = kernel.run(hook, &case.input);
                if found != wanted {
                    wrong.push(format!(
                        "{hook:?} stage {stage} {}:\n  {found:?}\n  {wanted:?}",
                        case.name
                    ));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

/// Packets near the cases, thousands of them: library and kernel agree on each.
#[test]
fn library_and_kernel_agree_on_mangled_packets() {
    alone(|| {
        let cases = all();
        let mut random = Random(0x5eed);
        let mut forwarded = 0_u32;
        for flags in [0, Port::SOURCES_BEHIND, Port::EXTERNAL, Port::LAYER3] {
            let router = lab::router(flags);
            let mut kernel = Kernel::new();
            kernel.fill(&router);
            // Both stages answer.
            kernel.fill_lines(&router);
            for _ in 0..3000 {
                let case = &cases[random.below(cases.len())];
                let input = mangle(&case.input, &mut random);
                for hook in [Hook::Tc, Hook::Xdp] {
                    let headless = hook == Hook::Xdp && flags & Port::LAYER3 != 0;
                    if headless || !takes(hook, &input.bytes) {
                        continue;
                    }
                    let wanted = without_device(run(&router, flags, &input, hook));
                    let found = kernel.run(hook, &input);
                    assert_eq!(found, wanted, "{hook:?} {flags} {input:02x?}");
                    forwarded += u32::from(matches!(found, Outcome::Forward { .. }));
                }
            }
        }
        assert!(forwarded > 1000, "too few packets leave: {forwarded}");
    });
}

/// A test run of TC refuses a frame that is shorter than the header its EtherType announces;
/// XDP's takes it.
fn takes(hook: Hook, bytes: &[u8]) -> bool {
    let least = match bytes.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xdd]) => 14 + 40,
        _ => 15,
    };
    hook == Hook::Xdp || bytes.len() >= least
}

/// Bytes of the headers changed, the frame cut, as luck will have it; nothing in a third.
fn mangle(input: &Input, random: &mut Random) -> Input {
    // GSO comes with state of the buffer that a test run cannot give.
    let mut bytes = input.bytes.clone();
    for _ in 0..random.below(3) {
        let at = random.below(bytes.len().min(58));
        bytes[at] = random.below(256) as u8;
    }
    if random.below(8) == 0 {
        // The kernel takes no less than a link-layer header.
        let length = 14 + random.below(bytes.len().max(15) - 14);
        bytes.truncate(length);
    }
    Input {
        bytes,
        ..Input::default()
    }
}

/// Marsaglia's xorshift: the same packets in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// A test run does not tell where a packet went; the link-layer addresses do.
fn without_device(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Forward {
            bytes, to, from, ..
        } => Outcome::Forward {
            ifindex: None,
            bytes,
            to,
            from,
        },
        other => other,
    }
}

/// Runs a test on a thread in a network namespace of its own, with the lab's devices.
fn alone(test: fn()) {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        for index in [lab::SEGMENT, lab::UPLINK, lab::TUNNEL, lab::ELSEWHERE] {
            let words =
                format!("link add name d{index} index {index} type veth peer name p{index}");
            let done = Command::new("ip").args(words.split(' ')).status().unwrap();
            assert!(done.success(), "ip {words}");
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The programs, loaded.
struct Kernel {
    ebpf: Ebpf,
    /// The table of stage 1, where there is one.
    lines: Option<Array<MapData, Bucket>>,
    /// Which counter stands for a slot's.
    slots: BTreeMap<u32, u32>,
}

impl Kernel {
    fn new() -> Self {
        let mut loader = EbpfLoader::new();
        for name in ["FIB6", "FIB4", "RIB", "COUNTER_IDS"] {
            loader.map_max_entries(name, 256);
        }
        loader.map_max_entries("PREFIX_CNT", COUNTERS);
        ensure_bpffs().unwrap();
        let pin = format!("/sys/fs/bpf/nmt-tables-{}", gettid());
        make_tables(pin.as_ref()).unwrap();
        loader.map_pin_path("TABLES", std::path::Path::new(&pin));
        let loaded = loader.load(OBJECT);
        std::fs::remove_file(&pin).unwrap();
        let mut kernel = Self {
            ebpf: loaded.unwrap(),
            lines: None,
            slots: BTreeMap::new(),
        };
        kernel.xdp().load().unwrap();
        kernel.tc().load().unwrap();
        kernel
    }

    fn xdp(&mut self) -> &mut Xdp {
        self.program("netmesh_xdp")
    }

    fn tc(&mut self) -> &mut SchedClassifier {
        self.program("netmesh_tc")
    }

    fn program<'a, T>(&'a mut self, name: &str) -> &'a mut T
    where
        &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        self.ebpf.program_mut(name).unwrap().try_into().unwrap()
    }

    fn fill(&mut self, router: &Router) {
        let mut fib: LpmTrie<_, [u8; 16], FibEntry> =
            self.ebpf.map_mut("FIB6").unwrap().try_into().unwrap();
        for ((network, length), entry) in &router.fib {
            if let Ok(network) = network.as_slice().try_into() {
                let key = Key::new(u32::from(*length), network);
                fib.insert(&key, entry, 0).unwrap();
            }
        }
        let mut fib: LpmTrie<_, [u8; 4], FibEntry> =
            self.ebpf.map_mut("FIB4").unwrap().try_into().unwrap();
        for ((network, length), entry) in &router.fib {
            if let Ok(network) = network.as_slice().try_into() {
                let key = Key::new(u32::from(*length), network);
                fib.insert(&key, entry, 0).unwrap();
            }
        }
        let mut hops: Array<_, NextHop> =
            self.ebpf.map_mut("NEXT_HOPS").unwrap().try_into().unwrap();
        for (index, hop) in &router.next_hops {
            hops.set(*index, hop, 0).unwrap();
        }
        let mut ports: HashMap<_, u32, Port> =
            self.ebpf.map_mut("PORTS").unwrap().try_into().unwrap();
        for (ifindex, port) in &router.ports {
            ports.insert(ifindex, port, 0).unwrap();
        }
        let mut tx: DevMapHash<_> = self.ebpf.map_mut("TX").unwrap().try_into().unwrap();
        for ifindex in lab::TX {
            tx.insert(ifindex, ifindex, None, 0).unwrap();
        }
    }

    /// What a program makes of a packet, as bytes and counters tell.
    fn run(&mut self, hook: Hook, input: &Input) -> Outcome {
        let (port_before, prefixes_before) = self.counters();
        let mut out = [0; 4096];
        let result = match hook {
            Hook::Xdp => self.run_xdp(&input.bytes, &mut out),
            Hook::Tc => self.run_tc(input, &mut out),
        };
        let bytes = &out[..result.data_size_out as usize];
        let (port, prefixes) = self.counters();
        let action = match (hook, result.return_value) {
            (Hook::Xdp, XDP_REDIRECT) | (Hook::Tc, TC_ACT_REDIRECT) => Action::Forward,
            (Hook::Xdp, XDP_PASS) | (Hook::Tc, TC_ACT_UNSPEC) => Action::Punt,
            (Hook::Xdp, XDP_DROP) | (Hook::Tc, TC_ACT_SHOT) => Action::Drop,
            (hook, other) => panic!("{hook:?} returned {other}"),
        };
        let received = port.received - port_before.received;
        let moved: u64 = (port.forwarded - port_before.forwarded)
            + sum(&port.punted, &port_before.punted)
            + sum(&port.dropped, &port_before.dropped);
        assert_eq!(received, moved, "every packet has an outcome");
        let counts: Vec<(Count, Count)> = (0..COUNTERS)
            .zip(prefixes.iter().zip(&prefixes_before))
            .map(|(counter, (now, before))| difference(counter, now, before))
            .collect();
        match action {
            Action::Forward => {
                let to = counts.iter().map(|(to, _)| *to).find(|to| to.packets != 0);
                let from = counts.iter().map(|(_, from)| *from);
                Outcome::Forward {
                    ifindex: None,
                    bytes: bytes.to_vec(),
                    to: to.unwrap(),
                    from: from.into_iter().find(|from| from.packets != 0),
                }
            }
            Action::Punt => {
                assert_eq!(bytes, input.bytes, "punted untouched");
                let index = only(&port.punted, &port_before.punted);
                Outcome::Punt(PuntReason::ALL[index])
            }
            Action::Drop => {
                let index = only(&port.dropped, &port_before.dropped);
                Outcome::Drop(DropReason::ALL[index])
            }
        }
    }

    fn run_xdp(&mut self, packet: &[u8], out: &mut [u8]) -> TestRunResult {
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(out),
            ..TestRunOptions::default()
        };
        self.xdp().test_run(options).unwrap()
    }

    fn run_tc(&mut self, input: &Input, out: &mut [u8]) -> TestRunResult {
        // struct __sk_buff: what a test run lets its caller set.
        let mut context = [0_u8; 192];
        context[164..168].copy_from_slice(&input.segments.to_ne_bytes());
        context[176..180].copy_from_slice(&input.segment_size.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(&input.bytes),
            data_out: Some(out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        self.tc().test_run(options).unwrap()
    }

    /// The ingress port's counters, and every prefix's.
    fn counters(&self) -> (PortCounters, Vec<PrefixCounters>) {
        let ports: PerCpuArray<_, PortCounters> =
            self.ebpf.map("PORT_CNT").unwrap().try_into().unwrap();
        let mut port = ports.get(&0, 0).unwrap()[0];
        for more in &ports.get(&0, 0).unwrap()[1..] {
            port.received += more.received;
            port.forwarded += more.forwarded;
            add(&mut port.punted, &more.punted);
            add(&mut port.dropped, &more.dropped);
        }
        let prefixes: PerCpuArray<_, PrefixCounters> =
            self.ebpf.map("PREFIX_CNT").unwrap().try_into().unwrap();
        let mut prefixes: Vec<PrefixCounters> = (0..COUNTERS)
            .map(|index| {
                let mut all = PrefixCounters::default();
                for one in prefixes.get(&index, 0).unwrap().iter() {
                    all.to_packets += one.to_packets;
                    all.to_bytes += one.to_bytes;
                    all.from_packets += one.from_packets;
                    all.from_bytes += one.from_bytes;
                }
                all
            })
            .collect();
        for (slot, counter) in &self.slots {
            let lines = self.lines.as_ref().unwrap();
            let Some(sum) = prefixes.get_mut(*counter as usize) else {
                continue;
            };
            let words = lines.get(&(1 + slot / 8), 0).unwrap().0;
            let held =
                |direction| tally::unpacked(words[tally::word(direction, *slot as usize % 8)]);
            let (to, from) = (held(Direction::To), held(Direction::From));
            sum.to_packets += to.packets;
            sum.to_bytes += to.bytes;
            sum.from_packets += from.packets;
            sum.from_bytes += from.bytes;
        }
        (port, prefixes)
    }
}

enum Action {
    Forward,
    Punt,
    Drop,
}

fn add(all: &mut [u64], more: &[u64]) {
    for (all, more) in all.iter_mut().zip(more) {
        *all += more;
    }
}

fn sum(now: &[u64], before: &[u64]) -> u64 {
    now.iter().sum::<u64>() - before.iter().sum::<u64>()
}

/// The one reason that was counted.
fn only(now: &[u64], before: &[u64]) -> usize {
    let changed: Vec<usize> = (0..now.len()).filter(|&n| now[n] != before[n]).collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    changed[0]
}

fn difference(counter: u32, now: &PrefixCounters, before: &PrefixCounters) -> (Count, Count) {
    let count = |packets, bytes| Count {
        counter,
        packets,
        bytes,
    };
    (
        count(
            now.to_packets - before.to_packets,
            now.to_bytes - before.to_bytes,
        ),
        count(
            now.from_packets - before.from_packets,
            now.from_bytes - before.from_bytes,
        ),
    )
}
