//! The forwarding decision: what happens to this packet.
//!
//! It reads and never writes: a packet that is left to the kernel is untouched by construction.
//! The order of the checks is part of the contract:
//!
//! 1. What is not plain IP for this router goes to the kernel: other protocols, other stations'
//!    frames, broken headers, options, scopes that never cross a router.
//! 2. A source that cannot live behind its port is dropped, before anything that would make the
//!    kernel answer it (RFC 2827).
//! 3. The route's action.
//! 4. What the kernel answers with ICMP: hop limit, size. What it resolves: the neighbour.

use crate::class::Address;
use crate::header::{self, ETHERNET, Header};
use crate::table::{Action, FibEntry, Link, NextHop, Origin, Port};
use crate::verdict::{DropReason, Forward, PuntReason, Verdict};
use crate::view::{Ingress, PacketView, TableView};

/// Decides.
#[inline(always)]
pub fn decide<P: PacketView, T: TableView>(packet: &P, ingress: &Ingress, table: &T) -> Verdict {
    match route(packet, ingress, table) {
        Ok(forward) => Verdict::Forward(forward),
        Err(Refusal::Punt(reason)) => Verdict::Punt(reason),
        Err(Refusal::Drop(reason)) => Verdict::Drop(reason),
    }
}

/// Every way not to forward; lets `?` carry either.
enum Refusal {
    Punt(PuntReason),
    Drop(DropReason),
}

impl From<PuntReason> for Refusal {
    fn from(reason: PuntReason) -> Self {
        Self::Punt(reason)
    }
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

#[inline(always)]
fn route<P: PacketView, T: TableView>(
    packet: &P,
    ingress: &Ingress,
    table: &T,
) -> Result<Forward, Refusal> {
    let (offset, family) = if ingress.port.flags & Port::LAYER3 == 0 {
        (ETHERNET, header::ethernet(packet, ingress.port.mac)?)
    } else {
        (0, header::version(packet)?)
    };
    let ip = header::ip(packet, offset, family)?;
    if ip.source.is_kernel_only() || ip.destination.is_kernel_only() {
        return Err(PuntReason::Scope.into());
    }

    let to = table.lookup(&ip.destination);
    let from = table.lookup(&ip.source);
    check_source(&ip.source, from, ingress, table)?;
    let to = to.ok_or(PuntReason::NoRoute)?;
    let next_hop = follow(&to, table)?;
    check_destination(&ip.destination, &to, &next_hop, table)?;

    if ip.hop_limit <= 1 {
        return Err(PuntReason::HopLimit.into());
    }
    if next_hop.ifindex == ingress.ifindex {
        return Err(PuntReason::SamePort.into());
    }
    if !packet.fits(next_hop.ifindex, ip.length, next_hop.mtu) {
        return Err(PuntReason::TooBig.into());
    }
    let layer3 = next_hop.flags & NextHop::LAYER3 != 0;
    let destination_mac = if layer3 {
        if ingress.frames_only {
            return Err(PuntReason::EgressNotAPort.into());
        }
        [0; 6]
    } else {
        Link(next_hop.link).mac().ok_or(PuntReason::Unresolved)?
    };
    Ok(hand_over(
        packet,
        offset,
        &ip,
        &to,
        from,
        &next_hop,
        layer3,
        destination_mac,
    ))
}

/// What the route says; only `Forward` goes on.
#[inline(always)]
fn follow<T: TableView>(entry: &FibEntry, table: &T) -> Result<NextHop, Refusal> {
    match Action::from_u8(entry.action) {
        Some(Action::Forward) => {
            let next_hop = table
                .next_hop(entry.next_hop)
                .filter(|hop| hop.ifindex != 0);
            Ok(next_hop.ok_or(PuntReason::NoRoute)?)
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
    from: Option<FibEntry>,
    ingress: &Ingress,
    table: &T,
) -> Result<(), Refusal> {
    if ingress.port.flags & (Port::SOURCES_BEHIND | Port::EXTERNAL) == 0 {
        return Ok(());
    }
    let behind = from.is_some_and(|entry| {
        table
            .next_hop(entry.next_hop)
            .is_some_and(|hop| hop.ifindex == ingress.ifindex)
    });
    if ingress.port.flags & Port::SOURCES_BEHIND != 0 && !behind {
        return Err(DropReason::SourceInvalid.into());
    }
    if ingress.port.flags & Port::EXTERNAL != 0 {
        let ours = from.is_some_and(|entry| entry.origin == Origin::Object as u8);
        if ours && !behind {
            return Err(DropReason::SourceInvalid.into());
        }
        // A route of its own makes even a special-purpose source legitimate.
        let covered = behind && from.is_some_and(|entry| entry.prefix_length != 0);
        if source.is_martian() && !covered {
            return Err(DropReason::Martian.into());
        }
    }
    Ok(())
}

/// A martian destination never follows the default route out of the outer edge.
#[inline(always)]
fn check_destination<T: TableView>(
    destination: &Address,
    to: &FibEntry,
    next_hop: &NextHop,
    table: &T,
) -> Result<(), Refusal> {
    if to.prefix_length == 0
        && destination.is_martian()
        && table
            .port(next_hop.ifindex)
            .is_some_and(|port| port.flags & Port::EXTERNAL != 0)
    {
        return Err(DropReason::Martian.into());
    }
    Ok(())
}

#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "the last step of one function, named for reading"
)]
fn hand_over<P: PacketView>(
    packet: &P,
    offset: usize,
    ip: &Header,
    to: &FibEntry,
    from: Option<FibEntry>,
    next_hop: &NextHop,
    layer3: bool,
    destination_mac: [u8; 6],
) -> Forward {
    let packets = packet.segments().max(1);
    Forward {
        ifindex: next_hop.ifindex,
        layer3,
        destination_mac,
        source_mac: next_hop.source_mac,
        offset: offset as u32,
        family: ip.family,
        hop_limit: ip.hop_limit.wrapping_sub(1),
        checksum: ip.next_checksum,
        to_counter: to.counter,
        from_counter: from.map_or(u32::MAX, |entry| entry.counter),
        packets,
        bytes: u64::from(ip.length) + u64::from(packets.wrapping_sub(1)) * u64::from(ip.repeated),
    }
}

#[cfg(test)]
mod tests;
