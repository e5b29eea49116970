//! Packets that leave, and how they are counted.

use netmesh_common::header::SHORTEST_FRAME;
use netmesh_common::table::{FibEntry, Port};
use netmesh_common::verdict::{DropReason as D, PuntReason as P};

use super::{BCP38, BEHIND, BEHIND4, EXTERNAL, FAR, INSIDE, INSIDE4, PLAIN, TUNNELLED};
use super::{count, leaves, out, punt};
use crate::cases::lab::{
    C_DEFAULT, C_INGRESS, C_SEGMENT, C_TUNNEL, C4_INGRESS, C4_SEGMENT, SEGMENT, TUNNEL, UPLINK,
};
use crate::cases::packet::{TCP, ethernet, plain, routed, v4, v6, with, with4};
use crate::cases::{Case, Count, Input, Outcome};

pub(super) fn forwarded() -> Vec<Case> {
    let ecn = with(v6(BEHIND, INSIDE, 64, 60), 1, 0x30);
    let extension = with(v6(BEHIND, INSIDE, 64, 60), 6, 43);
    let nothing = with(v6(BEHIND, INSIDE, 64, 0), 6, 59);
    let fragment = with4(v4(BEHIND4, INSIDE4, 64, 60), 6, 0x20);
    let later_fragment = with4(v4(BEHIND4, INSIDE4, 64, 60), 7, 0x10);
    let (s, i) = (C_SEGMENT, C_INGRESS);
    let mut cases = vec![
        leaves("IPv6", BCP38, v6(BEHIND, INSIDE, 64, 60), SEGMENT, s, i),
        leaves(
            "hop limit 2",
            BCP38,
            v6(BEHIND, INSIDE, 2, 60),
            SEGMENT,
            s,
            i,
        ),
        leaves(
            "hop limit 255",
            BCP38,
            v6(BEHIND, INSIDE, 255, 60),
            SEGMENT,
            s,
            i,
        ),
        leaves(
            "exactly the MTU",
            BCP38,
            v6(BEHIND, INSIDE, 64, 1460),
            SEGMENT,
            s,
            i,
        ),
        leaves("traffic class stays", BCP38, ecn, SEGMENT, s, i),
        leaves(
            "a routing header is not looked at",
            BCP38,
            extension,
            SEGMENT,
            s,
            i,
        ),
        leaves("no next header, no payload", BCP38, nothing, SEGMENT, s, i),
        leaves(
            "a next header, but no payload",
            BCP38,
            v6(BEHIND, INSIDE, 64, 0),
            SEGMENT,
            s,
            i,
        ),
        leaves(
            "to the default route",
            BCP38,
            v6(BEHIND, FAR, 64, 60),
            UPLINK,
            C_DEFAULT,
            i,
        ),
        leaves(
            "from outside",
            EXTERNAL,
            v6(FAR, INSIDE, 64, 60),
            SEGMENT,
            s,
            C_DEFAULT,
        ),
    ];
    let (s, i) = (C4_SEGMENT, C4_INGRESS);
    cases.extend([
        leaves("IPv4", BCP38, v4(BEHIND4, INSIDE4, 64, 60), SEGMENT, s, i),
        leaves("TTL 2", BCP38, v4(BEHIND4, INSIDE4, 2, 60), SEGMENT, s, i),
        leaves(
            "TTL 255",
            BCP38,
            v4(BEHIND4, INSIDE4, 255, 60),
            SEGMENT,
            s,
            i,
        ),
        leaves("first fragment", BCP38, fragment, SEGMENT, s, i),
        leaves("later fragment", BCP38, later_fragment, SEGMENT, s, i),
    ]);
    let source = v4("1.1.1.1", INSIDE4, 64, 60);
    cases.push(leaves(
        "a source no prefix matches",
        PLAIN,
        source,
        SEGMENT,
        s,
        FibEntry::UNCOUNTED,
    ));
    cases.extend(padded());
    cases
}

/// What follows the packet is not counted, and the kernel's router cuts it off; but XDP sends the
/// frame as it is and leaves the padding that Ethernet needs.
fn padded() -> Vec<Case> {
    let case = |name, payload: usize, surplus: usize| {
        let packet = v4(BEHIND4, INSIDE4, 64, payload);
        let tc = out(&packet, SEGMENT, C4_SEGMENT, C4_INGRESS);
        let input = [ethernet(packet), vec![0; surplus]].concat();
        let mut xdp = tc.clone();
        if let Outcome::Forward { bytes, .. } = &mut xdp {
            bytes.resize(bytes.len().max(SHORTEST_FRAME), 0);
        }
        Case {
            name,
            flags: BCP38,
            input: plain(input),
            tc,
            xdp: Some(xdp),
        }
    };
    vec![
        case("padding up to the least", 8, 18),
        case("padding beyond the least", 8, 40),
        case("bytes behind a long packet", 60, 7),
    ]
}

pub(super) fn tunnels() -> Vec<Case> {
    let packet = v6(BEHIND, TUNNELLED, 64, 60);
    let into = Case {
        name: "into a tunnel; XDP leaves it to others",
        flags: BCP38,
        input: plain(ethernet(packet.clone())),
        tc: Outcome::Forward {
            ifindex: Some(TUNNEL),
            bytes: ethernet(routed(packet.clone())),
            to: count(C_TUNNEL, &packet),
            from: Some(count(C_INGRESS, &packet)),
        },
        xdp: Some(Outcome::Punt(P::EgressNotAPort)),
    };
    let large = ethernet(v6(BEHIND, TUNNELLED, 64, 1381));
    let layer3 = |name, packet: Vec<u8>, tc| Case {
        name,
        flags: Port::LAYER3 | BCP38,
        input: plain(packet),
        tc,
        xdp: None,
    };
    let out6 = v6(BEHIND, INSIDE, 64, 60);
    let out4 = v4(BEHIND4, INSIDE4, 64, 60);
    let through = Outcome::Forward {
        ifindex: Some(TUNNEL),
        bytes: routed(packet.clone()),
        to: count(C_TUNNEL, &packet),
        from: Some(count(C_INGRESS, &packet)),
    };
    let spoofed = v6(INSIDE, TUNNELLED, 1, 60);
    vec![
        into,
        punt("larger than the tunnel", BCP38, large, P::TooBig),
        layer3(
            "out of a tunnel",
            out6.clone(),
            out(&out6, SEGMENT, C_SEGMENT, C_INGRESS),
        ),
        layer3(
            "IPv4 out of a tunnel",
            out4.clone(),
            out(&out4, SEGMENT, C4_SEGMENT, C4_INGRESS),
        ),
        layer3("tunnel to tunnel", packet, through),
        layer3(
            "neither IPv6 nor IPv4",
            vec![0x50; 40],
            Outcome::Punt(P::NotIp),
        ),
        layer3(
            "too short for any header",
            vec![0x60; 19],
            Outcome::Punt(P::Malformed),
        ),
        layer3(
            "spoofed, though its hop limit is over",
            spoofed,
            Outcome::Drop(D::SourceInvalid),
        ),
    ]
}

/// GSO packets exist for TC only.
pub(super) fn segmented() -> Vec<Case> {
    let tcp = |payload: usize| {
        with(
            with(v6(BEHIND, INSIDE, 64, 20 + payload), 6, TCP),
            52,
            5 << 4,
        )
    };
    let gso = |name, packet: Vec<u8>, segment_size, segments, counted: Option<(u64, u64)>| {
        let tc = match (out(&packet, SEGMENT, C_SEGMENT, C_INGRESS), counted) {
            (
                Outcome::Forward {
                    ifindex,
                    bytes: frame,
                    ..
                },
                Some((packets, bytes)),
            ) => {
                let count = |counter| Count {
                    counter,
                    packets,
                    bytes,
                };
                Outcome::Forward {
                    ifindex,
                    bytes: frame,
                    to: count(C_SEGMENT),
                    from: Some(count(C_INGRESS)),
                }
            }
            _ => Outcome::Punt(P::TooBig),
        };
        Case {
            name,
            flags: BCP38,
            input: Input {
                bytes: ethernet(packet),
                segment_size,
                segments,
                ..Input::default()
            },
            tc,
            xdp: None,
        }
    };
    // 3,000 bytes as 1,400 + 1,400 + 200, each behind 60 bytes of headers.
    let of_three = Some((3, 3000 + 3 * 60));
    vec![
        gso(
            "a GSO packet counts as its segments",
            tcp(3000),
            1400,
            3,
            of_three,
        ),
        gso("segments that nobody counted", tcp(3000), 1400, 0, of_three),
        gso("one segment", tcp(900), 1400, 1, Some((1, 960))),
        gso(
            "one segment, less than its size",
            tcp(900),
            1500,
            1,
            Some((1, 960)),
        ),
        padded_segments(tcp(3000)),
        gso("segments as large as the MTU", tcp(3000), 1440, 3, of_three),
        gso("segments one byte larger", tcp(3000), 1441, 3, None),
    ]
}

/// Nothing makes such a packet; what is not certain is the kernel's.
fn padded_segments(packet: Vec<u8>) -> Case {
    let mut bytes = ethernet(packet);
    bytes.extend([0; 4]);
    Case {
        name: "padding behind segments",
        flags: BCP38,
        input: Input {
            bytes,
            segment_size: 1400,
            segments: 3,
            ..Input::default()
        },
        tc: Outcome::Punt(P::Malformed),
        xdp: None,
    }
}
