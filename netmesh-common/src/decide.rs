//! The forwarding decision: what happens to this packet.
//!
//! It reads and never writes: a packet that is left to the kernel is untouched by construction.
//! The order of the checks is part of the contract:
//!
//! 1. What is not IP for this router goes to the kernel: other protocols, other stations' frames,
//!    broken headers, scopes that never cross a router.
//! 2. A source that cannot live behind its port is dropped, before anything that would make the
//!    kernel answer it, or forward it instead (RFC 2827), and so is one that lives nowhere.
//! 3. What has options, or priority tags in front of it, goes to the kernel.
//! 4. The route's action.
//! 5. What the kernel answers with ICMP: hop limit, size. What it resolves: the neighbour.

use crate::class::Address;
use crate::flow;
use crate::group;
use crate::header::{self, Family, Header};
use crate::table::{Action, FibEntry, Link, NextHop, Origin, Port};
use crate::verdict::{DropReason, Forward, Outcome, PuntReason, Refusal, Stations, Verdict};
use crate::view::{Fit, Ingress, PacketView, TableView};

/// Decides.
#[must_use]
pub fn decide<P: PacketView, T: TableView>(packet: &P, ingress: &Ingress, table: &T) -> Verdict {
    let mut forward = Forward::EMPTY;
    match decide_into(packet, ingress, table, &mut forward) {
        Outcome::Forward => Verdict::Forward(forward),
        Outcome::Punt(reason) => Verdict::Punt(reason),
        Outcome::Drop(reason) => Verdict::Drop(reason),
    }
}

/// [`decide`] for a host in the kernel: `forward` is filled in when the outcome is to forward.
///
/// It comes from outside so that all of it is set on every path: of a value that only one path
/// sets the compiler keeps unset copies on the stack, which verifiers before Linux 6.3 refuse to
/// read.
#[inline(always)]
#[must_use]
pub fn decide_into<P: PacketView, T: TableView>(
    packet: &P,
    ingress: &Ingress,
    table: &T,
    forward: &mut Forward,
) -> Outcome {
    match route(packet, ingress, table, forward) {
        Ok(()) => Outcome::Forward,
        Err(Refusal::Punt(reason)) => Outcome::Punt(reason),
        Err(Refusal::Drop(reason)) => Outcome::Drop(reason),
    }
}

#[inline(always)]
fn route<P: PacketView, T: TableView>(
    packet: &P,
    ingress: &Ingress,
    table: &T,
    forward: &mut Forward,
) -> Result<(), Refusal> {
    // XDP sees frames only; told so, the verifier need not follow packets without their header.
    let (offset, family) = if P::TAG_IN_DATA || ingress.port.flags & Port::LAYER3 == 0 {
        header::ethernet(packet, ingress)?
    } else {
        (0, header::version(packet)?)
    };
    // One way per family: merged, the compiler keeps bytes that only one of them has set, and
    // verifiers before Linux 6.3 refuse to read those from the stack.
    match family {
        Family::V6 => {
            let ip = header::ipv6(packet, offset)?;
            cross(packet, ingress, table, offset, &ip, forward)
        }
        Family::V4 => {
            let ip = header::ipv4(packet, offset)?;
            cross(packet, ingress, table, offset, &ip, forward)
        }
    }
}

/// The way of a well-formed packet through the table.
#[inline(always)]
fn cross<P: PacketView, T: TableView>(
    packet: &P,
    ingress: &Ingress,
    table: &T,
    offset: usize,
    ip: &Header,
    forward: &mut Forward,
) -> Result<(), Refusal> {
    if table.is_kernel_only(&ip.source) || table.is_kernel_only(&ip.destination) {
        return Err(scope(ip, ingress, table));
    }

    let to = table.lookup(&ip.destination);
    // A plain value: the verifier refuses the tests of fields that the compiler merges over the
    // arms of an `Option`.
    let from = table.lookup_source(&ip.source).unwrap_or(FibEntry::NONE);
    check_source(&ip.source, &from, ingress, table)?;
    // Not before: neither options nor priority tags must open a way for a source that is not believed.
    if header::is_hidden(packet, ingress, offset) {
        return Err(PuntReason::Vlan.into());
    }
    if let Some(reason) = ip.oddity.reason(ip.family) {
        return Err(reason.into());
    }
    let to = to.ok_or(PuntReason::NoRoute)?;
    let (index, next_hop) = follow(&to, packet, offset, ip.family, table)?;
    check_destination(&ip.destination, &to, &next_hop, ingress, table)?;

    if ip.hop_limit <= 1 {
        return Err(PuntReason::HopLimit.into());
    }
    if next_hop.ifindex == ingress.ifindex {
        return Err(PuntReason::SamePort.into());
    }
    match packet.fits(next_hop.ifindex, ip.wire.largest, next_hop.mtu) {
        Fit::Fits => {}
        Fit::TooBig => return Err(PuntReason::TooBig.into()),
        Fit::Gone => return Err(PuntReason::EgressNotAPort.into()),
    }
    // Read again rather than kept: six bytes of an address are six words of a program's stack.
    let same = |hop: &NextHop| hop.ifindex == next_hop.ifindex;
    let next_hop = table
        .next_hop(index)
        .filter(same)
        .ok_or(PuntReason::Unresolved)?;
    let layer3 = next_hop.flags & NextHop::LAYER3 != 0;
    let link = Link(next_hop.link);
    if layer3 {
        if ingress.frames_only {
            return Err(PuntReason::EgressNotAPort.into());
        }
    } else if !link.is_resolved() {
        return Err(PuntReason::Unresolved.into());
    }
    let vlan = egress_tag(&next_hop, ingress, table)?;
    *forward = Forward {
        ifindex: next_hop.ifindex,
        layer3,
        vlan,
        stations: Stations::new(link, next_hop.source_mac),
        offset: offset as u32,
        length: ip.length,
        family: ip.family,
        hop_limit: ip.hop_limit.wrapping_sub(1),
        checksum: ip.next_checksum,
        to_counter: to.counter,
        from_counter: from.counter,
        packets: ip.wire.packets,
        bytes: ip.wire.bytes,
    };
    Ok(())
}

/// The kernel's, but for what it would route as if the source were anybody's: where a port does not
/// believe every source, such a packet may reach this node at most.
#[inline(always)]
fn scope<T: TableView>(ip: &Header, ingress: &Ingress, table: &T) -> Refusal {
    if !ingress.port.is_checked()
        || table.is_kernel_only(&ip.destination)
        || !table.is_nobodys(&ip.source)
    {
        return PuntReason::Scope.into();
    }
    let to = table.lookup(&ip.destination).unwrap_or(FibEntry::NONE);
    if to.action == Action::Local as u8 {
        return PuntReason::Scope.into();
    }
    DropReason::SourceInvalid.into()
}

/// What the route says; only `Forward` goes on, by the next hop of an index.
#[inline(always)]
fn follow<P: PacketView, T: TableView>(
    entry: &FibEntry,
    packet: &P,
    offset: usize,
    family: Family,
    table: &T,
) -> Result<(u32, NextHop), Refusal> {
    match Action::from_u8(entry.action) {
        Some(Action::Forward) => {
            let mut index = entry.next_hop;
            if let Some(id) = group::of(index) {
                let hash = flow::hash(packet, offset, family);
                index = table.choose(id, hash).ok_or(PuntReason::NoRoute)?;
            }
            let next_hop = table.next_hop(index).filter(|hop| hop.ifindex != 0);
            Ok((index, next_hop.ok_or(PuntReason::NoRoute)?))
        }
        Some(Action::Local) => Err(PuntReason::Local.into()),
        Some(Action::Connected) => Err(PuntReason::Connected.into()),
        Some(Action::Blackhole) => Err(DropReason::Blackhole.into()),
        Some(Action::Unreachable | Action::Prohibit | Action::Punt) | None => {
            Err(PuntReason::Action.into())
        }
    }
}

/// BCP 38 (RFC 2827): which sources a port believes.
#[inline(always)]
fn check_source<T: TableView>(
    source: &Address,
    from: &FibEntry,
    ingress: &Ingress,
    table: &T,
) -> Result<(), Refusal> {
    let flags = ingress.port.flags;
    if !ingress.port.is_checked() {
        // IPv4: a martian source to the kernel (`fib_validate_source`).
        return if from.action == Action::Local as u8 {
            Err(PuntReason::Scope.into())
        } else {
            Ok(())
        };
    }
    let device = table.next_hop(from.next_hop).map_or(0, |hop| hop.ifindex);
    let behind = match group::of(from.next_hop) {
        None => device == ingress.ifindex,
        Some(id) => table.leads_to(id, ingress.ifindex),
    };
    if flags & Port::SOURCES_BEHIND != 0 && !behind {
        return Err(DropReason::SourceInvalid.into());
    }
    if flags & Port::EXTERNAL == 0 {
        return Ok(());
    }
    if !behind && is_inside(from, device, table) {
        return Err(DropReason::SourceInvalid.into());
    }
    // A route of its own makes even a special-purpose source legitimate; the default one does not.
    let vouched = behind && from.prefix_length != 0;
    if !vouched && is_martian(source, ingress.ifindex, ingress, table) {
        return Err(DropReason::Martian.into());
    }
    Ok(())
}

/// A martian to this port: what it says itself comes before the registries (RFC 6890).
#[inline(always)]
fn is_martian<T: TableView>(address: &Address, port: u32, ingress: &Ingress, table: &T) -> bool {
    let said = match ingress.port.flags & Port::LISTED {
        0 => None,
        _ => table.martian(port, address),
    };
    said.unwrap_or_else(|| table.is_martian(address))
}

/// The source lives on our side of the outer edge: in a prefix of an object, on this node, or on
/// a connected subnet that does not face the outside itself.
#[inline(always)]
fn is_inside<T: TableView>(entry: &FibEntry, device: u32, table: &T) -> bool {
    if entry.origin == Origin::Object as u8 {
        return entry.prefix_length != 0;
    }
    entry.origin == Origin::Connected as u8 && !is_external(device, table)
}

/// Martian destinations: none follows the default route out of the outer edge, and none comes in
/// through it unless an object or the operator has a route for it.
#[inline(always)]
fn check_destination<T: TableView>(
    destination: &Address,
    to: &FibEntry,
    next_hop: &NextHop,
    ingress: &Ingress,
    table: &T,
) -> Result<(), Refusal> {
    let wanted = to.prefix_length != 0
        && (to.origin == Origin::Object as u8 || to.origin == Origin::Static as u8);
    let may_leave = to.prefix_length == 0;
    let may_enter = ingress.port.flags & Port::EXTERNAL != 0 && !wanted;
    // Most packets do neither, and most others are of no martian: nothing is looked up for those.
    if !may_leave && !may_enter {
        return Ok(());
    }
    if ingress.port.flags & Port::LISTED == 0 && !table.is_martian(destination) {
        return Ok(());
    }
    let leaves = may_leave
        && is_external(next_hop.ifindex, table)
        && is_martian(destination, next_hop.ifindex, ingress, table);
    let enters = may_enter && is_martian(destination, ingress.ifindex, ingress, table);
    if leaves || enters {
        return Err(DropReason::Martian.into());
    }
    Ok(())
}

/// The tag that a frame must carry through the device below a VLAN sub-interface: XDP cannot send
/// to the sub-interface itself. 0 for none.
#[inline(always)]
fn egress_tag<T: TableView>(
    next_hop: &NextHop,
    ingress: &Ingress,
    table: &T,
) -> Result<u16, Refusal> {
    if !ingress.frames_only || next_hop.flags & NextHop::VLAN == 0 {
        return Ok(0);
    }
    match table.port(next_hop.ifindex).map_or(0, |port| port.vlan) {
        0 => Err(PuntReason::EgressNotAPort.into()),
        vid => Ok(vid),
    }
}

#[inline(always)]
fn is_external<T: TableView>(ifindex: u32, table: &T) -> bool {
    table
        .port(ifindex)
        .is_some_and(|port| port.flags & Port::EXTERNAL != 0)
}
