//! The programs, loaded, and their tables.

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, PerCpuArray};
use aya::programs::{
    Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions, TestRunResult, Xdp,
};
use aya::{Ebpf, Pod};
use netmesh_common::group::Group;
use netmesh_common::table::{
    FibEntry, NextHop, PORT_PLACES, PORT_TRIES, PortCounters, PortPlace, PrefixCounters, REASONS,
    port_place, vlan_key,
};
use netmesh_common::verdict::{DropReason, PuntReason};

use super::{COUNTERS, OBJECT};
use crate::cases::reference::{Hook, Prefix, Router, said_of};
use crate::cases::{Count, Input, Outcome, lab};
use crate::stage_one::{StageOne, in_place, load};
use netmesh::dataplane::FirstTable;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// Ports the cases use.
const SLOTS: u32 = 8;
/// Counters at rest.
const NOTHING: PortCounters = PortCounters {
    received: 0,
    forwarded: 0,
    forwarded_bytes: 0,
    redirect_failed: 0,
    punted: [0; REASONS],
    dropped: [0; REASONS],
};

/// The programs, loaded.
pub(super) struct Kernel {
    pub(super) object: Ebpf,
    /// The port that the last packet was counted on.
    pub(super) slot: Option<u32>,
    /// The table of stage 1, where there is one.
    pub(super) stage: Option<StageOne>,
    /// The memory it will have.
    first: Option<FirstTable>,
}

impl Kernel {
    pub(super) fn new() -> Self {
        let (object, first) = load(OBJECT, COUNTERS);
        let mut kernel = Self {
            object,
            slot: None,
            stage: None,
            first: Some(first),
        };
        kernel.xdp().load().unwrap();
        kernel.tc().load().unwrap();
        kernel
    }

    pub(super) fn xdp(&mut self) -> &mut Xdp {
        self.program("netmesh_xdp")
    }

    pub(super) fn tc(&mut self) -> &mut SchedClassifier {
        self.program("netmesh_tc")
    }

    pub(super) fn program<'a, T>(&'a mut self, name: &str) -> &'a mut T
    where
        &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        self.object.program_mut(name).unwrap().try_into().unwrap()
    }

    /// Puts what stage 1 can hold into stage 1 as well.
    pub(super) fn fill_stage_one(&mut self, router: &Router) {
        if let Some(first) = self.first.take() {
            self.stage = Some(StageOne::make(&mut self.object, first));
        }
        self.stage.as_mut().unwrap().fill(&router.fib);
    }

    /// Makes a router's tables all there are, stage 1 empty.
    pub(super) fn refill(&mut self, router: &Router) {
        if let Some(stage) = &mut self.stage {
            stage.fill(&[]);
        }
        self.empty_trie::<[u8; 16], FibEntry>("FIB6");
        self.empty_trie::<[u8; 4], FibEntry>("FIB4");
        self.empty_trie::<[u32; 6], u32>("MARTIANS");
        let mut ports: Array<_, PortPlace> =
            self.object.map_mut("PORTS").unwrap().try_into().unwrap();
        for place in 0..PORT_PLACES {
            ports.set(place, PortPlace::default(), 0).unwrap();
        }
        self.fill(router);
    }

    fn empty_trie<K: Pod, V: Pod>(&mut self, name: &str) {
        let mut trie: LpmTrie<_, K, V> = self.object.map_mut(name).unwrap().try_into().unwrap();
        let stale: Vec<Key<K>> = trie.keys().map(Result::unwrap).collect();
        for key in stale {
            trie.remove(&key).unwrap();
        }
    }

    pub(super) fn fill(&mut self, router: &Router) {
        let mut fib: LpmTrie<_, [u8; 16], FibEntry> =
            self.object.map_mut("FIB6").unwrap().try_into().unwrap();
        for ((network, length), entry) in &router.fib {
            if let Ok(network) = network.as_slice().try_into() {
                let key = Key::new(u32::from(*length), network);
                fib.insert(&key, entry, 0).unwrap();
            }
        }
        let mut fib: LpmTrie<_, [u8; 4], FibEntry> =
            self.object.map_mut("FIB4").unwrap().try_into().unwrap();
        for ((network, length), entry) in &router.fib {
            if let Ok(network) = network.as_slice().try_into() {
                let key = Key::new(u32::from(*length), network);
                fib.insert(&key, entry, 0).unwrap();
            }
        }
        let mut hops: Array<_, NextHop> = self
            .object
            .map_mut("NEXT_HOPS")
            .unwrap()
            .try_into()
            .unwrap();
        for (index, hop) in &router.next_hops {
            hops.set(*index, hop, 0).unwrap();
        }
        let mut groups: Array<_, Group> =
            self.object.map_mut("GROUPS").unwrap().try_into().unwrap();
        for (index, group) in &router.groups {
            groups.set(*index, group, 0).unwrap();
        }
        let mut ports: Array<_, PortPlace> =
            self.object.map_mut("PORTS").unwrap().try_into().unwrap();
        // The last of its places, to try all of them.
        for (ifindex, port) in &router.ports {
            let place = port_place(*ifindex, PORT_TRIES - 1);
            ports.set(place, in_place(*ifindex, *port), 0).unwrap();
        }
        let mut martians: LpmTrie<_, [u32; 6], u32> =
            self.object.map_mut("MARTIANS").unwrap().try_into().unwrap();
        for ((port, prefix), said) in &router.martians {
            martians
                .insert(&martian(*port, prefix), u32::from(*said), 0)
                .unwrap();
        }
        let mut tx: DevMapHash<_> = self.object.map_mut("TX").unwrap().try_into().unwrap();
        for (port, device) in lab::TX {
            tx.insert(port, device, None, 0).unwrap();
        }
        let mut vlans: DevMapHash<_> = self.object.map_mut("VLANS").unwrap().try_into().unwrap();
        for ((device, vid), ifindex) in &router.vlans {
            let key = vlan_key(*device, *vid).unwrap();
            vlans.insert(key, *ifindex, None, 0).unwrap();
        }
    }

    /// What a program makes of a packet, as bytes and counters tell.
    pub(super) fn run(&mut self, hook: Hook, input: &Input) -> Outcome {
        let (ports_before, prefixes_before) = self.counters();
        let mut out = [0; 4096];
        let result = match hook {
            Hook::Xdp => self.run_xdp(&input.bytes, &mut out),
            Hook::Tc => self.run_tc(input, &mut out),
        };
        let bytes = &out[..result.data_size_out as usize];
        let (ports, prefixes) = self.counters();
        let moved: Vec<usize> = (0..ports.len())
            .filter(|slot| ports[*slot] != ports_before[*slot])
            .collect();
        assert!(moved.len() <= 1, "counted on one port: {moved:?}");
        self.slot = moved.first().map(|slot| *slot as u32);
        let slot = moved.first().copied().unwrap_or_default();
        let (port, port_before) = (&ports[slot], &ports_before[slot]);
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
                if self.slot.is_none() {
                    return Outcome::NotOurs;
                }
                let index = only(&port.punted, &port_before.punted);
                Outcome::Punt(PuntReason::ALL[index])
            }
            Action::Drop => {
                let index = only(&port.dropped, &port_before.dropped);
                Outcome::Drop(DropReason::ALL[index])
            }
        }
    }

    pub(super) fn run_xdp(&mut self, packet: &[u8], out: &mut [u8]) -> TestRunResult {
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(out),
            ..TestRunOptions::default()
        };
        self.xdp().test_run(options).unwrap()
    }

    pub(super) fn run_tc(&mut self, input: &Input, out: &mut [u8]) -> TestRunResult {
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

    /// Every port's counters, and every prefix's.
    pub(super) fn counters(&self) -> (Vec<PortCounters>, Vec<PrefixCounters>) {
        let ports: PerCpuArray<_, PortCounters> =
            self.object.map("PORT_CNT").unwrap().try_into().unwrap();
        let ports = (0..SLOTS)
            .map(|slot| {
                let mut all = NOTHING;
                for one in ports.get(&slot, 0).unwrap().iter() {
                    all.received += one.received;
                    all.forwarded += one.forwarded;
                    all.forwarded_bytes += one.forwarded_bytes;
                    add(&mut all.punted, &one.punted);
                    add(&mut all.dropped, &one.dropped);
                }
                all
            })
            .collect();
        let prefixes: PerCpuArray<_, PrefixCounters> =
            self.object.map("PREFIX_CNT").unwrap().try_into().unwrap();
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
        if let Some(stage) = &self.stage {
            stage.counted(|counter, held| {
                if let Some(sum) = prefixes.get_mut(counter as usize) {
                    sum.to_packets += held.to_packets;
                    sum.to_bytes += held.to_bytes;
                    sum.from_packets += held.from_packets;
                    sum.from_bytes += held.from_bytes;
                }
            });
        }
        (ports, prefixes)
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

fn martian(port: u32, prefix: &Prefix) -> Key<[u32; 6]> {
    let (length, data) = said_of(port, prefix);
    Key::new(length, data)
}
