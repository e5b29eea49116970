//! Tags: which port a frame came in through, and what leaves tagged.

use netmesh_common::header::SHORTEST_FRAME;
use netmesh_common::verdict::{DropReason as D, PuntReason as P};

use super::{BCP38, BEHIND, BEHIND4, INSIDE, PLAIN, count, drop, out, punt};
use crate::cases::lab::{
    C_INGRESS, C_SEGMENT, C_TAGGED, C_TAGGED_TC, C_TRUNKED, C4_INGRESS, C4_TAGGED, C4_TRUNKED,
    INGRESS_MAC, SEGMENT, TAGGED, TAGGED_NOT_A_PORT_VID, TAGGED_TC, TAGGED_TC_VID, TAGGED_VID,
    TRUNKED, TRUNKED_VID, macs,
};
use crate::cases::packet::{ethernet, plain, routed, tag, tagged, v4, v6, with};
use crate::cases::{Case, Input, Outcome};

/// Hosts behind the VLAN sub-interfaces: of the ingress, of the segment, of the ingress in TC.
pub(super) const ON_TAGGED: &str = "2a02:1802:5e:a::a";
pub(super) const ON_TRUNKED: &str = "2a02:1802:5e:b::b";
const ON_TAGGED_TC: &str = "2a02:1802:5e:c::c";
const ON_TAGGED4: &str = "10.1.10.10";
pub(super) const ON_TRUNKED4: &str = "10.1.11.11";

/// What leaves with a tag in the frame.
fn out_tagged(packet: &[u8], egress: u32, vid: u16, to: u32, from: u32) -> Outcome {
    let (destination, source) = macs(egress);
    let mut bytes = ethernet(routed(packet.to_vec()));
    bytes[..6].copy_from_slice(&destination);
    bytes[6..12].copy_from_slice(&source);
    bytes.splice(12..12, tag(vid));
    Outcome::Forward {
        ifindex: Some(egress),
        bytes,
        to: count(to, packet),
        from: Some(count(from, packet)),
    }
}

/// With padding up to Ethernet's least.
fn padded(mut outcome: Outcome) -> Outcome {
    if let Outcome::Forward { bytes, .. } = &mut outcome {
        bytes.resize(SHORTEST_FRAME, 0);
    }
    outcome
}

/// In TC a tag in the data is never the outermost one: it is the kernel's.
pub(super) fn in_data(name: &'static str, bytes: Vec<u8>, xdp: Outcome) -> Case {
    let ours = bytes.starts_with(&INGRESS_MAC);
    Case {
        name,
        flags: PLAIN,
        input: plain(bytes),
        tc: Outcome::Punt(if ours { P::Vlan } else { P::NotForUs }),
        xdp: Some(xdp),
    }
}

/// Tags as XDP sees them.
pub(super) fn tagged_frames() -> Vec<Case> {
    let vid = TAGGED_VID;
    let (t, r) = (C_TAGGED, C_TRUNKED);
    let in6 = v6(ON_TAGGED, INSIDE, 64, 60);
    let in4 = v4(ON_TAGGED4, "10.1.1.11", 64, 60);
    let across = v6(ON_TAGGED, ON_TRUNKED, 64, 60);
    let across4 = v4(ON_TAGGED4, ON_TRUNKED4, 64, 60);
    let out6 = v6(BEHIND, ON_TRUNKED, 64, 60);
    let out4 = v4(BEHIND4, ON_TRUNKED4, 64, 60);
    let short = v6(ON_TAGGED, INSIDE, 64, 0);
    let hairpin = v6(BEHIND, ON_TAGGED, 64, 60);
    let hairpin4 = v4(BEHIND4, ON_TAGGED4, 64, 60);
    let to_tc = v6(BEHIND, ON_TAGGED_TC, 64, 60);
    let full = v6(BEHIND, ON_TRUNKED, 64, 1456);
    let left = |packet: &Vec<u8>, to, from| out(packet, SEGMENT, to, from);
    let trunked = |packet: &Vec<u8>, to, from| out_tagged(packet, TRUNKED, TRUNKED_VID, to, from);
    let back = |packet: &Vec<u8>, to, from| out_tagged(packet, TAGGED, TAGGED_VID, to, from);
    let either = |name, packet: Vec<u8>, egress, xdp: Outcome, to, from| Case {
        name,
        flags: BCP38,
        tc: out(&packet, egress, to, from),
        xdp: Some(xdp),
        input: plain(ethernet(packet)),
    };
    let vlan = |name, bytes| punt(name, PLAIN, bytes, P::Vlan);
    let other_tpid = |tpid: [u8; 2]| {
        let frame = tagged(vid, in6.clone());
        with(with(frame, 12, tpid[0]), 13, tpid[1])
    };
    let twice = |outer, inner| {
        let mut frame = tagged(outer, in6.clone());
        frame.splice(12..12, tag(inner));
        frame.swap(14, 18);
        frame.swap(15, 19);
        frame
    };
    let xdp_punt = |name, bytes, reason| in_data(name, bytes, Outcome::Punt(reason));
    vec![
        in_data(
            "tagged in, untagged out",
            tagged(vid, in6.clone()),
            left(&in6, C_SEGMENT, t),
        ),
        in_data(
            "tagged in, untagged out, IPv4",
            tagged(vid, in4.clone()),
            left(&in4, 20, C4_TAGGED),
        ),
        in_data(
            "tagged with padding, untagged out, still no shorter than a frame",
            {
                let mut frame = tagged(vid, short.clone());
                frame.resize(80, 0);
                frame
            },
            padded(left(&short, C_SEGMENT, t)),
        ),
        in_data(
            "priority and drop eligibility are not carried over",
            tagged(0xf000 | vid, in6.clone()),
            left(&in6, C_SEGMENT, t),
        ),
        in_data(
            "tagged in, tagged out",
            tagged(vid, across.clone()),
            trunked(&across, r, t),
        ),
        in_data(
            "tagged in, tagged out, IPv4",
            tagged(vid, across4.clone()),
            trunked(&across4, C4_TRUNKED, C4_TAGGED),
        ),
        in_data(
            "tagged in, tagged out, priority set anew",
            tagged(0x6000 | vid, across.clone()),
            trunked(&across, r, t),
        ),
        either(
            "untagged in, tagged out",
            out6.clone(),
            TRUNKED,
            trunked(&out6, r, C_INGRESS),
            r,
            C_INGRESS,
        ),
        either(
            "untagged in, tagged out, IPv4",
            out4.clone(),
            TRUNKED,
            trunked(&out4, C4_TRUNKED, C4_INGRESS),
            C4_TRUNKED,
            C4_INGRESS,
        ),
        either(
            "exactly the MTU of the sub-interface",
            full.clone(),
            TRUNKED,
            trunked(&full, r, C_INGRESS),
            r,
            C_INGRESS,
        ),
        punt(
            "larger than the MTU of the sub-interface",
            BCP38,
            ethernet(v6(BEHIND, ON_TRUNKED, 64, 1457)),
            P::TooBig,
        ),
        either(
            "untagged in, tagged out of the same device",
            hairpin.clone(),
            TAGGED,
            back(&hairpin, t, C_INGRESS),
            t,
            C_INGRESS,
        ),
        either(
            "untagged in, tagged out of the same device, IPv4",
            hairpin4.clone(),
            TAGGED,
            back(&hairpin4, C4_TAGGED, C4_INGRESS),
            C4_TAGGED,
            C4_INGRESS,
        ),
        Case {
            name: "to a sub-interface that TC serves",
            flags: BCP38,
            tc: out(&to_tc, TAGGED_TC, C_TAGGED_TC, C_INGRESS),
            xdp: Some(Outcome::Punt(P::EgressNotAPort)),
            input: plain(ethernet(to_tc)),
        },
        xdp_punt(
            "tagged in and out of the same sub-interface",
            tagged(vid, v6(ON_TAGGED, "2a02:1802:5e:a::b", 64, 60)),
            P::SamePort,
        ),
        xdp_punt(
            "tagged, to another station",
            with(tagged(vid, in6.clone()), 5, 0x55),
            P::NotForUs,
        ),
        xdp_punt(
            "tagged, to the address of the device below",
            {
                let mut frame = tagged(vid, in6.clone());
                frame[..6].copy_from_slice(&INGRESS_MAC);
                frame
            },
            P::NotForUs,
        ),
        in_data(
            "tagged, a source that lives elsewhere",
            tagged(vid, v6(BEHIND, INSIDE, 64, 60)),
            Outcome::Drop(D::SourceInvalid),
        ),
        drop(
            "untagged, a source of the VLAN",
            BCP38,
            ethernet(in6.clone()),
            D::SourceInvalid,
        ),
        xdp_punt(
            "tagged, last hop",
            tagged(vid, v6(ON_TAGGED, INSIDE, 1, 60)),
            P::HopLimit,
        ),
        xdp_punt(
            "tagged ARP",
            with(with(tagged(vid, in6.clone()), 16, 8), 17, 6),
            P::NotIp,
        ),
        xdp_punt(
            "cut behind the tag control",
            tagged(vid, in6.clone())[..16].to_vec(),
            P::Malformed,
        ),
        xdp_punt(
            "cut in the inner EtherType",
            tagged(vid, in6.clone())[..17].to_vec(),
            P::Malformed,
        ),
        xdp_punt(
            "cut behind the tag",
            tagged(vid, in6.clone())[..18].to_vec(),
            P::Malformed,
        ),
        xdp_punt(
            "tagged, cut in the IP header",
            tagged(vid, in6.clone())[..57].to_vec(),
            P::Malformed,
        ),
        xdp_punt(
            "tagged, payload longer than the frame",
            {
                let mut frame = tagged(vid, in6.clone());
                frame.pop();
                frame
            },
            P::Malformed,
        ),
        xdp_punt("two tags, the outer one known", twice(vid, 8), P::Vlan),
        xdp_punt("two tags of a known VLAN", twice(vid, vid), P::Vlan),
        xdp_punt(
            "802.1ad behind a known VLAN",
            with(with(twice(vid, 8), 16, 0x88), 17, 0xa8),
            P::Vlan,
        ),
        in_data(
            "of a sub-interface that TC serves",
            tagged(TAGGED_TC_VID, in6.clone()),
            Outcome::NotOurs,
        ),
    ]
    .into_iter()
    .chain(
        [
            ("two tags, the inner one known", twice(8, vid)),
            ("priority tag", to_ingress(tagged(0, in6.clone()))),
            (
                "priority tag with a priority",
                to_ingress(tagged(0xe000, in6.clone())),
            ),
            ("a VLAN nobody has", to_ingress(tagged(8, in6.clone()))),
            ("the reserved VID", to_ingress(tagged(0xfff, in6.clone()))),
            (
                "a VLAN of another device",
                to_ingress(tagged(TRUNKED_VID, in6.clone())),
            ),
            (
                "a VLAN whose sub-interface is no port",
                to_ingress(tagged(TAGGED_NOT_A_PORT_VID, in6.clone())),
            ),
            (
                "802.1ad with a known VID",
                to_ingress(other_tpid([0x88, 0xa8])),
            ),
        ]
        .into_iter()
        .map(|(name, bytes)| vlan(name, to_ingress(bytes))),
    )
    .collect()
}

/// To the port below, which is who must leave it to the kernel.
fn to_ingress(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&INGRESS_MAC);
    frame
}

/// Tags that the kernel has taken off before TC sees the packet. A test run cannot have them.
pub(super) fn tags_beside() -> Vec<Case> {
    let packet = v6(BEHIND, INSIDE, 64, 60);
    [
        (
            "beside: a sub-interface in XDP",
            0x8100,
            TAGGED_VID,
            Outcome::NotOurs,
        ),
        (
            "beside: a sub-interface in TC",
            0x8100,
            TAGGED_TC_VID,
            Outcome::NotOurs,
        ),
        (
            "beside: with priority",
            0x8100,
            0xe000 | TAGGED_TC_VID,
            Outcome::NotOurs,
        ),
        (
            "beside: no port",
            0x8100,
            TAGGED_NOT_A_PORT_VID,
            Outcome::Punt(P::Vlan),
        ),
        ("beside: unknown", 0x8100, 8, Outcome::Punt(P::Vlan)),
        ("beside: priority tag", 0x8100, 0, Outcome::Punt(P::Vlan)),
        (
            "beside: 802.1ad",
            0x88a8,
            TAGGED_VID,
            Outcome::Punt(P::Vlan),
        ),
    ]
    .into_iter()
    .map(|(name, protocol, control, tc)| Case {
        name,
        flags: PLAIN,
        input: Input {
            bytes: ethernet(packet.clone()),
            tag: Some((protocol, control)),
            ..Input::default()
        },
        tc,
        xdp: None,
    })
    .collect()
}
