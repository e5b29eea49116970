//! The programs in the kernel, their tables and their counters.

use std::process::Command;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, Map, MapData, PerCpuArray};
use aya::programs::{Program, SchedClassifier, TestRun as _, TestRunOptions, TestRunResult, Xdp};
use nix::sched::{CloneFlags, unshare};

use crate::cases::lab;
use crate::cases::reference::{Hook, Prefix, Router, said_of};
use crate::cases::{Input, Outcome};
use crate::ledger::{COUNTERS, Ledger};
use crate::stage_one::{StageOne, in_place, load};
use netmesh_common::table::{
    FibEntry, NextHop, Port, PortCounters, PortPlace, PrefixCounters, port_place,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netmesh-ebpf"));

/// Longest frame a test run of TC takes: a page without head room and tail room.
const LONGEST_TC: usize = 3_500;

/// What a program returned, in the words of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Handed to a device.
    Redirect,
    /// Left to the kernel.
    Pass,
    /// Dropped.
    Drop,
    /// Anything else.
    Other(u32),
}

impl Verdict {
    /// What the program must return.
    pub(crate) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Forward { .. } => Self::Redirect,
            Outcome::Punt(_) | Outcome::NotOurs => Self::Pass,
            Outcome::Drop(_) => Self::Drop,
        }
    }

    fn returned(hook: Hook, value: u32) -> Self {
        match (hook, value) {
            // XDP_REDIRECT, TC_ACT_REDIRECT
            (Hook::Xdp, 4) | (Hook::Tc, 7) => Self::Redirect,
            // XDP_PASS, TC_ACT_UNSPEC
            (Hook::Xdp, 2) | (Hook::Tc, u32::MAX) => Self::Pass,
            // XDP_DROP, TC_ACT_SHOT
            (Hook::Xdp, 1) | (Hook::Tc, 2) => Self::Drop,
            (_, other) => Self::Other(other),
        }
    }
}

type Prefixes<const N: usize> = LpmTrie<MapData, [u8; N], FibEntry>;

/// Programs and maps of one thread, in a network namespace of its own.
pub(crate) struct Kernel {
    object: Ebpf,
    fib6: Prefixes<16>,
    fib4: Prefixes<4>,
    next_hops: Array<MapData, NextHop>,
    ports: Array<MapData, PortPlace>,
    martians: LpmTrie<MapData, [u32; 6], u32>,
    port_counters: PerCpuArray<MapData, PortCounters>,
    prefix_counters: PerCpuArray<MapData, PrefixCounters>,
    filled: Router,
    stage: StageOne,
    out: Vec<u8>,
}

impl Kernel {
    /// Moves the thread to a namespace with the lab's devices, and loads the programs.
    pub(crate) fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        for index in [lab::SEGMENT, lab::UPLINK, lab::TUNNEL, lab::ELSEWHERE] {
            // The MTU that counts is the table's.
            let words = format!(
                "link add name d{index} index {index} mtu 65535 type veth peer name p{index}"
            );
            let done = Command::new("ip").args(words.split(' ')).status().unwrap();
            assert!(done.success(), "ip {words}");
        }
        let (mut object, first) = load(OBJECT, COUNTERS);
        let xdp: &mut Xdp = program(&mut object, "netmesh_xdp");
        xdp.load().unwrap();
        let tc: &mut SchedClassifier = program(&mut object, "netmesh_tc");
        tc.load().unwrap();
        let mut tx: DevMapHash<_> = map(&mut object, "TX");
        for (port, device) in lab::TX {
            // The random routers have no VLANs.
            if port == device {
                tx.insert(port, device, None, 0).unwrap();
            }
        }
        let stage = StageOne::make(&mut object, first);
        Self {
            stage,
            fib6: map(&mut object, "FIB6"),
            fib4: map(&mut object, "FIB4"),
            next_hops: map(&mut object, "NEXT_HOPS"),
            ports: map(&mut object, "PORTS"),
            martians: map(&mut object, "MARTIANS"),
            port_counters: map(&mut object, "PORT_CNT"),
            prefix_counters: map(&mut object, "PREFIX_CNT"),
            object,
            filled: Router::default(),
            out: vec![0; 1 << 16],
        }
    }

    /// Fills the tables with a router's, and nothing else; stage 1 where it is wanted.
    pub(crate) fn fill(&mut self, router: Router, stage_one: bool) {
        for ((network, length), _) in &self.filled.fib {
            match network.len() {
                16 => self.fib6.remove(&key(network, *length)).unwrap(),
                _ => self.fib4.remove(&key(network, *length)).unwrap(),
            }
        }
        for (index, _) in &self.filled.next_hops {
            self.next_hops.set(*index, NextHop::default(), 0).unwrap();
        }
        for (ifindex, _) in &self.filled.ports {
            let place = port_place(*ifindex, 0);
            self.ports.set(place, PortPlace::default(), 0).unwrap();
        }
        for ((port, prefix), _) in &self.filled.martians {
            self.martians.remove(&martian(*port, prefix)).unwrap();
        }
        for ((network, length), entry) in &router.fib {
            match network.len() {
                16 => self.fib6.insert(&key(network, *length), entry, 0).unwrap(),
                _ => self.fib4.insert(&key(network, *length), entry, 0).unwrap(),
            }
        }
        for (index, hop) in &router.next_hops {
            self.next_hops.set(*index, hop, 0).unwrap();
        }
        for (ifindex, port) in &router.ports {
            let place = port_place(*ifindex, 0);
            self.ports.set(place, in_place(*ifindex, *port), 0).unwrap();
        }
        for ((port, prefix), said) in &router.martians {
            self.martians
                .insert(&martian(*port, prefix), u32::from(*said), 0)
                .unwrap();
        }
        self.stage.fill(if stage_one { &router.fib } else { &[] });
        self.filled = router;
    }

    /// Whether a test run of the hook takes a packet: XDP knows frames only, and no GSO packets;
    /// neither takes less than an Ethernet header, and TC no frame that is shorter than the header
    /// its EtherType announces.
    pub(crate) fn takes(hook: Hook, flags: u32, input: &Input) -> bool {
        let length = input.bytes.len();
        match hook {
            Hook::Xdp => flags & Port::LAYER3 == 0 && input.segment_size == 0 && length >= 14,
            Hook::Tc => {
                let least = match input.bytes.get(12..14) {
                    Some([0x08, 0x00]) => 14 + 20,
                    Some([0x86, 0xdd]) => 14 + 40,
                    _ => 15,
                };
                (least..=LONGEST_TC).contains(&length)
            }
        }
    }

    /// Runs a program on a packet: what it returned, and the packet after it.
    pub(crate) fn run(&mut self, hook: Hook, input: &Input) -> (Verdict, &[u8]) {
        let mut context = [0_u8; 192];
        let mut options = TestRunOptions {
            data_in: Some(&input.bytes),
            data_out: Some(&mut self.out),
            ..TestRunOptions::default()
        };
        let result: TestRunResult = match hook {
            Hook::Xdp => {
                let xdp: &mut Xdp = program(&mut self.object, "netmesh_xdp");
                xdp.test_run(options).unwrap()
            }
            Hook::Tc => {
                // struct __sk_buff: what a test run lets its caller set.
                context[164..168].copy_from_slice(&input.segments.to_ne_bytes());
                context[176..180].copy_from_slice(&input.segment_size.to_ne_bytes());
                options.ctx_in = Some(&context);
                let tc: &mut SchedClassifier = program(&mut self.object, "netmesh_tc");
                tc.test_run(options).unwrap()
            }
        };
        let length = result.data_size_out as usize;
        (
            Verdict::returned(hook, result.return_value),
            &self.out[..length],
        )
    }

    /// The ingress port's counters.
    pub(crate) fn port(&self) -> PortCounters {
        let mut all = Ledger::new().port;
        for one in self.port_counters.get(&0, 0).unwrap().iter() {
            all.received += one.received;
            all.forwarded += one.forwarded;
            all.forwarded_bytes += one.forwarded_bytes;
            all.redirect_failed += one.redirect_failed;
            for (all, one) in all.punted.iter_mut().zip(&one.punted) {
                *all += one;
            }
            for (all, one) in all.dropped.iter_mut().zip(&one.dropped) {
                *all += one;
            }
        }
        all
    }

    /// Every prefix's counters.
    pub(crate) fn prefixes(&self) -> Vec<PrefixCounters> {
        let sum = |index| {
            let mut all = PrefixCounters::default();
            for one in self.prefix_counters.get(&index, 0).unwrap().iter() {
                all.to_packets += one.to_packets;
                all.to_bytes += one.to_bytes;
                all.from_packets += one.from_packets;
                all.from_bytes += one.from_bytes;
            }
            all
        };
        let mut prefixes: Vec<PrefixCounters> = (0..COUNTERS).map(sum).collect();
        self.stage.counted(|counter, held| {
            if let Some(all) = prefixes.get_mut(counter as usize) {
                all.to_packets += held.to_packets;
                all.to_bytes += held.to_bytes;
                all.from_packets += held.from_packets;
                all.from_bytes += held.from_bytes;
            }
        });
        prefixes
    }
}

fn program<'a, T>(object: &'a mut Ebpf, name: &str) -> &'a mut T
where
    &'a mut T: TryFrom<&'a mut Program>,
{
    let program = object.program_mut(name).unwrap();
    program.try_into().ok().unwrap()
}

fn map<T: TryFrom<Map>>(object: &mut Ebpf, name: &str) -> T {
    let map = object.take_map(name).unwrap();
    map.try_into().ok().unwrap()
}

fn key<const N: usize>(network: &[u8], length: u8) -> Key<[u8; N]> {
    Key::new(u32::from(length), network.try_into().unwrap())
}

fn martian(port: u32, prefix: &Prefix) -> Key<[u32; 6]> {
    let (length, data) = said_of(port, prefix);
    Key::new(length, data)
}
