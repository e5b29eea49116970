//! The router of the cases: `2a02:1802:5e::/48` between a segment, an uplink and a tunnel.

use std::net::IpAddr;

use netmesh_common::group::{self, Group, Member};
use netmesh_common::table::{Action, FibEntry, Link, NextHop, Origin, Port};

use super::reference::{Prefix, Router};

/// Where every packet comes in: the loopback device, which is where a test run puts it.
pub(crate) const INGRESS: u32 = 1;
/// Ethernet port on the inside.
pub(crate) const SEGMENT: u32 = 71;
/// Ethernet port to the outside.
pub(crate) const UPLINK: u32 = 72;
/// Device without a link-layer header.
pub(crate) const TUNNEL: u32 = 73;
/// Ethernet device that is no port.
pub(crate) const ELSEWHERE: u32 = 74;
/// VLAN sub-interface of the ingress, in XDP.
pub(crate) const TAGGED: u32 = 75;
/// Its VID.
pub(crate) const TAGGED_VID: u16 = 7;
/// VLAN sub-interface of the ingress, in TC.
pub(crate) const TAGGED_TC: u32 = 76;
/// Its VID.
pub(crate) const TAGGED_TC_VID: u16 = 0x0ffe;
/// VLAN sub-interface of the segment's device, in XDP.
pub(crate) const TRUNKED: u32 = 77;
/// Its VID.
pub(crate) const TRUNKED_VID: u16 = 0x0123;
/// VLAN sub-interface of the ingress that is no port (any more).
pub(crate) const TAGGED_NOT_A_PORT: u32 = 78;
/// Its VID.
pub(crate) const TAGGED_NOT_A_PORT_VID: u16 = 9;
/// Ports that XDP can send to, and the device that takes the frames.
pub(crate) const TX: [(u32, u32); 4] = [
    (SEGMENT, SEGMENT),
    (UPLINK, UPLINK),
    (TAGGED, INGRESS),
    (TRUNKED, SEGMENT),
];

/// Link-layer address of the ingress port.
pub(crate) const INGRESS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Counter of `2a02:1802:5e:1::/64`, behind the segment.
pub(crate) const C_SEGMENT: u32 = 10;
/// Counter of `2a02:1802:5e:3::/64`, behind the tunnel.
pub(crate) const C_TUNNEL: u32 = 12;
/// Counter of `2a02:1802:5e:4::/64`, behind the ingress.
pub(crate) const C_INGRESS: u32 = 13;
/// Counter of the IPv6 default route.
pub(crate) const C_DEFAULT: u32 = 1;
/// Counter of `10.1.1.0/24`, behind the segment.
pub(crate) const C4_SEGMENT: u32 = 20;
/// Counter of `10.1.4.0/24`, behind the ingress.
pub(crate) const C4_INGRESS: u32 = 23;

/// Counter of the IPv4 default route, behind the ingress where that faces the outside.
pub(crate) const C4_DEFAULT: u32 = 25;

/// Counter of `2a02:1802:5e:a::/64`, behind the VLAN sub-interface of the ingress.
pub(crate) const C_TAGGED: u32 = 40;
/// Counter of `2a02:1802:5e:b::/64`, behind the VLAN sub-interface of the segment's device.
pub(crate) const C_TRUNKED: u32 = 41;
/// Counter of `2a02:1802:5e:c::/64`, behind the VLAN sub-interface that TC serves.
pub(crate) const C_TAGGED_TC: u32 = 42;
/// Counter of `10.1.11.0/24`, behind the VLAN sub-interface of the segment's device.
pub(crate) const C4_TRUNKED: u32 = 43;
/// Counter of `10.1.10.0/24`, behind the VLAN sub-interface of the ingress.
pub(crate) const C4_TAGGED: u32 = 44;
/// Counter of `2a02:1802:5e:1b::/64`, whose group has one neighbour left, on the segment.
pub(crate) const C_ONE_LEFT: u32 = 61;
/// Counter of `2a02:1802:5e:1d::/64`, behind the ingress and the uplink.
pub(crate) const C_WITH_INGRESS: u32 = 63;

/// Next hops by index.
const VIA_SEGMENT: u32 = 1;
const VIA_UNRESOLVED: u32 = 2;
const VIA_TUNNEL: u32 = 3;
const VIA_INGRESS: u32 = 4;
const ON_INGRESS: u32 = 5;
const VIA_UPLINK: u32 = 6;
const VIA_ELSEWHERE: u32 = 7;
const ON_SEGMENT: u32 = 8;
const ON_UPLINK: u32 = 9;
const VIA_TAGGED: u32 = 10;
const VIA_TRUNKED: u32 = 11;
const VIA_TAGGED_TC: u32 = 12;
const FREE: u32 = 99;
/// A slot without a next hop, as one is for a moment that is being freed.
const FREE_IN_GROUP: u32 = 20;

/// Groups by index.
const SPREAD: u32 = 1;
const ONE_LEFT: u32 = 2;
const NONE_LEFT: u32 = 3;
const WITH_INGRESS: u32 = 4;

/// What ports say themselves is a martian or none, where `Port::LISTED` is set.
const LISTS: [(u32, &str, bool); 8] = [
    // The provider's own network, and within it what is nobody's.
    (INGRESS, "100.64.0.0/10", false),
    (INGRESS, "100.64.7.0/24", true),
    (INGRESS, "2606:4700:dead::/48", true),
    (INGRESS, "fd00:9::/32", false),
    // An IPv6 list is none for IPv4.
    (INGRESS, "::/1", false),
    (UPLINK, "2606:4700:beef::/48", true),
    (UPLINK, "fd77::/16", false),
    (UPLINK, "10.200.0.0/16", false),
];

/// The port every packet comes in through.
pub(crate) fn ingress(flags: u32) -> Port {
    Port {
        slot: 0,
        flags: flags | Port::XDP,
        mac: INGRESS_MAC,
        vlan: 0,
    }
}

/// Link-layer addresses of an egress: neighbour, own.
pub(crate) fn macs(ifindex: u32) -> ([u8; 6], [u8; 6]) {
    let last = ifindex as u8;
    ([2, 0, 0, 0, 0xdd, last], [2, 0, 0, 0, 0xee, last])
}

/// The tables.
pub(crate) fn router(flags: u32) -> Router {
    let mut router = Router {
        next_hops: next_hops(),
        groups: groups(),
        ports: vec![(INGRESS, ingress(flags))],
        vlans: vec![
            ((INGRESS, TAGGED_VID), TAGGED),
            ((INGRESS, TAGGED_TC_VID), TAGGED_TC),
            ((INGRESS, TAGGED_NOT_A_PORT_VID), TAGGED_NOT_A_PORT),
            ((SEGMENT, TRUNKED_VID), TRUNKED),
        ],
        ..Router::default()
    };
    for (slot, ifindex, flags, vlan) in [
        (1, SEGMENT, Port::SOURCES_BEHIND, 0),
        (2, UPLINK, Port::EXTERNAL, 0),
        (3, TUNNEL, Port::LAYER3 | Port::SOURCES_BEHIND, 0),
        (4, TAGGED, Port::SOURCES_BEHIND, TAGGED_VID),
        (5, TAGGED_TC, Port::SOURCES_BEHIND, 0),
        (6, TRUNKED, Port::SOURCES_BEHIND, TRUNKED_VID),
    ] {
        let port = Port {
            slot,
            flags,
            mac: macs(ifindex).1,
            vlan,
        };
        router.ports.push((ifindex, port));
    }
    if flags & Port::LISTED != 0 {
        for (port, prefix, is_martian) in LISTS {
            router.martians.push(((port, parse(prefix)), is_martian));
        }
    }
    use Action::{Blackhole, Connected, Forward, Local, Prohibit, Punt, Unreachable};
    use Origin::{Kernel, Object, Static};
    for (prefix, action, origin, next_hop, counter) in [
        ("::/0", Forward, Object, VIA_UPLINK, C_DEFAULT),
        ("2a02:1802:5e::/48", Unreachable, Object, 0, 2),
        (
            "2a02:1802:5e::/64",
            Connected,
            Origin::Connected,
            ON_SEGMENT,
            3,
        ),
        ("2a02:1802:5e::1/128", Local, Origin::Connected, 0, u32::MAX),
        (
            "2a02:1802:5e:1::/64",
            Forward,
            Object,
            VIA_SEGMENT,
            C_SEGMENT,
        ),
        ("2a02:1802:5e:2::/64", Forward, Object, VIA_UNRESOLVED, 11),
        ("2a02:1802:5e:3::/64", Forward, Object, VIA_TUNNEL, C_TUNNEL),
        (
            "2a02:1802:5e:4::/64",
            Forward,
            Object,
            VIA_INGRESS,
            C_INGRESS,
        ),
        ("2a02:1802:5e:5::/64", Forward, Object, VIA_ELSEWHERE, 14),
        ("2a02:1802:5e:6::/64", Blackhole, Object, 0, 15),
        ("2a02:1802:5e:7::/64", Prohibit, Object, 0, 16),
        ("2a02:1802:5e:8::/64", Punt, Object, 0, 17),
        ("2a02:1802:5e:9::/64", Forward, Object, FREE, 18),
        (
            "2a02:1800:10::4/127",
            Connected,
            Origin::Connected,
            ON_UPLINK,
            u32::MAX,
        ),
        (
            "2a02:1800:20::/64",
            Connected,
            Origin::Connected,
            ON_INGRESS,
            u32::MAX,
        ),
        ("2a02:1800:20::1/128", Local, Origin::Connected, 0, u32::MAX),
        ("2a02:1802:5e:a::/64", Forward, Object, VIA_TAGGED, C_TAGGED),
        (
            "2a02:1802:5e:b::/64",
            Forward,
            Object,
            VIA_TRUNKED,
            C_TRUNKED,
        ),
        (
            "2a02:1802:5e:c::/64",
            Forward,
            Object,
            VIA_TAGGED_TC,
            C_TAGGED_TC,
        ),
        ("10.1.10.0/24", Forward, Object, VIA_TAGGED, C4_TAGGED),
        ("10.1.11.0/24", Forward, Object, VIA_TRUNKED, C4_TRUNKED),
        (
            "2a02:1802:5e:1a::/64",
            Forward,
            Object,
            group::index(SPREAD),
            60,
        ),
        (
            "2a02:1802:5e:1b::/64",
            Forward,
            Object,
            group::index(ONE_LEFT),
            C_ONE_LEFT,
        ),
        (
            "2a02:1802:5e:1c::/64",
            Forward,
            Object,
            group::index(NONE_LEFT),
            62,
        ),
        (
            "2a02:1802:5e:1d::/64",
            Forward,
            Object,
            group::index(WITH_INGRESS),
            C_WITH_INGRESS,
        ),
        ("2a02:1802:5e:1e::/64", Forward, Object, group::index(9), 64),
        ("10.1.26.0/24", Forward, Object, group::index(SPREAD), 65),
        ("fd00:1::/64", Forward, Static, VIA_SEGMENT, 30),
        ("fd00:2::/64", Forward, Kernel, VIA_SEGMENT, 31),
        ("fd00:3::/64", Forward, Kernel, VIA_UPLINK, 32),
        ("0.0.0.0/0", Forward, Object, VIA_INGRESS, C4_DEFAULT),
        ("10.1.0.0/16", Unreachable, Object, 0, 19),
        ("10.1.1.0/24", Forward, Object, VIA_SEGMENT, C4_SEGMENT),
        ("10.1.3.0/24", Forward, Object, VIA_TUNNEL, 22),
        ("10.1.4.0/24", Forward, Object, VIA_INGRESS, C4_INGRESS),
        ("10.1.4.254/32", Local, Origin::Connected, 0, u32::MAX),
        ("8.8.0.0/16", Forward, Kernel, VIA_UPLINK, 24),
    ] {
        // Only where the ingress faces the outside is the rest of IPv4 behind it.
        if prefix == "0.0.0.0/0" && flags & Port::EXTERNAL == 0 {
            continue;
        }
        let (network, length) = parse(prefix);
        let entry = FibEntry {
            next_hop,
            counter,
            action: action as u8,
            prefix_length: length,
            origin: origin as u8,
            reserved: [0; 5],
        };
        router.fib.push(((network, length), entry));
    }
    router
}

fn parse(prefix: &str) -> Prefix {
    let (address, length) = prefix.split_once('/').unwrap();
    let network = match address.parse().unwrap() {
        IpAddr::V6(a) => a.octets().to_vec(),
        IpAddr::V4(a) => a.octets().to_vec(),
    };
    (network, length.parse().unwrap())
}

/// Members in turn, bucket by bucket.
fn groups() -> Vec<(u32, Group)> {
    let group = |next_hops: &[u32]| {
        let mut group = Group {
            seed: 3,
            count: next_hops.len() as u32,
            ..Group::default()
        };
        for (slot, &next_hop) in group.members.iter_mut().zip(next_hops) {
            let found = self::next_hops()
                .into_iter()
                .find(|(id, _)| *id == next_hop);
            *slot = Member {
                next_hop,
                ifindex: found.unwrap().1.ifindex,
                weight: 1,
                reserved: [0; 3],
            };
        }
        for (bucket, slot) in group.buckets.iter_mut().zip((0..group.count as u8).cycle()) {
            *bucket = slot;
        }
        group
    };
    vec![
        (
            SPREAD,
            group(&[VIA_SEGMENT, VIA_UPLINK, VIA_UNRESOLVED, VIA_TUNNEL]),
        ),
        (
            ONE_LEFT,
            group(&[VIA_UNRESOLVED, FREE_IN_GROUP, VIA_SEGMENT]),
        ),
        (NONE_LEFT, group(&[VIA_UNRESOLVED, VIA_UNRESOLVED])),
        (WITH_INGRESS, group(&[VIA_UPLINK, VIA_INGRESS])),
    ]
}

fn next_hops() -> Vec<(u32, NextHop)> {
    let hop = |ifindex: u32, mtu, flags| NextHop {
        link: Link::resolved(macs(ifindex).0).0,
        ifindex,
        mtu,
        source_mac: macs(ifindex).1,
        flags,
        ..NextHop::default()
    };
    let silent = |hop: NextHop| NextHop {
        link: Link::UNRESOLVED.0,
        ..hop
    };
    vec![
        (VIA_SEGMENT, hop(SEGMENT, 1500, 0)),
        (VIA_UNRESOLVED, silent(hop(SEGMENT, 1500, 0))),
        (VIA_TUNNEL, silent(hop(TUNNEL, 1420, NextHop::LAYER3))),
        (VIA_INGRESS, hop(INGRESS, 1500, 0)),
        (ON_INGRESS, silent(hop(INGRESS, 1500, NextHop::CONNECTED))),
        (VIA_UPLINK, hop(UPLINK, 1500, 0)),
        (VIA_ELSEWHERE, hop(ELSEWHERE, 1500, 0)),
        (ON_SEGMENT, silent(hop(SEGMENT, 1500, NextHop::CONNECTED))),
        (ON_UPLINK, silent(hop(UPLINK, 1500, NextHop::CONNECTED))),
        (VIA_TAGGED, hop(TAGGED, 1500, NextHop::VLAN)),
        (VIA_TRUNKED, hop(TRUNKED, 1496, NextHop::VLAN)),
        (VIA_TAGGED_TC, hop(TAGGED_TC, 1500, NextHop::VLAN)),
        (FREE_IN_GROUP, NextHop::default()),
    ]
}
