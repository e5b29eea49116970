//! Random routers: the lab's devices and port, everything else by chance.

use netmesh_common::table::{Action, FibEntry, Link, NextHop, Origin, Port};

use super::Dice;
use super::address::{V4, V6, edge, join, parse};
use crate::cases::lab::{self, ELSEWHERE, INGRESS, SEGMENT, TUNNEL, UPLINK};
use crate::cases::reference::{Prefix, Router};

/// Prefix counters a router uses.
pub(crate) const COUNTERS: u32 = 64;

/// Next hops of a router: indexes from 1.
const NEXT_HOPS: u32 = 24;

/// Next hops on the ingress port, and on another one.
const HERE: u32 = 1;
const THERE: u32 = 2;

/// MTUs: those of real links, and those that make packets at the edge short.
const MTUS: [u32; 12] = [
    1500, 1420, 1280, 68, 576, 60, 100, 1492, 1380, 9000, 65_575, 20,
];

/// Where next hops are, the usual ones more often; 0 is a free slot.
const DEVICES: [u32; 9] = [
    SEGMENT, SEGMENT, UPLINK, UPLINK, TUNNEL, INGRESS, INGRESS, ELSEWHERE, 0,
];

/// A router, and the flags of the port every packet comes in through.
pub(crate) struct World {
    /// The tables.
    pub(crate) router: Router,
    /// Flags of the ingress port.
    pub(crate) flags: u32,
    /// MTUs in use.
    pub(crate) mtus: Vec<u32>,
    /// Prefixes behind the ingress port.
    pub(crate) behind: Vec<Prefix>,
    /// Prefixes behind another device, whose next hop is there.
    pub(crate) beyond: Vec<Prefix>,
}

/// A random router.
pub(crate) fn world(dice: &mut Dice) -> World {
    let mut router = Router::default();
    let flags = [Port::SOURCES_BEHIND, Port::EXTERNAL]
        .into_iter()
        .filter(|_| dice.one_in(2))
        .sum::<u32>()
        | if dice.one_in(4) { Port::LAYER3 } else { 0 }
        | if dice.one_in(3) { Port::LISTED } else { 0 };
    if flags & Port::LISTED != 0 {
        router.martians = martians(dice);
    }
    router.ports.push((INGRESS, lab::ingress(flags)));
    for (slot, ifindex) in [(1, SEGMENT), (2, UPLINK), (3, TUNNEL)] {
        if dice.one_in(8) {
            continue;
        }
        let several = if dice.one_in(2) {
            Port::SEVERAL_BUFFERS
        } else {
            0
        };
        let flags = dice.below(8) as u32 | several;
        let mac = lab::macs(ifindex).1;
        let port = Port {
            slot,
            flags,
            mac,
            vlan: 0,
        };
        router.ports.push((ifindex, port));
    }
    let usual = dice.pick(&MTUS);
    for index in 1..=NEXT_HOPS {
        let ifindex = match index {
            HERE => INGRESS,
            THERE => dice.pick(&[SEGMENT, UPLINK]),
            _ => dice.pick(&DEVICES),
        };
        router
            .next_hops
            .push((index, next_hop(dice, ifindex, usual)));
    }
    for prefix in prefixes(dice) {
        let entry = entry(dice, &prefix);
        router.fib.push((prefix, entry));
    }
    // Somebody lives behind the ingress port, and somebody beyond another one.
    for size in [V6, V4] {
        for next_hop in [HERE, THERE] {
            let mut family: Vec<&mut (Prefix, FibEntry)> = router
                .fib
                .iter_mut()
                .filter(|((network, _), _)| network.len() == size)
                .collect();
            let chosen = dice.below(family.len());
            let entry = &mut family[chosen].1;
            entry.action = Action::Forward as u8;
            entry.next_hop = next_hop;
        }
    }
    let mut mtus: Vec<u32> = router.next_hops.iter().map(|(_, hop)| hop.mtu).collect();
    mtus.sort_unstable();
    mtus.dedup();
    let via = |wanted: fn(u32) -> bool| -> Vec<Prefix> {
        let through = |entry: &FibEntry| {
            let hops = router.next_hops.iter();
            let mut hops = hops.filter(|(index, _)| *index == entry.next_hop);
            hops.any(|(_, hop)| wanted(hop.ifindex))
        };
        let routes = router.fib.iter().filter(|(_, entry)| through(entry));
        routes.map(|(prefix, _)| prefix.clone()).collect()
    };
    World {
        behind: via(|ifindex| ifindex == INGRESS),
        beyond: via(|ifindex| ifindex != INGRESS && ifindex != 0),
        router,
        flags,
        mtus,
    }
}

/// What ports say of prefixes, most of them at the edges of the special ones.
fn martians(dice: &mut Dice) -> Vec<((u32, Prefix), bool)> {
    let mut found: Vec<((u32, Prefix), bool)> = Vec::new();
    for _ in 0..dice.below(12) {
        let size = dice.pick(&[V6, V4]);
        let (network, length) = match dice.below(8) {
            0 => (vec![0; size], 0),
            1 => (dice.bytes(size), dice.below(size * 8 + 1) as u8),
            _ => edge(dice, size),
        };
        let network = join(&network, length, &vec![0; size]);
        let port = dice.pick(&[INGRESS, INGRESS, UPLINK, SEGMENT]);
        found.push(((port, (network, length)), dice.one_in(2)));
    }
    found.sort();
    found.dedup_by(|one, other| one.0 == other.0);
    found
}

/// Never the same prefix twice.
fn prefixes(dice: &mut Dice) -> Vec<Prefix> {
    let mut found: Vec<Prefix> = Vec::new();
    for size in [V6, V4] {
        let bits = size * 8;
        let whole = (vec![0; size], 0);
        // A default route is usual, and a table without one is too.
        if !dice.one_in(3) {
            found.push(whole);
        }
        let home = match (size, dice.below(4)) {
            (V6, 0) => parse("2a02:1802:5e::/48"),
            (V6, 1) => parse("400::/16"),
            (V4, 0) => parse("10.1.0.0/16"),
            _ => (dice.bytes(size), (16 + dice.below(bits / 2)) as u8),
        };
        let mut family = vec![home];
        for _ in 0..dice.below(20) {
            let parent = match dice.below(8) {
                0..=4 => family[dice.below(family.len())].clone(),
                5 => edge(dice, size),
                _ => (vec![0; size], 0),
            };
            let room = bits - usize::from(parent.1);
            // Stage 1 of the table holds these lengths.
            let exact = if size == V6 { 64 } else { 24 };
            let more = match dice.below(6) {
                0 => 8.min(room),
                2 | 3 if usize::from(parent.1) < exact => exact - usize::from(parent.1),
                1 => room,
                _ => dice.below(room + 1),
            };
            let network = join(&parent.0, parent.1, &dice.bytes(size));
            family.push((network, parent.1 + more as u8));
        }
        found.extend(family);
    }
    for (network, length) in &mut found {
        *network = join(network, *length, &vec![0; network.len()]);
    }
    found.sort();
    found.dedup();
    found
}

fn entry(dice: &mut Dice, (_, length): &Prefix) -> FibEntry {
    let action = match dice.below(16) {
        0..=10 => Action::Forward,
        11 => Action::Local,
        12 => Action::Connected,
        13 => Action::Blackhole,
        14 => dice.pick(&[Action::Unreachable, Action::Prohibit]),
        _ => Action::Punt,
    };
    // What no version has written is the kernel's.
    let unknown = dice.one_in(64).then(|| dice.pick(&[0, 8, 255]));
    let needs_hop = unknown.is_none() && matches!(action, Action::Forward | Action::Connected);
    FibEntry {
        // The last index is free; what needs no next hop names none.
        next_hop: match needs_hop {
            true => 1 + dice.below(NEXT_HOPS as usize + 1) as u32,
            false => 0,
        },
        counter: match dice.one_in(8) {
            true => FibEntry::UNCOUNTED,
            false => dice.below(COUNTERS as usize) as u32,
        },
        action: unknown.unwrap_or(action as u8),
        prefix_length: *length,
        origin: match action {
            Action::Local | Action::Connected => Origin::Connected as u8,
            _ => dice.pick(Origin::ALL) as u8,
        },
        reserved: [0; 5],
    }
}

fn next_hop(dice: &mut Dice, ifindex: u32, usual: u32) -> NextHop {
    let headless = (ifindex == TUNNEL) != dice.one_in(32);
    let (neighbour, own) = lab::macs(ifindex);
    NextHop {
        link: match dice.one_in(8) {
            true => Link::UNRESOLVED.0,
            false => Link::resolved(neighbour).0,
        },
        ifindex,
        mtu: match dice.one_in(4) {
            true => dice.pick(&MTUS),
            false => usual,
        },
        source_mac: own,
        flags: if headless { NextHop::LAYER3 } else { 0 },
        ..NextHop::default()
    }
}
