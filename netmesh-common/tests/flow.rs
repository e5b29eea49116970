//! The flow hash: what must land together does, and what need not is spread.

#![expect(clippy::unwrap_used, reason = "helpers of a test")]

mod cases;

use cases::packet::{TCP, UDP, v4, v6, with, with4};
use netmesh_common::flow;
use netmesh_common::header;
use netmesh_common::view::PacketView;
use proptest::prelude::*;

const SEED: u64 = 7;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;

struct Bytes<'a>(&'a [u8]);

impl PacketView for Bytes<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        Some(self.0.get(offset..offset + N)?.try_into().unwrap())
    }

    fn length(&self) -> usize {
        self.0.len()
    }
}

fn hash(packet: &[u8]) -> u64 {
    let view = Bytes(packet);
    let ip = match packet[0] >> 4 {
        6 => header::ipv6(&view, 0),
        _ => header::ipv4(&view, 0),
    };
    flow::seeded(flow::hash(&view, 0, ip.unwrap().family), SEED)
}

/// A flow in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    source: std::net::IpAddr,
    destination: std::net::IpAddr,
    label: u32,
    protocol: u8,
    ports: (u16, u16),
}

impl Flow {
    /// The other direction, which has a flow label of its own.
    fn back(&self, label: u32) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            label,
            protocol: self.protocol,
            ports: (self.ports.1, self.ports.0),
        }
    }

    /// A packet of it: `payload` behind the ports.
    fn packet(&self, payload: usize) -> Vec<u8> {
        let (source, destination) = (self.source.to_string(), self.destination.to_string());
        let mut packet = if self.source.is_ipv6() {
            let label = self.label.to_be_bytes();
            let mut packet = v6(&source, &destination, 64, payload + 4);
            packet[1] = packet[1] & 0xf0 | label[1] & 0x0f;
            packet[2..4].copy_from_slice(&label[2..]);
            with(packet, 6, self.protocol)
        } else {
            with4(v4(&source, &destination, 64, payload + 4), 9, self.protocol)
        };
        let behind = if self.source.is_ipv6() { 40 } else { 20 };
        packet[behind..behind + 2].copy_from_slice(&self.ports.0.to_be_bytes());
        packet[behind + 2..behind + 4].copy_from_slice(&self.ports.1.to_be_bytes());
        packet
    }

    /// An error of a router about a packet of it.
    fn error(&self, router: std::net::IpAddr, kind: u8, quoted: usize) -> Vec<u8> {
        let quote = self.packet(1200);
        let quote = &quote[..quoted.min(quote.len())];
        let (from, to) = (router.to_string(), self.source.to_string());
        let mut packet = if self.source.is_ipv6() {
            with(v6(&from, &to, 64, 8), 6, 58)
        } else {
            with4(v4(&from, &to, 64, 8), 9, 1)
        };
        let start = packet.len() - 8;
        packet[start] = kind;
        packet.extend(quote);
        lengthen(packet)
    }

    /// Its datagram in pieces of eight bytes and the rest, as its sender cuts it.
    fn fragments(&self, payload: usize) -> Vec<Vec<u8>> {
        let whole = self.packet(payload);
        let behind = if self.source.is_ipv6() { 40 } else { 20 };
        let cuts = [0, 8, (whole.len() - behind) / 16 * 8, whole.len() - behind];
        cuts.windows(2)
            .filter(|cut| cut[0] < cut[1])
            .map(|cut| {
                let more = cut[1] != whole.len() - behind;
                let piece = &whole[behind + cut[0]..behind + cut[1]];
                let mut packet = whole[..behind].to_vec();
                let units = (cut[0] / 8) as u16;
                if self.source.is_ipv6() {
                    packet[6] = FRAGMENT;
                    packet.extend([self.protocol, 0]);
                    packet.extend((units << 3 | u16::from(more)).to_be_bytes());
                    packet.extend([0, 0, 0, 1]);
                } else {
                    let field = (units | u16::from(more) << 13).to_be_bytes();
                    packet[6..8].copy_from_slice(&field);
                }
                packet.extend(piece);
                lengthen(packet)
            })
            .collect()
    }
}

/// With the length, and the checksum of IPv4, made right.
fn lengthen(mut packet: Vec<u8>) -> Vec<u8> {
    let length = packet.len() as u16;
    if packet[0] >> 4 == 6 {
        packet[4..6].copy_from_slice(&(length - 40).to_be_bytes());
        packet
    } else {
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        with4(packet, 8, 64)
    }
}

fn flow(protocol: impl Strategy<Value = u8>) -> impl Strategy<Value = Flow> {
    let addresses = prop_oneof![
        (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (a.into(), b.into())),
        (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (a.into(), b.into())),
    ];
    let ports = any::<(u16, u16)>();
    (addresses, 0..1_u32 << 20, protocol, ports).prop_map(
        |((source, destination), label, protocol, ports)| Flow {
            source,
            destination,
            label,
            protocol,
            ports,
        },
    )
}

fn transports() -> impl Strategy<Value = u8> {
    prop_oneof![Just(TCP), Just(UDP)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// RFC 7690: whoever gets the packets of a flow gets the errors about its own answers.
    #[test]
    fn an_error_lands_with_the_packets_it_is_about(
        flow in flow(transports()), label in 0..1_u32 << 20, router in any::<([u8; 16], [u8; 4])>(),
        kind in 0..5_usize, quoted in 44..1240_usize,
    ) {
        let router = if flow.source.is_ipv6() { router.0.into() } else { router.1.into() };
        let kinds = if flow.source.is_ipv6() { [1, 2, 3, 4, 127] } else { [3, 4, 5, 11, 12] };
        let error = flow.error(router, kinds[kind], quoted);
        prop_assert_eq!(hash(&error), hash(&flow.back(label).packet(100)));
    }

    /// Without ports the flow label is all there is; it is known of the other direction only
    /// where both have the same.
    #[test]
    fn an_error_without_ports_goes_by_the_addresses(flow in flow(Just(ESP)), router in any::<([u8; 16], [u8; 4])>()) {
        let (router, kind) = if flow.source.is_ipv6() { (router.0.into(), 2) } else { (router.1.into(), 3) };
        prop_assert_eq!(hash(&flow.error(router, kind, 48)), hash(&flow.back(flow.label).packet(9)));
    }

    /// What is no error is a packet of its own flow: an echo reply that carries what looks like
    /// a quote.
    #[test]
    fn an_echo_is_no_error(flow in flow(transports()), router in any::<([u8; 16], [u8; 4])>()) {
        let (router, kind) = if flow.source.is_ipv6() { (router.0.into(), 129) } else { (router.1.into(), 0) };
        prop_assume!(router != flow.destination);
        let echo = flow.error(router, kind, 100);
        prop_assert_ne!(hash(&echo), hash(&flow.back(0).packet(100)));
        let other = flow.error(router, kind, 60);
        prop_assert_eq!(hash(&echo), hash(&other));
    }

    /// First, middle and last fragments, of every datagram between two addresses.
    #[test]
    fn all_fragments_land_together(flow in flow(transports()), size in 24..1400_usize, ports in any::<(u16, u16)>()) {
        let trains = [flow.fragments(size), Flow { ports, ..flow.clone() }.fragments(size + 99)];
        prop_assert!(trains.iter().all(|train| train.len() >= 2));
        let hashes: std::collections::BTreeSet<u64> = trains.iter().flatten().map(|piece| hash(piece)).collect();
        prop_assert_eq!(hashes.len(), 1);
    }

    /// What has no ports never changes its way when it is cut.
    #[test]
    fn without_ports_fragments_land_with_their_flow(flow in flow(Just(ESP)), size in 24..1400_usize) {
        for piece in flow.fragments(size) {
            prop_assert_eq!(hash(&piece), hash(&flow.packet(size)));
        }
    }

    /// Nothing that changes on the way or from packet to packet tells flows apart.
    #[test]
    fn a_flow_is_one(flow in flow(transports()), label in 0..1_u32 << 20, ttl in 1..=255_u8, class in any::<u8>()) {
        let one = flow.packet(0);
        let mut other = Flow { label, ..flow.clone() }.packet(500);
        if flow.source.is_ipv6() {
            other[0] = other[0] & 0xf0 | class >> 4;
            other[1] = other[1] & 0x0f | class << 4;
            other = with(other, 7, ttl);
        } else {
            // The identification and "don't fragment", too.
            other = with4(with4(with4(with4(other, 8, ttl), 1, class), 4, class), 6, 0x40);
        }
        prop_assert_eq!(hash(&one), hash(&other));
    }

    /// Everything that tells flows apart counts: equal hashes of 64 bits do not happen by chance.
    #[test]
    fn other_flows_differ(flow in flow(transports()), other in flow(transports())) {
        let others = [
            Flow { ports: other.ports, ..flow.clone() },
            Flow { protocol: other.protocol, ..flow.clone() },
            flow.back(flow.label),
            other,
        ];
        for other in others {
            let same = Flow { label: 0, ..other.clone() } == Flow { label: 0, ..flow.clone() };
            prop_assert_eq!(same, hash(&other.packet(0)) == hash(&flow.packet(0)));
        }
    }

    #[test]
    fn a_label_tells_flows_without_ports_apart(flow in flow(Just(ESP)), label in 0..1_u32 << 20) {
        let other = Flow { label, ..flow.clone() };
        let same = flow.source.is_ipv4() || label == flow.label;
        prop_assert_eq!(same, hash(&other.packet(0)) == hash(&flow.packet(0)));
    }

    /// Neither a short quote nor a short packet is more than it is.
    #[test]
    fn what_is_cut_short_still_has_a_flow(flow in flow(transports()), router in any::<([u8; 16], [u8; 4])>(), quoted in 0..44_usize) {
        let (router, kind) = if flow.source.is_ipv6() { (router.0.into(), 2) } else { (router.1.into(), 3) };
        let error = flow.error(router, kind, quoted);
        let whole = if flow.source.is_ipv6() { 44 } else { 24 };
        if quoted < whole {
            let empty = flow.error(router, kind, 0);
            prop_assert_eq!(hash(&error), hash(&empty));
        }
    }
}

/// 64,000 flows that differ in a few low bits fill 256 buckets evenly, by the lower byte and by
/// the next: chi-square with 255 degrees of freedom is below 330.5 with probability 0.999.
#[test]
fn neighbouring_flows_are_spread() {
    let v6 = |address: u16, port: u16| Flow {
        source: "2606:4700::1111".parse().unwrap(),
        destination: format!("2a02:1802:5e:1::{address:x}").parse().unwrap(),
        label: 0,
        protocol: TCP,
        ports: (443, port),
    };
    let v4 = |address: u16, port: u16| {
        let [high, low] = address.to_be_bytes();
        Flow {
            source: "10.0.0.1".parse().unwrap(),
            destination: std::net::Ipv4Addr::from([10, 1, high, low]).into(),
            ..v6(0, port)
        }
    };
    let labels = |address: u16, label: u16| Flow {
        protocol: ESP,
        label: label.into(),
        ..v6(address, 0)
    };
    for (name, flow) in [
        ("IPv6", &v6 as &dyn Fn(u16, u16) -> Flow),
        ("IPv4", &v4),
        ("labels", &labels),
    ] {
        for shift in [0, 8] {
            let mut buckets = [0_u32; 256];
            for address in 0..64 {
                for port in 0..1000 {
                    let hash = hash(&flow(address, 40_000 + port).packet(0));
                    buckets[(hash >> shift) as u8 as usize] += 1;
                }
            }
            let expected = 64.0 * 1000.0 / 256.0;
            let chi: f64 = buckets
                .iter()
                .map(|&count| (f64::from(count) - expected).powi(2) / expected)
                .sum();
            assert!(chi < 330.5, "{name}, shift {shift}: {chi}");
        }
    }
}

/// The second router in a row splits what the first one has sent it.
#[test]
fn a_seed_draws_other_lots() {
    let mut both = 0;
    let mut first = 0;
    for port in 0..4000 {
        let flow = Flow {
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            label: 0,
            protocol: UDP,
            ports: (port, 53),
        };
        let packet = flow.packet(0);
        let view = Bytes(&packet);
        let ip = header::ipv4(&view, 0).unwrap();
        let half = |seed| flow::seeded(flow::hash(&view, 0, ip.family), seed) as u8 >= 128;
        first += u32::from(half(1));
        both += u32::from(half(1) && half(2));
    }
    assert!((1800..2200).contains(&first), "{first}");
    assert!((first * 2 / 5..first * 3 / 5).contains(&both), "{both}");
}

/// However short the packet, whatever it claims to be.
#[test]
fn no_packet_makes_it_panic() {
    for case in cases::all() {
        let packet = case.input.bytes.get(14..).unwrap_or_default();
        let ip = match packet.first().map(|first| first >> 4) {
            Some(6) => header::ipv6(&Bytes(packet), 0),
            _ => header::ipv4(&Bytes(packet), 0),
        };
        let Ok(ip) = ip else { continue };
        for length in 0..=packet.len() {
            let _ = flow::hash(&Bytes(&packet[..length]), 0, ip.family);
        }
    }
}
