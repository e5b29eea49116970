//! A second opinion on every packet, for the decision to be measured against.
//!
//! It is written from the RFCs, and from what the decision promises in its documentation; it shares
//! no code with it. It is slow, it allocates, and it says everything the long way: addresses are
//! numbers, classes of them are registries, a checksum is a sum over the whole header.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "test helpers; not every host uses each of them"
)]

mod arrival;
mod edit;
mod read;
mod registry;
mod table;

use netmesh_common::table::Port;
use netmesh_common::verdict::{DropReason, PuntReason};

use crate::cases::reference::{Hook, Router};
use crate::cases::{Count, Input, Outcome, lab};
use arrival::arrive;
pub(crate) use edit::edited;
pub(crate) use read::{Front, Read, read_ethernet, read_ip, read_version};
pub(crate) use table::Device;
use table::{Does, Tables};

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The kernel takes it.
    Kernel(PuntReason),
    /// Nobody does.
    Nobody(DropReason),
}

/// What must become of a packet that comes in at the lab's ingress.
pub(crate) fn expect(router: &Router, flags: u32, input: &Input, hook: Hook) -> Outcome {
    match journey(router, flags, input, hook) {
        Ok(outcome) => outcome,
        Err(Stop::Kernel(reason)) => Outcome::Punt(reason),
        Err(Stop::Nobody(reason)) => Outcome::Drop(reason),
    }
}

fn journey(router: &Router, flags: u32, input: &Input, hook: Hook) -> Result<Outcome, Stop> {
    let tables = Tables(router);
    let Some(arrival) = arrive(router, flags, input, hook)? else {
        return Ok(Outcome::NotOurs);
    };
    let ingress = Ingress {
        device: arrival.device,
        believes_only_behind: arrival.flags & Port::SOURCES_BEHIND != 0,
        is_outer_edge: arrival.flags & Port::EXTERNAL != 0,
    };
    let is_checked = ingress.believes_only_behind || ingress.is_outer_edge;
    let front = match flags & Port::LAYER3 == 0 {
        true => read_ethernet(&input.bytes, arrival.mac, arrival.is_vlan, is_checked)?,
        false => Front {
            length: 0,
            version: read_version(&input.bytes)?,
            priorities: 0,
        },
    };
    let (start, version) = (front.length, front.version);
    let read = read_ip(&input.bytes[start..], version)?;

    let stays = |address| registry::never_crosses(version, address);
    if stays(read.source) || stays(read.destination) {
        // Nobody's address as a source reaches this node at most, where sources are checked.
        let to = tables.longest_match(version, read.destination);
        let is_ours = to.is_some_and(|to| matches!(to.does, Does::IsThisNode));
        let passes = !is_checked || is_ours || stays(read.destination);
        return Err(
            match registry::is_nobodys(version, read.source) && !passes {
                true => Stop::Nobody(DropReason::SourceInvalid),
                false => Stop::Kernel(PuntReason::Scope),
            },
        );
    }
    believe_source(&read, &ingress, &tables)?;
    // The kernel forwards what has options or priority tags, so that comes after the source.
    if front.priorities > 0 {
        return Err(Stop::Kernel(PuntReason::Vlan));
    }
    if read.has_options {
        return Err(Stop::Kernel(match version {
            6 => PuntReason::HopByHop,
            _ => PuntReason::Ipv4Options,
        }));
    }
    let wire = Wire::of(&read, input, start)?;
    let Some(route) = tables.longest_match(version, read.destination) else {
        return Err(Stop::Kernel(PuntReason::NoRoute));
    };
    let egress = match route.does {
        Does::Forward(Some(device)) => device,
        Does::Forward(None) => return Err(Stop::Kernel(PuntReason::NoRoute)),
        Does::IsThisNode => return Err(Stop::Kernel(PuntReason::Local)),
        Does::IsOnLink(_) => return Err(Stop::Kernel(PuntReason::Connected)),
        Does::Discard => return Err(Stop::Nobody(DropReason::Blackhole)),
        Does::AskKernel => return Err(Stop::Kernel(PuntReason::Action)),
    };
    let is_one_to = |port| {
        let said = tables.listed(port, version, read.destination);
        said.unwrap_or_else(|| registry::is_martian(version, read.destination))
    };
    let asked_for = !route.is_default() && (route.of_object || route.of_operator);
    let comes_in = ingress.is_outer_edge && !asked_for && is_one_to(ingress.device);
    let goes_out =
        route.is_default() && tables.is_outer_edge(egress.ifindex) && is_one_to(egress.ifindex);
    if comes_in || goes_out {
        return Err(Stop::Nobody(DropReason::Martian));
    }

    // RFC 8200 section 3, RFC 1812 section 5.3.1: a packet whose hop limit would become zero is
    // not forwarded; the kernel answers.
    if read.hop_limit < 2 {
        return Err(Stop::Kernel(PuntReason::HopLimit));
    }
    // RFC 4861 section 8.2: the kernel may want to send a redirect.
    if egress.ifindex == ingress.device {
        return Err(Stop::Kernel(PuntReason::SamePort));
    }
    if wire.largest > u64::from(egress.mtu) {
        return Err(Stop::Kernel(PuntReason::TooBig));
    }
    leave(&read, &egress, hook, start, input, |bytes| {
        let from = tables.longest_match(version, read.source);
        let count = |counter| Count {
            counter,
            packets: wire.packets,
            bytes: wire.bytes,
        };
        Outcome::Forward {
            ifindex: Some(egress.ifindex),
            bytes,
            to: count(route.counter),
            from: from.and_then(|from| (from.counter != u32::MAX).then(|| count(from.counter))),
        }
    })
}

/// The port a packet came in through.
struct Ingress {
    device: u32,
    believes_only_behind: bool,
    is_outer_edge: bool,
}

/// RFC 2827 (BCP 38), and what `Port` promises of its flags.
fn believe_source(read: &Read, ingress: &Ingress, tables: &Tables) -> Result<(), Stop> {
    let is_martian = || {
        let said = tables.listed(ingress.device, read.version, read.source);
        said.unwrap_or_else(|| registry::is_martian(read.version, read.source))
    };
    let spoofed = Err(Stop::Nobody(DropReason::SourceInvalid));
    let Some(from) = tables.longest_match(read.version, read.source) else {
        // Nobody lives there.
        if ingress.believes_only_behind {
            return spoofed;
        }
        if ingress.is_outer_edge && is_martian() {
            return Err(Stop::Nobody(DropReason::Martian));
        }
        return Ok(());
    };
    let lives_on = match from.does {
        Does::Forward(device) | Does::IsOnLink(device) => device.map(|device| device.ifindex),
        _ => None,
    };
    let behind = lives_on == Some(ingress.device);
    if ingress.believes_only_behind && !behind {
        return spoofed;
    }
    if ingress.is_outer_edge {
        let of_ours = from.of_object && !from.is_default();
        let of_node = from.of_node && !lives_on.is_some_and(|device| tables.is_outer_edge(device));
        if !behind && (of_ours || of_node) {
            return spoofed;
        }
        let has_route_here = behind && !from.is_default();
        if !has_route_here && is_martian() {
            return Err(Stop::Nobody(DropReason::Martian));
        }
    } else if !ingress.believes_only_behind && matches!(from.does, Does::IsThisNode) {
        // Nobody else sends from an address of this node (`fib_validate_source`).
        return Err(Stop::Kernel(PuntReason::Scope));
    }
    Ok(())
}

/// What a packet is on the wire.
struct Wire {
    packets: u64,
    bytes: u64,
    largest: u64,
}

impl Wire {
    /// A socket buffer may stand for many packets: `segment_size` bytes of its data in each but the
    /// last, behind a copy of the headers.
    fn of(read: &Read, input: &Input, start: usize) -> Result<Self, Stop> {
        let whole = read.length as u64;
        if input.segment_size == 0 {
            return Ok(Self {
                packets: 1,
                bytes: whole,
                largest: whole,
            });
        }
        if input.bytes.len() - start != read.length {
            return Err(Stop::Kernel(PuntReason::Malformed));
        }
        let headers = (read.header + read.transport_header) as u64;
        let segment = u64::from(input.segment_size);
        let data = whole.saturating_sub(headers);
        let packets = match input.segments {
            0 => {
                let mut packets = 1;
                while packets * segment < data {
                    packets += 1;
                }
                packets
            }
            counted => u64::from(counted),
        };
        Ok(Self {
            packets,
            bytes: whole + (packets - 1) * headers,
            largest: whole.min(headers + segment),
        })
    }
}

/// Hands a packet over to a device that can take it.
fn leave(
    read: &Read,
    egress: &Device,
    hook: Hook,
    start: usize,
    input: &Input,
    forward: impl FnOnce(Vec<u8>) -> Outcome,
) -> Result<Outcome, Stop> {
    let no_way = Err(Stop::Kernel(PuntReason::EgressNotAPort));
    if hook == Hook::Xdp && egress.has_no_frames {
        return no_way;
    }
    if !egress.has_no_frames && egress.neighbour.is_none() {
        return Err(Stop::Kernel(PuntReason::Unresolved));
    }
    if hook == Hook::Xdp && !lab::TX.iter().any(|(port, _)| *port == egress.ifindex) {
        return no_way;
    }
    // What is left of a page in a test run.
    if hook == Hook::Xdp && input.bytes.len() > 3520 && !egress.takes_several_buffers {
        return no_way;
    }
    // The kernel tags what leaves through a VLAN sub-interface, and pads; nobody does so with what
    // XDP sends (IEEE 802.3).
    let egress = Device {
        vlan: egress.vlan.filter(|_| hook == Hook::Xdp),
        ..*egress
    };
    let grows = if egress.vlan.is_some() { 18 - start } else { 0 };
    let least = if hook == Hook::Xdp { 60 + grows } else { 0 };
    Ok(forward(edited(&input.bytes, start, read, &egress, least)))
}
