//! One table of cases: a port, a packet, what happens to it.

extern crate std;

use std::string::String;
use std::vec::Vec;
use std::{format, vec};

use proptest::prelude::*;

use super::*;
use crate::table::PrefixKey;

const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const NEXT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Interface indexes of the lab router: the segment, the outside, a tunnel.
const SEGMENT: u32 = 1;
const OUTSIDE: u32 = 2;
const TUNNEL: u32 = 3;

/// Routes as a list; the longest match is found by looking at all of them.
struct Table {
    routes: Vec<(PrefixKey, FibEntry)>,
    next_hops: Vec<NextHop>,
}

impl TableView for Table {
    fn lookup(&self, address: &Address) -> Option<FibEntry> {
        let (family, bytes): (u8, Vec<u8>) = match address {
            Address::V6(a) => (6, a.to_vec()),
            Address::V4(a) => (4, a.to_vec()),
        };
        let covers = |key: &PrefixKey| {
            key.family == family
                && (0..usize::from(key.length)).all(|bit| {
                    let mask = 0x80 >> (bit % 8);
                    key.address[bit / 8] & mask == bytes[bit / 8] & mask
                })
        };
        let best = self.routes.iter().filter(|(key, _)| covers(key));
        best.max_by_key(|(key, _)| key.length)
            .map(|(_, entry)| *entry)
    }

    fn next_hop(&self, index: u32) -> Option<NextHop> {
        self.next_hops.get(index as usize).copied()
    }

    fn port(&self, ifindex: u32) -> Option<Port> {
        let flags = match ifindex {
            SEGMENT => Port::SOURCES_BEHIND,
            OUTSIDE => Port::EXTERNAL,
            TUNNEL => Port::SOURCES_BEHIND | Port::LAYER3,
            _ => return None,
        };
        Some(Port {
            slot: ifindex,
            flags,
            mac: ROUTER_MAC,
            reserved: 0,
        })
    }
}

fn key(text: &str) -> PrefixKey {
    let (address, length) = text.split_once('/').unwrap();
    let mut bytes = [0; 16];
    let family = match address.parse().unwrap() {
        std::net::IpAddr::V6(a) => {
            bytes = a.octets();
            6
        }
        std::net::IpAddr::V4(a) => {
            bytes[..4].copy_from_slice(&a.octets());
            4
        }
    };
    PrefixKey {
        address: bytes,
        family,
        length: length.parse().unwrap(),
        reserved: [0; 2],
    }
}

/// A router whose segment holds 2a02:1802:5e:a::/64, with a tunnel to …:b::/64, an allocation
/// 2a02:1802:5e::/48 and a default route outside.
fn table() -> Table {
    let hop = |ifindex, flags, link: Link| NextHop {
        link: link.0,
        ifindex,
        mtu: if ifindex == TUNNEL { 1420 } else { 1500 },
        source_mac: ROUTER_MAC,
        flags,
        ..NextHop::default()
    };
    let resolved = Link::resolved(NEXT_MAC);
    let next_hops = vec![
        NextHop::default(),
        hop(SEGMENT, 0, resolved),
        hop(OUTSIDE, 0, resolved),
        hop(TUNNEL, NextHop::LAYER3, Link::UNRESOLVED),
        hop(SEGMENT, 0, Link::UNRESOLVED),
        hop(SEGMENT, NextHop::CONNECTED, Link::UNRESOLVED),
    ];
    let route = |prefix: &str, action: Action, origin: Origin, next_hop, counter| {
        let key = key(prefix);
        let entry = FibEntry {
            next_hop,
            counter,
            action: action as u8,
            prefix_length: key.length,
            origin: origin as u8,
            reserved: [0; 5],
        };
        (key, entry)
    };
    let routes = vec![
        route("::/0", Action::Forward, Origin::Object, 2, 0),
        route("0.0.0.0/0", Action::Forward, Origin::Object, 2, 1),
        route(
            "2a02:1802:5e::/48",
            Action::Unreachable,
            Origin::Object,
            0,
            2,
        ),
        route("2a02:1802:5e:a::/64", Action::Forward, Origin::Object, 1, 3),
        route("2a02:1802:5e:b::/64", Action::Forward, Origin::Object, 3, 4),
        route("2a02:1802:5e:c::/64", Action::Forward, Origin::Object, 4, 5),
        route(
            "2a02:1802:5e:d::/64",
            Action::Blackhole,
            Origin::Static,
            0,
            6,
        ),
        route(
            "2a02:1802:5e:e::/64",
            Action::Prohibit,
            Origin::Static,
            0,
            7,
        ),
        route(
            "2a02:1802:5e::/64",
            Action::Connected,
            Origin::Connected,
            5,
            8,
        ),
        route(
            "2a02:1802:5e::1/128",
            Action::Local,
            Origin::Connected,
            0,
            9,
        ),
        route("10.0.10.0/24", Action::Forward, Origin::Object, 1, 10),
        route("10.0.11.0/24", Action::Forward, Origin::Object, 3, 11),
    ];
    Table { routes, next_hops }
}

struct Frame {
    bytes: Vec<u8>,
    vlan: bool,
}

impl PacketView for Frame {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..offset + N)?.try_into().ok()
    }

    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn has_vlan_tag(&self) -> bool {
        self.vlan
    }
}

/// An IPv6 packet with `payload` bytes behind its header.
fn ipv6(
    source: &str,
    destination: &str,
    next_header: u8,
    hop_limit: u8,
    payload: usize,
) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload as u16).to_be_bytes());
    packet.extend([next_header, hop_limit]);
    packet.extend(source.parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet.extend(destination.parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet.resize(40 + payload, 0);
    packet
}

/// An IPv4 packet with a right checksum.
fn ipv4(source: &str, destination: &str, ttl: u8, length: usize) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((length as u16).to_be_bytes());
    packet.extend([0, 1, 0x40, 0, ttl, 17, 0, 0]);
    packet.extend(source.parse::<std::net::Ipv4Addr>().unwrap().octets());
    packet.extend(destination.parse::<std::net::Ipv4Addr>().unwrap().octets());
    let mut sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet.resize(length, 0);
    packet
}

fn ethernet(mac: [u8; 6], ethertype: u16, packet: Vec<u8>) -> Vec<u8> {
    let mut frame = mac.to_vec();
    frame.extend(HOST_MAC);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

fn run(ifindex: u32, frames_only: bool, bytes: Vec<u8>) -> Verdict {
    let table = table();
    let ingress = Ingress {
        ifindex,
        port: table.port(ifindex).unwrap(),
        frames_only,
    };
    decide(&Frame { bytes, vlan: false }, &ingress, &table)
}

/// Through the hook that takes everything, on a port with Ethernet headers.
fn frame6(ifindex: u32, packet: Vec<u8>) -> Verdict {
    run(ifindex, false, ethernet(ROUTER_MAC, 0x86dd, packet))
}

fn frame4(ifindex: u32, packet: Vec<u8>) -> Verdict {
    run(ifindex, false, ethernet(ROUTER_MAC, 0x0800, packet))
}

const HERE: &str = "2a02:1802:5e:a::7";
const TUNNELLED: &str = "2a02:1802:5e:b::7";
const WORLD: &str = "2a00:1450::1";

/// The whole table in one place: what it is, what comes of it.
fn cases() -> Vec<(&'static str, Verdict, Verdict)> {
    use DropReason as D;
    use PuntReason as P;
    let to = |destination: &str| frame6(OUTSIDE, ipv6(WORLD, destination, 17, 64, 20));
    let from = |ifindex, source: &str| frame6(ifindex, ipv6(source, WORLD, 17, 64, 20));
    vec![
        (
            "frame for another station",
            run(
                OUTSIDE,
                true,
                ethernet(HOST_MAC, 0x86dd, ipv6(WORLD, HERE, 17, 64, 8)),
            ),
            Verdict::Punt(P::NotForUs),
        ),
        (
            "ARP",
            run(OUTSIDE, true, ethernet(ROUTER_MAC, 0x0806, vec![0; 28])),
            Verdict::Punt(P::NotIp),
        ),
        (
            "802.1Q in the frame",
            run(OUTSIDE, true, ethernet(ROUTER_MAC, 0x8100, vec![0; 60])),
            Verdict::Punt(P::Vlan),
        ),
        (
            "shorter than an Ethernet header",
            run(OUTSIDE, true, ROUTER_MAC.to_vec()),
            Verdict::Punt(P::Malformed),
        ),
        (
            "header cut short",
            frame6(OUTSIDE, ipv6(WORLD, HERE, 17, 64, 0)[..39].to_vec()),
            Verdict::Punt(P::Malformed),
        ),
        (
            "payload beyond the frame",
            frame6(OUTSIDE, ipv6(WORLD, HERE, 17, 64, 20)[..50].to_vec()),
            Verdict::Punt(P::Malformed),
        ),
        (
            "payload length 0: jumbo or BIG TCP",
            frame6(OUTSIDE, ipv6(WORLD, HERE, 6, 64, 0)),
            Verdict::Punt(P::Malformed),
        ),
        (
            "version 5",
            frame6(OUTSIDE, {
                let mut p = ipv6(WORLD, HERE, 17, 64, 8);
                p[0] = 0x50;
                p
            }),
            Verdict::Punt(P::Malformed),
        ),
        (
            "hop-by-hop options",
            frame6(OUTSIDE, ipv6(WORLD, HERE, 0, 64, 16)),
            Verdict::Punt(P::HopByHop),
        ),
        (
            "link-local source",
            from(SEGMENT, "fe80::7"),
            Verdict::Punt(P::Scope),
        ),
        (
            "unspecified source",
            from(SEGMENT, "::"),
            Verdict::Punt(P::Scope),
        ),
        (
            "multicast destination",
            to("ff02::1"),
            Verdict::Punt(P::Scope),
        ),
        (
            "hop limit 1",
            frame6(OUTSIDE, ipv6(WORLD, HERE, 17, 1, 20)),
            Verdict::Punt(P::HopLimit),
        ),
        (
            "hop limit 0",
            frame6(OUTSIDE, ipv6(WORLD, HERE, 17, 0, 20)),
            Verdict::Punt(P::HopLimit),
        ),
        (
            "an address of the router",
            to("2a02:1802:5e::1"),
            Verdict::Punt(P::Local),
        ),
        (
            "a neighbour on the segment",
            to("2a02:1802:5e::99"),
            Verdict::Punt(P::Connected),
        ),
        (
            "unassigned in the allocation",
            to("2a02:1802:5e:99::1"),
            Verdict::Punt(P::Action),
        ),
        (
            "prohibited",
            to("2a02:1802:5e:e::1"),
            Verdict::Punt(P::Action),
        ),
        (
            "blackholed",
            to("2a02:1802:5e:d::1"),
            Verdict::Drop(D::Blackhole),
        ),
        (
            "unresolved next hop",
            to("2a02:1802:5e:c::1"),
            Verdict::Punt(P::Unresolved),
        ),
        (
            "back out of the port it came from",
            frame6(OUTSIDE, ipv6(WORLD, "2a00:1450::2", 17, 64, 20)),
            Verdict::Punt(P::SamePort),
        ),
        (
            "1500 bytes into a tunnel of 1420",
            frame6(OUTSIDE, ipv6(WORLD, TUNNELLED, 17, 64, 1460)),
            Verdict::Punt(P::TooBig),
        ),
        (
            "1421 bytes: payload + 40 counts",
            frame6(OUTSIDE, ipv6(WORLD, TUNNELLED, 17, 64, 1381)),
            Verdict::Punt(P::TooBig),
        ),
        (
            "XDP cannot hand to a tunnel",
            run(
                OUTSIDE,
                true,
                ethernet(ROUTER_MAC, 0x86dd, ipv6(WORLD, TUNNELLED, 17, 64, 20)),
            ),
            Verdict::Punt(P::EgressNotAPort),
        ),
        (
            "a source that lives elsewhere",
            from(SEGMENT, WORLD),
            Verdict::Drop(D::SourceInvalid),
        ),
        (
            "a source of the tunnel on the segment",
            from(SEGMENT, TUNNELLED),
            Verdict::Drop(D::SourceInvalid),
        ),
        (
            "our own source from outside",
            frame6(OUTSIDE, ipv6(HERE, TUNNELLED, 17, 64, 20)),
            Verdict::Drop(D::SourceInvalid),
        ),
        (
            "an unassigned source of ours from outside",
            frame6(OUTSIDE, ipv6("2a02:1802:5e:99::1", HERE, 17, 64, 20)),
            Verdict::Drop(D::SourceInvalid),
        ),
        (
            "a spoofed source is not answered",
            frame6(SEGMENT, ipv6(WORLD, HERE, 17, 1, 20)),
            Verdict::Drop(D::SourceInvalid),
        ),
        (
            "a martian source from outside",
            frame6(OUTSIDE, ipv6("2001:db8::1", HERE, 17, 64, 20)),
            Verdict::Drop(D::Martian),
        ),
        (
            "a martian destination to the outside",
            frame6(SEGMENT, ipv6(HERE, "fc00::1", 17, 64, 20)),
            Verdict::Drop(D::Martian),
        ),
        (
            "TTL 1",
            frame4(OUTSIDE, ipv4("8.8.8.8", "10.0.10.9", 1, 60)),
            Verdict::Punt(P::HopLimit),
        ),
        (
            "IPv4 options",
            frame4(OUTSIDE, {
                let mut p = ipv4("8.8.8.8", "10.0.10.9", 9, 60);
                p[0] = 0x46;
                p
            }),
            Verdict::Punt(P::Ipv4Options),
        ),
        (
            "wrong IPv4 checksum",
            frame4(OUTSIDE, {
                let mut p = ipv4("8.8.8.8", "10.0.10.9", 9, 60);
                p[10] ^= 1;
                p
            }),
            Verdict::Punt(P::Malformed),
        ),
        (
            "IPv4 length beyond the frame",
            frame4(OUTSIDE, ipv4("8.8.8.8", "10.0.10.9", 9, 60)[..59].to_vec()),
            Verdict::Punt(P::Malformed),
        ),
        (
            "IPv4 link-local",
            frame4(OUTSIDE, ipv4("169.254.1.1", "10.0.10.9", 9, 60)),
            Verdict::Punt(P::Scope),
        ),
        (
            "IPv4 broadcast",
            frame4(OUTSIDE, ipv4("8.8.8.8", "255.255.255.255", 9, 60)),
            Verdict::Punt(P::Scope),
        ),
        (
            "private IPv4 source from outside",
            frame4(OUTSIDE, ipv4("192.168.1.1", "10.0.10.9", 9, 60)),
            Verdict::Drop(D::Martian),
        ),
        (
            "private IPv4 destination to the outside",
            frame4(SEGMENT, ipv4("10.0.10.9", "192.168.1.1", 9, 60)),
            Verdict::Drop(D::Martian),
        ),
        (
            "junk on a tunnel",
            run(TUNNEL, false, vec![0x10; 60]),
            Verdict::Punt(P::NotIp),
        ),
    ]
}

#[test]
fn what_is_not_forwarded() {
    let wrong: Vec<String> = cases()
        .into_iter()
        .filter(|(_, found, expected)| found != expected)
        .map(|(name, found, expected)| format!("{name}: {found:?}, not {expected:?}"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn forward(verdict: Verdict) -> Forward {
    match verdict {
        Verdict::Forward(forward) => forward,
        other => panic!("not forwarded: {other:?}"),
    }
}

#[test]
fn a_frame_for_a_resource_is_forwarded_and_counted_for_both_prefixes() {
    let found = forward(frame6(OUTSIDE, ipv6(WORLD, HERE, 17, 64, 20)));
    let expected = Forward {
        ifindex: SEGMENT,
        layer3: false,
        destination_mac: NEXT_MAC,
        source_mac: ROUTER_MAC,
        offset: 14,
        length: 60,
        family: Family::V6,
        hop_limit: 63,
        checksum: 0,
        to_counter: 3,
        from_counter: 0,
        packets: 1,
        bytes: 60,
    };
    assert_eq!(found, expected);
}

#[test]
fn padding_behind_the_packet_is_not_counted() {
    let mut bytes = ethernet(ROUTER_MAC, 0x86dd, ipv6(WORLD, HERE, 59, 64, 0));
    bytes.resize(60, 0xaa);
    assert_eq!(forward(run(OUTSIDE, true, bytes)).bytes, 40);
}

#[test]
fn the_tunnel_takes_exactly_its_mtu() {
    let found = forward(frame6(OUTSIDE, ipv6(WORLD, TUNNELLED, 17, 2, 1380)));
    assert!(found.layer3);
    assert_eq!(
        (found.ifindex, found.bytes, found.hop_limit),
        (TUNNEL, 1420, 1)
    );
}

#[test]
fn a_packet_from_the_tunnel_has_no_link_layer_header() {
    let found = forward(run(TUNNEL, false, ipv6(TUNNELLED, HERE, 6, 64, 100)));
    assert_eq!(
        (found.offset, found.ifindex, found.layer3),
        (0, SEGMENT, false)
    );
    assert_eq!((found.to_counter, found.from_counter), (3, 4));
    let found = forward(run(TUNNEL, false, ipv4("10.0.11.9", "10.0.10.9", 9, 60)));
    assert_eq!((found.family, found.hop_limit), (Family::V4, 8));
}

#[test]
fn overlay_ranges_are_no_martians() {
    for source in ["200::1", "300::1", "400::1", "5ff::1"] {
        let _ = forward(frame6(OUTSIDE, ipv6(source, HERE, 17, 64, 20)));
    }
}

#[test]
fn a_tag_beside_the_frame_is_the_kernels() {
    let table = table();
    let ingress = Ingress {
        ifindex: OUTSIDE,
        port: table.port(OUTSIDE).unwrap(),
        frames_only: false,
    };
    let bytes = ethernet(ROUTER_MAC, 0x86dd, ipv6(WORLD, HERE, 17, 64, 20));
    let verdict = decide(&Frame { bytes, vlan: true }, &ingress, &table);
    assert_eq!(verdict, Verdict::Punt(PuntReason::Vlan));
}

proptest! {
    /// Whatever comes in, the decision is made; and what is forwarded keeps the rules that can
    /// be read off the bytes.
    #[test]
    fn any_bytes_get_a_verdict(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ifindex in 1_u32..=3,
        frames_only: bool,
        shape in 0..4,
    ) {
        let mut bytes = bytes;
        // Three in four begin like a packet for this router.
        if shape > 0 && bytes.len() > 20 {
            bytes[..6].copy_from_slice(&ROUTER_MAC);
            let (a, b, version) = if shape == 1 { (0x08, 0x00, 0x45) } else { (0x86, 0xdd, 0x60) };
            bytes[12] = a;
            bytes[13] = b;
            bytes[14] = version;
        }
        if let Verdict::Forward(forward) = run(ifindex, frames_only, bytes.clone()) {
            let ip = forward.offset as usize;
            let received = bytes[ip + forward.family.hop_limit_offset()];
            prop_assert!(received > 1);
            prop_assert_eq!(forward.hop_limit, received - 1);
            prop_assert!(forward.bytes as usize <= bytes.len() - ip);
            prop_assert_ne!(forward.ifindex, ifindex);
            prop_assert!(!(frames_only && forward.layer3));
        }
    }
}
