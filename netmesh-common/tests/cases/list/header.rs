//! What is not plain IP for this router, and what its headers make the kernel's.

use netmesh_common::verdict::DropReason as D;
use netmesh_common::verdict::PuntReason as P;

use super::{BCP38, BEHIND, BEHIND4, EXTERNAL, INSIDE, INSIDE4, PLAIN, drop, punt};
use crate::cases::Case;
use crate::cases::lab::INGRESS_MAC;
use crate::cases::packet::{ethernet, frame, v4, v6, with, with4};

pub(super) fn headers() -> Vec<Case> {
    let good6 = || v6(BEHIND, INSIDE, 64, 60);
    let good4 = || v4(BEHIND4, INSIDE4, 64, 60);
    let other = [2, 0, 0, 0, 0, 2];
    let group = [0x33, 0x33, 0, 0, 0, 1];
    let e = ethernet;
    let short6 = frame(INGRESS_MAC, 0x86dd, good6()[..39].to_vec());
    let short4 = frame(INGRESS_MAC, 0x0800, good4()[..19].to_vec());
    let all = PLAIN;
    vec![
        punt(
            "another station's frame",
            all,
            frame(other, 0x86dd, good6()),
            P::NotForUs,
        ),
        punt(
            "a group's frame",
            all,
            frame(group, 0x86dd, good6()),
            P::NotForUs,
        ),
        punt(
            "broadcast",
            all,
            frame([0xff; 6], 0x0800, good4()),
            P::NotForUs,
        ),
        punt(
            "ARP",
            all,
            frame(INGRESS_MAC, 0x0806, vec![0; 46]),
            P::NotIp,
        ),
        punt("802.1Q", all, frame(INGRESS_MAC, 0x8100, good6()), P::Vlan),
        punt("802.1ad", all, frame(INGRESS_MAC, 0x88a8, good6()), P::Vlan),
        punt("IPv6 cut short", all, short6, P::Malformed),
        punt("IPv4 cut short", all, short4, P::Malformed),
        punt(
            "payload longer than the frame",
            all,
            e(with(good6(), 5, 61)),
            P::Malformed,
        ),
        punt(
            "IPv6 by EtherType only",
            all,
            frame(INGRESS_MAC, 0x86dd, good4()),
            P::Malformed,
        ),
        punt(
            "IPv4 by EtherType only",
            all,
            frame(INGRESS_MAC, 0x0800, good6()),
            P::Malformed,
        ),
        punt(
            "hop-by-hop options",
            all,
            e(with(good6(), 6, 0)),
            P::HopByHop,
        ),
        punt(
            "jumbogram",
            all,
            e(with(with(good6(), 6, 0), 5, 0)),
            P::HopByHop,
        ),
        punt(
            "a header of 16 bytes",
            all,
            e(with4(good4(), 0, 0x44)),
            P::Malformed,
        ),
        punt(
            "IPv4 options",
            all,
            e(with4(good4(), 0, 0x46)),
            P::Ipv4Options,
        ),
        punt(
            "total length below the header",
            all,
            e(with4(good4(), 3, 19)),
            P::Malformed,
        ),
        punt(
            "total length beyond the frame",
            all,
            e(with4(good4(), 3, 81)),
            P::Malformed,
        ),
        punt(
            "a wrong header checksum",
            all,
            e(with(good4(), 11, 0x77)),
            P::Malformed,
        ),
        punt(
            "hop limit 1",
            BCP38,
            e(v6(BEHIND, INSIDE, 1, 60)),
            P::HopLimit,
        ),
        punt(
            "hop limit 0",
            BCP38,
            e(v6(BEHIND, INSIDE, 0, 60)),
            P::HopLimit,
        ),
        punt("TTL 1", BCP38, e(v4(BEHIND4, INSIDE4, 1, 60)), P::HopLimit),
        punt("TTL 0", BCP38, e(v4(BEHIND4, INSIDE4, 0, 60)), P::HopLimit),
        punt(
            "one byte over the MTU",
            BCP38,
            e(v6(BEHIND, INSIDE, 64, 1461)),
            P::TooBig,
        ),
        punt(
            "IPv4 over the MTU",
            BCP38,
            e(v4(BEHIND4, INSIDE4, 64, 1481)),
            P::TooBig,
        ),
    ]
}

pub(super) fn scopes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, source, destination) in [
        ("to link-local", BEHIND, "fe80::1"),
        ("from link-local", "fe80::a", INSIDE),
        ("the far end of link-local", "febf::a", INSIDE),
        ("to a group", BEHIND, "ff02::1"),
        ("to a global group", BEHIND, "ff0e::1"),
        ("from a group", "ff02::1", INSIDE),
        ("to nobody", BEHIND, "::"),
        ("to loopback", BEHIND, "::1"),
        ("from nobody to a group", "::", "ff02::16"),
    ] {
        let packet = ethernet(v6(source, destination, 255, 24));
        for flags in [BCP38, EXTERNAL] {
            cases.push(punt(name, flags, packet.clone(), P::Scope));
        }
    }
    for (name, source, destination) in [
        ("IPv4 to a group", BEHIND4, "224.0.0.5"),
        ("IPv4 broadcast", BEHIND4, "255.255.255.255"),
        ("IPv4 to class E", BEHIND4, "240.0.0.1"),
        ("IPv4 to loopback", BEHIND4, "127.0.0.1"),
        ("IPv4 from loopback", "127.0.0.1", INSIDE4),
        ("IPv4 from nobody to all", "0.0.0.0", "255.255.255.255"),
        ("IPv4 link-local to this node", "169.254.1.4", "10.1.4.254"),
        ("IPv4 on the link", "169.254.1.4", "169.254.1.5"),
    ] {
        let packet = ethernet(v4(source, destination, 64, 24));
        cases.push(punt(name, BCP38, packet, P::Scope));
    }
    cases
}

/// Sources that live nowhere: a port that believes every source leaves them to the kernel, which
/// routes some of them; behind any other port nobody has them.
pub(super) fn nowhere() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, source) in [
        ("from nobody", "::"),
        ("from loopback", "::1"),
        ("from v4-mapped", "::ffff:10.1.4.10"),
        ("from v4-compatible", "::1.2.3.4"),
    ] {
        let packet = ethernet(v6(source, INSIDE, 255, 24));
        cases.push(punt(name, PLAIN, packet.clone(), P::Scope));
        for flags in [BCP38, EXTERNAL] {
            cases.push(drop(name, flags, packet.clone(), D::SourceInvalid));
        }
    }
    for (name, source) in [
        ("IPv4 link-local", "169.254.1.4"),
        ("IPv4 from this network", "0.0.0.0"),
        ("IPv4 from class E", "240.0.0.1"),
    ] {
        let packet = ethernet(v4(source, INSIDE4, 64, 24));
        cases.push(punt(name, PLAIN, packet.clone(), P::Scope));
        for flags in [BCP38, EXTERNAL] {
            cases.push(drop(name, flags, packet.clone(), D::SourceInvalid));
        }
    }
    cases
}
