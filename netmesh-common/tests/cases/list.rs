//! The cases.

mod forward;
mod group;
mod header;
mod martian;
mod policy;
mod priority;
mod vlan;

use netmesh_common::table::{FibEntry, Port};
use netmesh_common::verdict::DropReason as D;
use netmesh_common::verdict::PuntReason as P;

use super::lab::macs;
use super::packet::{ethernet, plain, routed};
use super::{Case, Count, Outcome};

/// A host behind the ingress, one behind the segment, one behind the tunnel, one far away.
pub(super) const BEHIND: &str = "2a02:1802:5e:4::a";
pub(super) const INSIDE: &str = "2a02:1802:5e:1::b";
pub(super) const TUNNELLED: &str = "2a02:1802:5e:3::c";
pub(super) const FAR: &str = "2606:4700::1111";
pub(super) const BEHIND4: &str = "10.1.4.10";
pub(super) const INSIDE4: &str = "10.1.1.11";

pub(super) const PLAIN: u32 = 0;
pub(super) const BCP38: u32 = Port::SOURCES_BEHIND;
pub(super) const EXTERNAL: u32 = Port::EXTERNAL;

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = untagged();
    cases.extend(group::groups());
    cases.extend(vlan::tagged_frames());
    cases.extend(priority::tags());
    cases.extend(vlan::tags_beside());
    cases.extend(priority::beside());
    cases
}

/// Those without groups of next hops and without VLAN ports.
pub(crate) fn untagged() -> Vec<Case> {
    let mut cases = forward::forwarded();
    cases.extend(forward::tunnels());
    cases.extend(forward::segmented());
    cases.extend(header::headers());
    cases.extend(header::scopes());
    cases.extend(header::nowhere());
    cases.extend(policy::actions());
    cases.extend(policy::sources());
    cases.extend(policy::edges());
    cases.extend(martian::lists());
    cases
}

pub(super) fn count(counter: u32, packet: &[u8]) -> Count {
    let bytes = packet.len() as u64;
    Count {
        counter,
        packets: 1,
        bytes,
    }
}

pub(super) fn case(name: &'static str, flags: u32, input: Vec<u8>, outcome: Outcome) -> Case {
    Case {
        name,
        flags,
        input: plain(input),
        xdp: Some(outcome.clone()),
        tc: outcome,
    }
}

pub(super) fn punt(name: &'static str, flags: u32, input: Vec<u8>, reason: P) -> Case {
    case(name, flags, input, Outcome::Punt(reason))
}

pub(super) fn drop(name: &'static str, flags: u32, input: Vec<u8>, reason: D) -> Case {
    case(name, flags, input, Outcome::Drop(reason))
}

/// An IP packet that must leave through an Ethernet port.
pub(super) fn leaves(
    name: &'static str,
    flags: u32,
    packet: Vec<u8>,
    egress: u32,
    to: u32,
    from: u32,
) -> Case {
    let outcome = out(&packet, egress, to, from);
    case(name, flags, ethernet(packet), outcome)
}

pub(super) fn out(packet: &[u8], egress: u32, to: u32, from: u32) -> Outcome {
    let (destination, source) = macs(egress);
    let mut bytes = ethernet(routed(packet.to_vec()));
    bytes[..6].copy_from_slice(&destination);
    bytes[6..12].copy_from_slice(&source);
    Outcome::Forward {
        ifindex: Some(egress),
        bytes,
        to: count(to, packet),
        from: (from != FibEntry::UNCOUNTED).then(|| count(from, packet)),
    }
}
