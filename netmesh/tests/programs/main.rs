//! The programs in the running kernel: the verifier takes them, and on every packet they do what
//! the library does, byte for byte and count for count. Needs root.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of a test; the instruction counts are for its reader"
)]

#[path = "../../../netmesh-common/tests/cases/mod.rs"]
mod cases;
mod kernel;
mod stage;
#[path = "../stage_one/mod.rs"]
mod stage_one;

use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::thread;

use aya::programs::{BtfTracePoint, Program, ProgramError, ProgramInfo, Xdp};
use aya::{Btf, EbpfLoader, VerifierLogLevel};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use cases::reference::{Hook, run, slot};
use cases::{Input, Outcome, all, lab};
use kernel::Kernel;
use netmesh_common::table::Port;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netmesh-ebpf"));

/// What the verifier may need for a program: what it needs today, rounded up. Growth is to be
/// noticed.
struct Budget {
    /// Instructions followed; kernels stop at a million.
    instructions: u32,
    /// States kept at a time.
    states: u32,
}

const XDP_BUDGET: Budget = Budget {
    instructions: 200_000,
    states: 4_000,
};
const TC_BUDGET: Budget = Budget {
    instructions: 200_000,
    states: 4_000,
};
const FOLLOWER_BUDGET: Budget = Budget {
    instructions: 2_000,
    states: 100,
};

/// Those that put what they count into words.
const LOSS_BUDGET: Budget = Budget {
    instructions: 10_000,
    states: 400,
};

/// The programs that follow neighbours and lost frames, and their tracepoints.
const FOLLOWERS: [(&str, &str); 5] = [
    ("neigh_update_done", "neigh_update_done"),
    ("neigh_timer_handler", "neigh_timer_handler"),
    ("neigh_cleanup", "neigh_cleanup_and_release"),
    ("xdp_sent", "xdp_devmap_xmit"),
    ("xdp_refused", "xdp_redirect_err"),
];

/// Prefix counters the cases use.
const COUNTERS: u32 = 80;

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
            let tells = name.starts_with("xdp_");
            let budget = if tells { LOSS_BUDGET } else { FOLLOWER_BUDGET };
            within(name, &info, budget, &states);
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
        // Loaded once: the verifier is most of the time.
        let mut kernel = Kernel::new();
        let mut filled = None;
        let mut cases = all();
        cases.sort_by_key(|case| case.flags);
        // With stage 1, and without it.
        let each = |stage| cases.iter().map(move |case| (case, stage));
        for (case, stage) in each(1).chain(each(2)) {
            if filled.replace((case.flags, stage)) != Some((case.flags, stage)) {
                kernel.refill(&lab::router(case.flags));
                if stage == 1 {
                    kernel.fill_stage_one(&lab::router(case.flags));
                }
            }
            for (hook, wanted) in [(Hook::Tc, Some(&case.tc)), (Hook::Xdp, case.xdp.as_ref())] {
                let Some(wanted) = wanted.cloned().map(without_device) else {
                    continue;
                };
                if !takes(hook, &case.input.bytes) {
                    continue;
                }
                if hook == Hook::Tc && case.input.tag.is_some() {
                    continue; // A test run keeps no tag beside a packet.
                }
                let found = kernel.run(hook, &case.input);
                assert_eq!(
                    kernel.slot,
                    slot(&lab::router(case.flags), &case.input, hook),
                    "{hook:?} {}",
                    case.name
                );
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
        let mut kernel = Kernel::new();
        for flags in [
            0,
            Port::SOURCES_BEHIND,
            Port::EXTERNAL,
            Port::EXTERNAL | Port::LISTED,
            Port::LAYER3,
        ] {
            let router = lab::router(flags);
            kernel.refill(&router);
            // Both stages answer.
            kernel.fill_stage_one(&router);
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
                    assert_eq!(
                        kernel.slot,
                        slot(&router, &input, hook),
                        "{hook:?} {input:02x?}"
                    );
                    forwarded += u32::from(matches!(found, Outcome::Forward { .. }));
                }
            }
        }
        assert!(forwarded > 1000, "too few packets leave: {forwarded}");
    });
}

/// Flows of every kind to a prefix with several next hops: the programs choose what the library
/// chooses, and every member is chosen.
#[test]
fn library_and_kernel_choose_the_same_next_hop() {
    alone(|| {
        let router = lab::router(0);
        let mut kernel = Kernel::new();
        kernel.fill(&router);
        let mut random = Random(0xf10f);
        let mut chosen = std::collections::BTreeSet::new();
        for n in 0..4000 {
            let input = some_flow(n, &mut random);
            for hook in [Hook::Tc, Hook::Xdp] {
                let wanted = run(&router, 0, &input, hook);
                if let Outcome::Forward { ifindex, .. } = &wanted {
                    chosen.insert((hook == Hook::Xdp, *ifindex));
                }
                let found = kernel.run(hook, &input);
                assert_eq!(found, without_device(wanted), "{hook:?} {input:02x?}");
            }
        }
        // TC sends to the tunnel too.
        assert_eq!(chosen.len(), 3 + 2, "{chosen:?}");
    });
}

/// A packet to the prefixes with several next hops: TCP, UDP, something else, a fragment, or an
/// ICMP error that quotes one of these, as a whole or cut short.
fn some_flow(n: usize, random: &mut Random) -> Input {
    let v6 = n.is_multiple_of(2);
    let transport = |random: &mut Random, source: &str, destination: &str| {
        let mut packet = if v6 {
            cases::packet::v6(source, destination, 64, 24)
        } else {
            cases::packet::v4(source, destination, 64, 24)
        };
        let ports = if v6 { 40 } else { 20 };
        for byte in &mut packet[ports..ports + 4] {
            *byte = random.below(256) as u8;
        }
        let protocol = [6, 17, 50][random.below(3)];
        if v6 {
            for byte in &mut packet[2..4] {
                *byte = random.below(256) as u8;
            }
            cases::packet::with(packet, 6, if random.below(5) == 0 { 44 } else { protocol })
        } else {
            let packet = cases::packet::with4(packet, 9, protocol);
            match random.below(5) {
                0 => cases::packet::with4(packet, 6, 0x20),
                1 => cases::packet::with4(packet, 7, 9),
                _ => packet,
            }
        }
    };
    let (here, there) = if v6 {
        let host = random.below(1 << 16);
        ("2a02:1802:5e:4::a", format!("2a02:1802:5e:1a::{host:x}"))
    } else {
        ("10.1.4.10", format!("10.1.26.{}", random.below(256)))
    };
    if random.below(3) != 0 {
        let packet = transport(random, here, &there);
        return cases::packet::plain(cases::packet::ethernet(packet));
    }
    let quote = transport(random, &there, here);
    let quoted = random.below(quote.len() + 1);
    let mut error = if v6 {
        let packet = cases::packet::v6(here, &there, 64, 8 + quoted);
        let packet = cases::packet::with(packet, 40, random.below(130) as u8);
        cases::packet::with(packet, 6, 58)
    } else {
        let packet = cases::packet::v4(here, &there, 64, 8 + quoted);
        let packet = cases::packet::with(packet, 20, random.below(13) as u8);
        cases::packet::with4(packet, 9, 1)
    };
    let start = error.len() - quoted;
    error[start..].copy_from_slice(&quote[..quoted]);
    cases::packet::plain(cases::packet::ethernet(error))
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
        for index in lab::SEGMENT..=lab::TAGGED_NOT_A_PORT {
            // The MTU that counts is the table's.
            let words = format!(
                "link add name d{index} index {index} mtu 65535 type veth peer name p{index}"
            );
            let done = Command::new("ip").args(words.split(' ')).status().unwrap();
            assert!(done.success(), "ip {words}");
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
