//! Addresses: inside a router's prefixes, beside them, at the edges of the special ones, any.

use std::net::IpAddr;

use super::{Dice, World};
use crate::cases::reference::Prefix;

/// Prefixes at whose edges classes of addresses change, and neighbours of them that are in none.
const EDGES: [&str; 62] = [
    "::/96",
    "::/128",
    "::1/128",
    "::ffff:0:0/96",
    "::fffe:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "200::/7",
    "400::/7",
    "2000::/3",
    "2001::/23",
    "2001::/32",
    "2001:1::/32",
    "2001:1::1/128",
    "2001:1::2/127",
    "2001:2::/48",
    "2001:3::/32",
    "2001:4:112::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:30::/28",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe00::/9",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "ff02::1/128",
    "0.0.0.0/8",
    "0.0.0.0/32",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.0.0/29",
    "192.0.0.8/32",
    "192.0.0.9/32",
    "192.0.0.10/32",
    "192.0.0.170/31",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "232.0.0.0/8",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "8.8.8.0/24",
    "1.0.0.0/8",
];

/// Which family, by the length of its addresses.
pub(super) const V6: usize = 16;
/// The other one.
pub(super) const V4: usize = 4;

/// An address of a family: inside one of the `likely` prefixes, mostly.
pub(super) fn address(dice: &mut Dice, world: &World, likely: &[Prefix], size: usize) -> Vec<u8> {
    let of_family = |(network, _): &&Prefix| network.len() == size;
    let likely: Vec<&Prefix> = likely.iter().filter(of_family).collect();
    let routes = world.router.fib.iter().map(|(prefix, _)| prefix);
    let of_family: Vec<&Prefix> = routes.filter(of_family).collect();
    match dice.below(16) {
        0..=8 if !likely.is_empty() => {
            let prefix = dice.pick(&likely);
            inside(dice, prefix)
        }
        0..=11 if !of_family.is_empty() => {
            let prefix = dice.pick(&of_family);
            inside(dice, prefix)
        }
        12 => {
            let prefix = edge(dice, size);
            inside(dice, &prefix)
        }
        13 => {
            let prefix = edge(dice, size);
            beside(dice, &prefix)
        }
        14 if !of_family.is_empty() => {
            let prefix = dice.pick(&of_family);
            beside(dice, prefix)
        }
        _ => dice.bytes(size),
    }
}

/// A special prefix of the family.
pub(super) fn edge(dice: &mut Dice, size: usize) -> Prefix {
    let list: Vec<&str> = EDGES
        .iter()
        .filter(|text| text.contains(':') == (size == V6))
        .copied()
        .collect();
    parse(dice.pick(&list))
}

/// A prefix from its text.
pub(super) fn parse(text: &str) -> Prefix {
    let (network, length) = text.split_once('/').unwrap();
    let network = match network.parse().unwrap() {
        IpAddr::V6(address) => address.octets().to_vec(),
        IpAddr::V4(address) => address.octets().to_vec(),
    };
    (network, length.parse().unwrap())
}

/// An address of the prefix: its first, its last, or any.
pub(super) fn inside(dice: &mut Dice, (network, length): &Prefix) -> Vec<u8> {
    let host = match dice.below(4) {
        0 => vec![0; network.len()],
        1 => vec![0xff; network.len()],
        _ => dice.bytes(network.len()),
    };
    join(network, *length, &host)
}

/// The address before the prefix, or the one behind it.
fn beside(dice: &mut Dice, (network, length): &Prefix) -> Vec<u8> {
    let before = dice.one_in(2);
    let mut address = join(
        network,
        *length,
        &vec![if before { 0 } else { 0xff }; network.len()],
    );
    for byte in address.iter_mut().rev() {
        *byte = if before {
            byte.wrapping_sub(1)
        } else {
            byte.wrapping_add(1)
        };
        let carries = *byte == if before { 0xff } else { 0 };
        if !carries {
            break;
        }
    }
    address
}

/// The first `length` bits of one, the rest of the other.
pub(super) fn join(network: &[u8], length: u8, host: &[u8]) -> Vec<u8> {
    let mut joined = host.to_vec();
    for bit in 0..usize::from(length) {
        let mask = 0x80 >> (bit % 8);
        joined[bit / 8] = (joined[bit / 8] & !mask) | (network[bit / 8] & mask);
    }
    joined
}
