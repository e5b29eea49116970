//! Random routers and random packets: valid, broken, and at every edge that the decision knows.
//!
//! A grammar reads its choices from [`Dice`], which are a seed (the same packet in every run) or
//! the bytes of a fuzzer.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "test helpers; not every host uses each of them"
)]

mod address;
mod dice;
mod packet;
mod world;

use crate::cases::reference::{Prefix, Router};
use netmesh_common::table::FibEntry;

pub(crate) use dice::Dice;
pub(crate) use packet::packet;
pub(crate) use world::{World, world};

/// A router's routes and their next hops, one a line.
pub(crate) fn routes(router: &Router) -> String {
    let line = |((network, length), entry): &(Prefix, FibEntry)| {
        let hops = router.next_hops.iter();
        let mut hops = hops.filter(|(index, _)| *index == entry.next_hop);
        let hop = hops.next().map_or("no next hop".to_owned(), |(_, hop)| {
            format!(
                "device {} mtu {} link {:x} flags {}",
                hop.ifindex, hop.mtu, hop.link, hop.flags
            )
        });
        let octets: Vec<String> = network.iter().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "  {}/{length} action {} origin {} counter {}: {hop}\n",
            octets.concat(),
            entry.action,
            entry.origin,
            entry.counter
        )
    };
    router.fib.iter().map(line).collect()
}

/// Bytes as people read them, sixteen a line.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).enumerate().map(|(line, bytes)| {
        let words: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("  {:04x}  {}\n", line * 16, words.join(" "))
    });
    lines.collect()
}
