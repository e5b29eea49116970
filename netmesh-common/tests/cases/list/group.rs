//! Packets to prefixes with several next hops, and from them.

use netmesh_common::verdict::{DropReason as D, PuntReason as P};

use super::{BCP38, BEHIND, INSIDE, PLAIN};
use super::{drop, leaves, punt};
use crate::cases::Case;
use crate::cases::lab::{C_INGRESS, C_ONE_LEFT, C_SEGMENT, C_WITH_INGRESS, SEGMENT};
use crate::cases::packet::{TCP, ethernet, v6, with};

pub(super) fn groups() -> Vec<Case> {
    let to = |prefix: &str| v6(BEHIND, &format!("2a02:1802:5e:{prefix}::1"), 64, 60);
    let from = |prefix: &str| v6(&format!("2a02:1802:5e:{prefix}::1"), INSIDE, 64, 60);
    let (left, i, s) = (C_ONE_LEFT, C_INGRESS, C_SEGMENT);
    let mut cases = vec![
        leaves("the member that is left", BCP38, to("1b"), SEGMENT, left, i),
        punt(
            "no member is left",
            BCP38,
            ethernet(to("1c")),
            P::Unresolved,
        ),
        punt("no such group", BCP38, ethernet(to("1e")), P::NoRoute),
        leaves(
            "a source behind a member",
            BCP38,
            from("1d"),
            SEGMENT,
            s,
            C_WITH_INGRESS,
        ),
        drop(
            "a source behind no member",
            BCP38,
            ethernet(from("1b")),
            D::SourceInvalid,
        ),
        drop(
            "a source whose group is not there",
            BCP38,
            ethernet(from("1e")),
            D::SourceInvalid,
        ),
        leaves("any source", PLAIN, from("1b"), SEGMENT, s, left),
    ];
    // Whichever bucket its ports draw.
    for port in 0..3 {
        let packet = with(with(to("1b"), 6, TCP), 41, port);
        cases.push(leaves(
            "every bucket's flows",
            BCP38,
            packet,
            SEGMENT,
            left,
            i,
        ));
    }
    cases
}
