//! Random packets, valid and broken, near everything a router must know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::wire::{frame as frame_of, ipv6};

use super::dice::Dice;
use super::frames;
use super::routes::{Route, Target};
use super::twins::{MTU, NEIGHBOURS, PORTS, SOURCES_PORT, neighbour, own, own_mac};

const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;

/// Options that a router skips: PadN, router alert, an unknown one that may be skipped.
const HARMLESS: [[u8; 6]; 3] = [
    [1, 4, 0, 0, 0, 0],
    [5, 2, 0, 0, 1, 0],
    [0x1e, 4, 0, 0, 0, 0],
];
/// Options that make it answer: jumbo payload, unknown ones, a router alert of a wrong length.
const ANSWERED: [[u8; 6]; 4] = [
    [0xc2, 4, 0, 1, 0, 0],
    [0x9e, 4, 0, 0, 0, 0],
    [0xde, 4, 0, 0, 0, 0],
    [5, 4, 0, 0, 1, 0],
];

/// A frame for a port, with so many tags at most. Only ports that the table leads to are sent to.
#[must_use]
pub fn frame(dice: &mut Dice, routes: &[Route], port: usize, tags: usize) -> Vec<u8> {
    let way = Way::new(dice, routes, port);
    let (mut packet, v6) = if dice.chance(3, 5) {
        (packet_v6(dice, &way), true)
    } else {
        (packet_v4(dice, &way), false)
    };
    if !way.plain && dice.chance(1, 8) {
        scar(dice, &mut packet);
    }
    if !way.plain && dice.chance(1, 10) {
        packet.truncate(dice.below(packet.len() + 1));
    }
    if dice.chance(1, 16) {
        let padding = 1 + dice.below(64);
        packet.extend(dice.bytes(padding));
    }
    if port == PORTS {
        packet.truncate(MTU[PORTS]);
        return packet;
    }
    if port == SOURCES_PORT {
        unasked(&mut packet);
    }
    let mut frame = link(dice, &way, v6, tags, &packet);
    frame.truncate(14 + MTU[port]);
    frame
}

/// The kernel answers broken hop-by-hop options before any rule of its own can look at the source;
/// ours drops a packet whose source is not believed first. So on the port where sources are checked
/// only whole ones are sent, of options that nobody answers.
fn unasked(packet: &mut [u8]) {
    let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    if !is_v6 || packet.get(6) != Some(&HOP_BY_HOP) {
        return;
    }
    let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    let is_whole = length >= 8 && packet.len() >= 40 + length && packet[41] == 0;
    let is_harmless = |option: &[u8; 6]| packet.get(42..48) == Some(option);
    if !(is_whole && HARMLESS.iter().any(is_harmless)) {
        packet[6] = NO_NEXT_HEADER;
    }
}

/// What a packet shall meet: where it comes in, where it wants to go.
struct Way {
    /// The port.
    port: usize,
    /// Most of it is in order, so that it gets far.
    plain: bool,
    /// Prefixes its source may lie in.
    sources: Vec<IpNet>,
    /// Prefixes its destination may lie in.
    destinations: Vec<IpNet>,
}

impl Way {
    fn new(dice: &mut Dice, routes: &[Route], port: usize) -> Self {
        let plain = dice.chance(3, 5);
        let leads = |route: &Route| match route.target {
            Target::Neighbour(port, _) | Target::Members(port, _) => Some(port),
            Target::Tunnel => Some(PORTS),
            _ => None,
        };
        let prefixes = |wanted: &dyn Fn(Option<usize>) -> bool| -> Vec<IpNet> {
            let some = routes.iter().filter(|route| wanted(leads(route)));
            some.map(|route| route.prefix).collect()
        };
        let all = |_| true;
        let away = |to: Option<usize>| to.is_some_and(|to| to != port);
        let behind = |to: Option<usize>| to == Some(port);
        let is_checked = port == SOURCES_PORT && dice.chance(4, 5);
        Self {
            port,
            plain,
            sources: prefixes(if is_checked { &behind } else { &all }),
            destinations: prefixes(if plain { &away } else { &all }),
        }
    }
}

/// Bytes of the headers changed, the IPv4 checksum mended in half of the cases.
fn scar(dice: &mut Dice, packet: &mut [u8]) {
    for _ in 0..=dice.below(2) {
        if packet.is_empty() {
            return;
        }
        let at = dice.below(packet.len().min(48));
        packet[at] = match dice.below(3) {
            0 => dice.byte(),
            1 => packet[at] ^ (1 << dice.below(8)),
            _ => *dice.pick(&[0, 1, 0x7f, 0xff]),
        };
    }
    if packet.first().is_some_and(|first| first >> 4 == 4) && dice.chance(1, 2) {
        frames::seal_v4(packet);
    }
}

/// The link-layer header: mostly the right one.
fn link(dice: &mut Dice, way: &Way, v6: bool, tags: usize, packet: &[u8]) -> Vec<u8> {
    let port = way.port;
    let right = own_mac(port);
    let to = match dice.below(if way.plain { 400 } else { 40 }) {
        0 => own_mac((port + 1) % PORTS),
        1 => [0xff; 6],
        2 => [0x33, 0x33, 0, 0, 0, 1],
        3 => [1, 0, 0x5e, 0, 0, 1],
        4 => [2, 0, 0x5e, 9, 9, 9],
        _ => right,
    };
    let from = neighbour(port, dice.below(NEIGHBOURS)).2;
    let ethertype = if v6 { 0x86dd } else { 0x0800 };
    match dice.below(if way.plain { 400 } else { 40 }) {
        // The other family's, one of nobody, an 802.3 length.
        0 => frame_of(to, from, 0x86dd ^ 0x0800 ^ ethertype, packet),
        1 => frame_of(
            to,
            from,
            *dice.pick(&[0x88cc, 0x8847, 0x0600, 0x05dc]),
            packet,
        ),
        // A tag, two tags, a provider's tag, a priority tag.
        2 => {
            let id = *dice.pick(&[0, 0xe000, 1, 7, 4095]);
            let tag = tagged(id, ethertype, packet);
            frame_of(to, from, *dice.pick(&[0x8100, 0x8100, 0x88a8]), &tag)
        }
        // Priority tags, the last of which may name a VLAN.
        3 => {
            let mut behind = packet.to_vec();
            let mut inner = ethertype;
            for place in 0..=dice.below(tags) {
                let id = *dice.pick(&[0, 0, 0, 0x3000, if place == 0 { 7 } else { 0 }]);
                behind = tagged(id, inner, &behind);
                inner = *dice.pick(&[0x8100, 0x88a8]);
            }
            frame_of(to, from, inner, &behind)
        }
        4 => {
            let inner = tagged(7, ethertype, packet);
            frame_of(to, from, 0x8100, &tagged(8, 0x8100, &inner))
        }
        _ => frame_of(to, from, ethertype, packet),
    }
}

fn tagged(id: u16, ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(packet);
    bytes
}

/// Hop limits and TTLs at which something happens.
fn hops(dice: &mut Dice, way: &Way) -> u8 {
    match dice.below(if way.plain { 40 } else { 8 }) {
        0 => *dice.pick(&[0, 1, 2]),
        1 => 255,
        2 => dice.byte(),
        _ => 64,
    }
}

/// Payload bytes so that the whole is short, at an edge of an MTU, or anything.
fn room(dice: &mut Dice, header: usize) -> usize {
    let whole = match dice.below(10) {
        0 => *dice.pick(&MTU) + dice.below(3) - 1,
        1 => *dice.pick(&MTU) + dice.below(84) - 42,
        2 => 1279 + dice.below(3),
        3 => dice.below(1500),
        4 => header + dice.below(9),
        _ => header + 8 + dice.below(120),
    };
    whole.saturating_sub(header).min(1460)
}

/// The transport: protocol and bytes, checksum right in most cases.
fn transport(dice: &mut Dice, source: IpAddr, destination: IpAddr, room: usize) -> (u8, Vec<u8>) {
    let v6 = source.is_ipv6();
    let mut data = dice.bytes(room);
    let (protocol, at) = match dice.below(10) {
        0..=3 => {
            let length = (room as u16).to_be_bytes();
            put(&mut data, 4, &length);
            // Ports of nothing that would answer by itself.
            put(
                &mut data,
                0,
                &[0x40 | dice.byte() & 0x3f, dice.byte(), 0xc0, dice.byte()],
            );
            (UDP, 6)
        }
        4..=6 => {
            let flags = *dice.pick(&[0x02, 0x10, 0x18, 0x11, 0x04]);
            put(&mut data, 2, &[0xc0]);
            put(&mut data, 12, &[0x50, flags]);
            (TCP, 16)
        }
        7 | 8 => {
            put(&mut data, 0, &icmp(dice, v6));
            (if v6 { ICMPV6 } else { ICMP }, 2)
        }
        // Anything but what makes the kernel talk of itself later: IGMP.
        _ => match dice.byte() {
            2 => (NO_NEXT_HEADER, usize::MAX - 2),
            other => (other, usize::MAX - 2),
        },
    };
    if dice.chance(7, 8) {
        frames::seal(source, destination, protocol, at, &mut data);
    }
    (protocol, data)
}

fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = data.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Type and code: echoes, errors and unknown ones; nothing of neighbour or group discovery, which
/// the kernel answers whenever it likes.
fn icmp(dice: &mut Dice, v6: bool) -> [u8; 2] {
    if v6 {
        *dice.pick(&[
            [128, 0],
            [129, 0],
            [1, 0],
            [1, 3],
            [2, 0],
            [3, 0],
            [4, 1],
            [100, 0],
            [200, 9],
        ])
    } else {
        *dice.pick(&[
            [8, 0],
            [0, 0],
            [3, 1],
            [3, 3],
            [3, 4],
            [11, 0],
            [12, 0],
            [13, 0],
            [40, 9],
        ])
    }
}

fn packet_v6(dice: &mut Dice, way: &Way) -> Vec<u8> {
    let source = address_v6(dice, way, &way.sources, Some(way.port));
    let destination = address_v6(dice, way, &way.destinations, None);
    let mut extensions: Vec<(u8, Vec<u8>)> = Vec::new();
    for _ in 0..[0, 0, 0, 0, 0, 1, 1, 2][dice.below(8)] {
        extensions.push(extension(dice, way));
    }
    let more: usize = extensions.iter().map(|(_, bytes)| bytes.len()).sum();
    let room = room(dice, 40 + more);
    let (mut next, mut payload) = transport(dice, source.into(), destination.into(), room);
    if dice.chance(1, 30) {
        next = NO_NEXT_HEADER;
        payload.clear();
    }
    for (kind, mut bytes) in extensions.into_iter().rev() {
        bytes[0] = next;
        bytes.extend(payload);
        payload = bytes;
        next = kind;
    }
    let mut packet = ipv6(source, destination, hops(dice, way), next, &payload);
    // Traffic class and flow label.
    packet[0] |= dice.byte() & 0xf;
    packet[1] = dice.byte();
    packet[2] = dice.byte();
    if !way.plain && dice.chance(1, 8) {
        let length = match dice.below(4) {
            0 => 0,
            1 => payload.len() as u16 + 1,
            2 => (payload.len() as u16).saturating_sub(1),
            _ => dice.below(1 << 16) as u16,
        };
        packet[4..6].copy_from_slice(&length.to_be_bytes());
    }
    packet
}

/// An extension header: its kind, its bytes; the first byte is the next header's place.
///
/// On the port whose sources are checked no option may be one that the kernel answers: it does so
/// before any rule of its own can look at the source, and ours drops such a packet first.
fn extension(dice: &mut Dice, way: &Way) -> (u8, Vec<u8>) {
    let answered = usize::from(way.port == SOURCES_PORT) * ANSWERED.len();
    match dice.below(6) {
        // PadN, router alert, jumbo payload, an unknown option of every kind.
        0 | 1 => {
            let options = [&HARMLESS[..], &ANSWERED].concat();
            let option = *dice.pick(&options[..options.len() - answered]);
            let kind = *dice.pick(&[HOP_BY_HOP, DESTINATION_OPTIONS]);
            (kind, [&[0, 0][..], &option].concat())
        }
        2 => {
            let kind = *dice.pick(&[0, 2, 4, 253]);
            let mut bytes = vec![0, 2, kind, dice.byte() & 1];
            bytes.extend(dice.bytes(20));
            (ROUTING, bytes)
        }
        3 | 4 => {
            let offset = *dice.pick(&[[0, 0], [0, 1], [0, 0xb9], [5, 0xc8], [0xff, 0xf9]]);
            let id = dice.bytes(4);
            (FRAGMENT, [&[0, 0][..], &offset, &id].concat())
        }
        _ => (DESTINATION_OPTIONS, vec![0, 0, 1, 4, 0, 0, 0, 0]),
    }
}

fn packet_v4(dice: &mut Dice, way: &Way) -> Vec<u8> {
    let source = address_v4(dice, way, &way.sources, Some(way.port));
    let destination = address_v4(dice, way, &way.destinations, None);
    let options: &[u8] = match dice.below(if way.plain { 96 } else { 24 }) {
        0 => &[1, 1, 1, 0],
        1 => &[7, 7, 4, 0, 0, 0, 0, 0],
        2 => &[0x94, 4, 0, 0],
        3 => &[0x83, 7, 4, 10, 80, 1, 10, 0],
        // Full: what it would write down is the time.
        4 => &[0x44, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        _ => &[],
    };
    let room = room(dice, 20 + options.len());
    let (protocol, payload) = transport(dice, source.into(), destination.into(), room);
    let mut packet = frames::v4(
        source,
        destination,
        protocol,
        hops(dice, way),
        options,
        &payload,
    );
    packet[1] = dice.byte();
    let id = dice.bytes(2);
    packet[4..6].copy_from_slice(&id);
    // Nothing, DF, MF, an offset, the reserved bit.
    let fragment = *dice.pick(&[
        [0, 0],
        [0, 0],
        [0x40, 0],
        [0x40, 0],
        [0x20, 0],
        [0, 0xb9],
        [0x80, 0],
    ]);
    packet[6..8].copy_from_slice(&fragment);
    if !way.plain && dice.chance(1, 8) {
        let length = match dice.below(4) {
            0 => 19,
            1 => packet.len() as u16 + 1,
            2 => packet.len() as u16 - 1,
            _ => dice.below(1 << 16) as u16,
        };
        packet[2..4].copy_from_slice(&length.to_be_bytes());
    }
    frames::seal_v4(&mut packet);
    if !way.plain && dice.chance(1, 12) {
        packet[10] ^= 1 << dice.below(8);
    }
    packet
}

/// An address inside a prefix: its first, its last, or any.
fn inside(dice: &mut Dice, network: u128, host_bits: u32) -> u128 {
    let mask = 1_u128
        .checked_shl(host_bits)
        .map_or(u128::MAX, |bit| bit - 1);
    let any = match dice.below(6) {
        0 => 0,
        1 => u128::MAX,
        2 => 1,
        _ => u128::from_be_bytes(dice.bytes(16).try_into().unwrap_or([0; 16])),
    };
    network | any & mask
}

/// An address that means something here. A source of a neighbour's is one of that port.
fn address_v6(dice: &mut Dice, way: &Way, prefixes: &[IpNet], port: Option<usize>) -> Ipv6Addr {
    let nets: Vec<_> = prefixes
        .iter()
        .filter_map(|prefix| match prefix {
            IpNet::V6(net) if net.prefix_len() > 0 => Some(net),
            _ => None,
        })
        .collect();
    let near = port
        .filter(|port| *port < PORTS)
        .unwrap_or(dice.below(PORTS));
    match dice.below(if way.plain { 15 } else { 24 }) {
        0..=14 if !nets.is_empty() => {
            let net = dice.pick(&nets);
            let host = 128 - u32::from(net.prefix_len());
            elsewhere_v6(inside(dice, net.network().into(), host))
        }
        15 | 16 => neighbour(near, dice.below(NEIGHBOURS - 1)).0,
        17 => own(dice.below(PORTS + 1)).0,
        // The subnet-router anycast.
        18 => Ipv6Addr::new(0x2a02, 0x1810, 0, near as u16, 0, 0, 0, 0),
        19 => special_v6(dice),
        20 => neighbour(near, NEIGHBOURS - 1).0,
        _ => Ipv6Addr::new(
            0x2a02,
            0x1820,
            dice.byte().into(),
            0,
            0,
            0,
            0,
            dice.byte().into(),
        ),
    }
}

/// Not an unknown host on a subnet of the routers: who asks for one is answered when the
/// neighbour discovery gives up, at no certain time.
fn elsewhere_v6(bits: u128) -> Ipv6Addr {
    let address = Ipv6Addr::from(bits);
    if address.segments()[..3] == [0x2a02, 0x1810, 0] {
        return Ipv6Addr::from(bits | 1 << 80);
    }
    address
}

fn special_v6(dice: &mut Dice) -> Ipv6Addr {
    const ALL: [&str; 18] = [
        "::",
        "::1",
        "::ffff:10.80.0.10",
        "::10.80.0.10",
        "fe80::a",
        "fe80::1",
        "ff02::1",
        "ff0e::7",
        "ff05::2",
        "fc00::1",
        "fd00::1",
        "2001:db8::1",
        "100::1",
        "64:ff9b::a50:a",
        "2002:a50:a::1",
        "3fff::1",
        "5f00::1",
        "400::1",
    ];
    dice.pick(&ALL).parse().expect("an address")
}

fn address_v4(dice: &mut Dice, way: &Way, prefixes: &[IpNet], port: Option<usize>) -> Ipv4Addr {
    let nets: Vec<_> = prefixes
        .iter()
        .filter_map(|prefix| match prefix {
            IpNet::V4(net) if net.prefix_len() > 0 => Some(net),
            _ => None,
        })
        .collect();
    let near = port
        .filter(|port| *port < PORTS)
        .unwrap_or(dice.below(PORTS));
    match dice.below(if way.plain { 15 } else { 24 }) {
        0..=14 if !nets.is_empty() => {
            let net = dice.pick(&nets);
            let host = 32 - u32::from(net.prefix_len());
            elsewhere_v4(inside(dice, u32::from(net.network()).into(), host) as u32)
        }
        15 | 16 => neighbour(near, dice.below(NEIGHBOURS)).1,
        17 => own(dice.below(PORTS + 1)).1,
        // Broadcast and network address of a subnet.
        18 => Ipv4Addr::new(10, 80, near as u8, *dice.pick(&[0, 255])),
        19 | 20 => special_v4(dice),
        _ => Ipv4Addr::new(9, dice.byte(), dice.byte(), dice.byte()),
    }
}

fn elsewhere_v4(bits: u32) -> Ipv4Addr {
    let address = Ipv4Addr::from(bits);
    let [a, b, c, _] = address.octets();
    if [a, b] == [10, 80] && usize::from(c) < PORTS {
        return Ipv4Addr::from(bits | 1 << 15);
    }
    address
}

fn special_v4(dice: &mut Dice) -> Ipv4Addr {
    const ALL: [&str; 16] = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.9.9.9",
        "169.254.1.1",
        "224.0.0.1",
        "239.1.2.3",
        "240.0.0.1",
        "255.255.255.255",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "100.64.0.1",
        "203.0.113.1",
    ];
    dice.pick(&ALL).parse().expect("an address")
}
