//! What ports say themselves of martians.

use netmesh_common::table::Port;
use netmesh_common::verdict::DropReason as D;

use super::super::Case;
use super::super::lab::{C_DEFAULT, C_INGRESS, C_SEGMENT, C4_DEFAULT, C4_SEGMENT, SEGMENT, UPLINK};
use super::super::packet::{ethernet as e, v4, v6};
use super::{BCP38, BEHIND, EXTERNAL, INSIDE, INSIDE4, PLAIN, drop, leaves};

/// The list of the port a packet comes in through, and that of the one it leaves through.
pub(super) fn lists() -> Vec<Case> {
    let x = EXTERNAL | Port::LISTED;
    let from = |source| e(v6(source, INSIDE, 64, 60));
    let from4 = |source| e(v4(source, INSIDE4, 64, 60));
    let mut cases = vec![
        drop(
            "a source the port lists",
            x,
            from("2606:4700:dead::7"),
            D::Martian,
        ),
        drop(
            "a listed source inside one that is none",
            x,
            from4("100.64.7.1"),
            D::Martian,
        ),
        drop(
            "a special source the port says nothing of",
            x,
            from("fd00:8::1"),
            D::Martian,
        ),
        drop(
            "IPv6's list is none for IPv4",
            x,
            from4("10.99.0.1"),
            D::Martian,
        ),
        drop(
            "a list is no word on what is ours",
            x,
            from4("10.1.1.7"),
            D::SourceInvalid,
        ),
        drop(
            "a listed destination to the outside",
            BCP38 | Port::LISTED,
            e(v6(BEHIND, "2606:4700:beef::1", 64, 60)),
            D::Martian,
        ),
        drop(
            "another port's exception does not count",
            x,
            from4("10.200.0.1"),
            D::Martian,
        ),
        drop(
            "a special destination to the outside the port says nothing of",
            PLAIN | Port::LISTED,
            e(v6(BEHIND, "fd78::1", 64, 60)),
            D::Martian,
        ),
    ];
    for (name, source, counter) in [
        ("a private source the port takes", "fd00:9::1", C_DEFAULT),
        (
            "another port's list does not count",
            "2606:4700:beef::1",
            C_DEFAULT,
        ),
    ] {
        let packet = v6(source, INSIDE, 64, 60);
        cases.push(leaves(name, x, packet, SEGMENT, C_SEGMENT, counter));
    }
    let shared = v4("100.64.8.1", INSIDE4, 64, 60);
    cases.push(leaves(
        "shared address space the port takes",
        x,
        shared,
        SEGMENT,
        C4_SEGMENT,
        C4_DEFAULT,
    ));
    for (name, flags, destination) in [
        (
            "a private destination the uplink takes",
            BCP38 | Port::LISTED,
            "fd77::1",
        ),
        (
            "what is listed where it came in may leave elsewhere",
            BCP38 | Port::LISTED,
            "2606:4700:dead::7",
        ),
        ("a list that no port is told of", BCP38, "2606:4700:beef::1"),
    ] {
        let packet = v6(BEHIND, destination, 64, 60);
        cases.push(leaves(name, flags, packet, UPLINK, C_DEFAULT, C_INGRESS));
    }
    cases
}
