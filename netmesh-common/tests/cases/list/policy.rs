//! What the table says, and which addresses a port believes.

use netmesh_common::table::FibEntry;
use netmesh_common::verdict::{DropReason as D, PuntReason as P};

use super::{BCP38, BEHIND, BEHIND4, EXTERNAL, FAR, INSIDE, INSIDE4, PLAIN, TUNNELLED};
use super::{drop, leaves, out, punt};
use crate::cases::lab::{
    C_DEFAULT, C_INGRESS, C_SEGMENT, C4_DEFAULT, C4_SEGMENT, ELSEWHERE, SEGMENT, UPLINK,
};
use crate::cases::packet::{ethernet, plain, v4, v6, with, with4};
use crate::cases::{Case, Outcome};

pub(super) fn actions() -> Vec<Case> {
    let to = |destination| ethernet(v6(BEHIND, destination, 64, 60));
    let dying = |destination| ethernet(v6(BEHIND, destination, 1, 60));
    vec![
        punt("to this node", BCP38, to("2a02:1802:5e::1"), P::Local),
        punt(
            "to this node with its last hop",
            BCP38,
            dying("2a02:1802:5e::1"),
            P::Local,
        ),
        punt(
            "to a connected subnet",
            BCP38,
            to("2a02:1802:5e::77"),
            P::Connected,
        ),
        punt(
            "to an unassigned prefix",
            BCP38,
            to("2a02:1802:5e:ffff::1"),
            P::Action,
        ),
        punt(
            "to a prohibited prefix",
            BCP38,
            to("2a02:1802:5e:7::1"),
            P::Action,
        ),
        punt(
            "to a prefix of the kernel",
            BCP38,
            to("2a02:1802:5e:8::1"),
            P::Action,
        ),
        drop(
            "to a black hole",
            BCP38,
            to("2a02:1802:5e:6::1"),
            D::Blackhole,
        ),
        drop(
            "to a black hole with its last hop",
            BCP38,
            dying("2a02:1802:5e:6::1"),
            D::Blackhole,
        ),
        punt(
            "to a neighbour that is not known",
            BCP38,
            to("2a02:1802:5e:2::1"),
            P::Unresolved,
        ),
        punt(
            "to a next hop that is gone",
            BCP38,
            to("2a02:1802:5e:9::1"),
            P::NoRoute,
        ),
        punt(
            "back where it came from",
            BCP38,
            to("2a02:1802:5e:4::b"),
            P::SamePort,
        ),
        punt(
            "no route",
            BCP38,
            ethernet(v4(BEHIND4, "9.9.9.9", 64, 60)),
            P::NoRoute,
        ),
        elsewhere(),
    ]
}

/// To a device that is no port: XDP finds out before it changes anything; TC sends anywhere.
fn elsewhere() -> Case {
    let packet = v6(BEHIND, "2a02:1802:5e:5::1", 64, 60);
    Case {
        name: "to a device that is no port",
        flags: BCP38,
        input: plain(ethernet(packet.clone())),
        tc: out(&packet, ELSEWHERE, 14, C_INGRESS),
        xdp: Some(Outcome::Punt(P::EgressNotAPort)),
    }
}

pub(super) fn sources() -> Vec<Case> {
    let e = ethernet;
    let invalid = D::SourceInvalid;
    vec![
        drop(
            "another prefix's source",
            BCP38,
            e(v6(TUNNELLED, INSIDE, 64, 60)),
            invalid,
        ),
        drop(
            "another prefix's source, with hop-by-hop options",
            BCP38,
            e(with(v6(TUNNELLED, INSIDE, 64, 60), 6, 0)),
            invalid,
        ),
        drop(
            "another prefix's source, with IPv4 options",
            BCP38,
            e(with4(v4("1.1.1.1", INSIDE4, 64, 60), 0, 0x46)),
            invalid,
        ),
        drop(
            "a source from outside",
            BCP38,
            e(v6(FAR, INSIDE, 64, 60)),
            invalid,
        ),
        drop(
            "an unassigned source",
            BCP38,
            e(v6("2a02:1802:5e:ffff::1", FAR, 64, 60)),
            invalid,
        ),
        drop(
            "this node's address as source",
            BCP38,
            e(v6("2a02:1802:5e::1", FAR, 64, 60)),
            invalid,
        ),
        drop(
            "spoofed, hop limit 1",
            BCP38,
            e(v6(FAR, INSIDE, 1, 60)),
            invalid,
        ),
        drop(
            "spoofed, too big",
            BCP38,
            e(v6(FAR, INSIDE, 64, 1461)),
            invalid,
        ),
        drop(
            "spoofed, unassigned",
            BCP38,
            e(v6(FAR, "2a02:1802:5e:ffff::1", 64, 60)),
            invalid,
        ),
        drop(
            "spoofed, to this node",
            BCP38,
            e(v6(FAR, "2a02:1802:5e::1", 64, 60)),
            invalid,
        ),
        drop(
            "spoofed, no route",
            BCP38,
            e(v4("1.1.1.1", "9.9.9.9", 64, 60)),
            invalid,
        ),
        drop(
            "another prefix's IPv4 source",
            BCP38,
            e(v4(INSIDE4, "8.8.8.8", 64, 60)),
            invalid,
        ),
        punt(
            "this node's address as source on a port that believes all",
            PLAIN,
            e(v6("2a02:1802:5e::1", INSIDE, 64, 60)),
            P::Scope,
        ),
        punt(
            "this node's IPv4 address as source",
            PLAIN,
            e(v4("10.1.4.254", INSIDE4, 64, 60)),
            P::Scope,
        ),
        leaves(
            "from a connected subnet behind the port",
            BCP38,
            v6("2a02:1800:20::5", INSIDE, 64, 60),
            SEGMENT,
            C_SEGMENT,
            FibEntry::UNCOUNTED,
        ),
    ]
}

pub(super) fn edges() -> Vec<Case> {
    let e = ethernet;
    let from = |source| e(v6(source, INSIDE, 64, 60));
    let from4 = |source| e(v4(source, INSIDE4, 64, 60));
    let x = EXTERNAL;
    let mut cases = vec![
        drop(
            "ours from outside",
            x,
            from("2a02:1802:5e:3::9"),
            D::SourceInvalid,
        ),
        drop(
            "ours, unassigned, from outside",
            x,
            from("2a02:1802:5e:ffff::9"),
            D::SourceInvalid,
        ),
        drop(
            "the segment's subnet from outside",
            x,
            from("2a02:1802:5e::9"),
            D::SourceInvalid,
        ),
        drop(
            "this node from outside",
            x,
            from("2a02:1802:5e::1"),
            D::SourceInvalid,
        ),
        drop(
            "our IPv4 from outside",
            x,
            from4("10.1.1.7"),
            D::SourceInvalid,
        ),
        drop(
            "ours from outside, to this node",
            x,
            e(v6(INSIDE, "2a02:1802:5e::1", 1, 60)),
            D::SourceInvalid,
        ),
        punt(
            "from outside to this node",
            x,
            e(v6(FAR, "2a02:1802:5e::1", 64, 60)),
            P::Local,
        ),
        punt(
            "from outside, last hop",
            x,
            e(v6(FAR, INSIDE, 1, 60)),
            P::HopLimit,
        ),
        drop(
            "a private destination from outside",
            x,
            e(v6(FAR, "fd00:2::1", 64, 60)),
            D::Martian,
        ),
        drop(
            "a private destination to the outside",
            BCP38,
            e(v6(BEHIND, "fd77::1", 64, 60)),
            D::Martian,
        ),
        drop(
            "documentation to the outside",
            PLAIN,
            e(v6(BEHIND, "2001:db8::1", 64, 60)),
            D::Martian,
        ),
    ];
    for source in [
        "fd00::1",
        "2001:db8::1",
        "100::1",
        "100:0:0:1::1",
        "fec0::1",
    ] {
        cases.push(drop("a martian from outside", x, from(source), D::Martian));
    }
    for source in [
        "10.99.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "203.0.113.1",
    ] {
        cases.push(drop(
            "an IPv4 martian from outside",
            x,
            from4(source),
            D::Martian,
        ));
    }
    // The other uplink's router answers through this one; overlay networks are no martians.
    for (name, source, counter) in [
        (
            "a connected subnet of the outside",
            "2a02:1800:10::4",
            FibEntry::UNCOUNTED,
        ),
        ("200::/7 is no martian", "200::1", C_DEFAULT),
        ("400::/7 is no martian", "400::1", C_DEFAULT),
    ] {
        let packet = v6(source, INSIDE, 64, 60);
        cases.push(leaves(name, x, packet, SEGMENT, C_SEGMENT, counter));
    }
    let wanted = v6(FAR, "fd00:1::1", 64, 60);
    cases.push(leaves(
        "the operator's own route wins",
        x,
        wanted,
        SEGMENT,
        30,
        C_DEFAULT,
    ));
    cases.push(drop(
        "a private destination from outside, by the default route",
        x,
        e(v4("1.1.1.1", "192.168.7.7", 64, 60)),
        D::Martian,
    ));
    let world = v4("1.1.1.1", INSIDE4, 64, 60);
    cases.push(leaves(
        "IPv4 from outside, where the default route points",
        x,
        world,
        SEGMENT,
        C4_SEGMENT,
        C4_DEFAULT,
    ));
    let ours = v6(BEHIND, INSIDE, 64, 60);
    cases.push(leaves(
        "ours, which lives behind this very port",
        x,
        ours,
        SEGMENT,
        C_SEGMENT,
        C_INGRESS,
    ));
    let routed = v6(BEHIND, "fd00:3::1", 64, 60);
    cases.push(leaves(
        "private to the outside, by a route of its own",
        BCP38,
        routed,
        UPLINK,
        32,
        C_INGRESS,
    ));
    let private = v6(BEHIND, "fd00:2::1", 64, 60);
    cases.push(leaves(
        "private inside",
        BCP38,
        private,
        SEGMENT,
        31,
        C_INGRESS,
    ));
    cases
}
