//! New programs before they meet a packet: each is run on frames made for every port it would sit
//! on (`BPF_PROG_TEST_RUN`), and must do with each what the library does upon the same tables.
//!
//! The frames are not IP, for another station, or from and to addresses of the instance's own
//! routes, with hop limits that do and do not allow another hop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::programs::ProgramInfo;
use etherparse::PacketBuilder;
use netmesh_common::class::Address;
use netmesh_common::lines::key_of;
use netmesh_common::table::Port as PortEntry;
use netmesh_common::verdict::Outcome;

use super::attach::Kind;
use super::explain::SENDER;
use super::instance::View;
use super::object::Object;
use super::reference::Tables;
use super::route::decode_prefix;
use super::trial::{STAND_IN, Stand, TC, XDP, failed};
use super::{Error, group};
use crate::plan::state::Hook;

/// Most addresses of each family that frames are sent to.
const DESTINATIONS: usize = 24;

/// Most addresses of each family that they come from.
const SOURCES: usize = 4;

/// Tables change beside us: a neighbour goes, a device. So often a frame is tried again.
const ATTEMPTS: usize = 8;

/// What XDP and TC programs return: left to the kernel, dropped, sent on.
const XDP_CODES: [u32; 3] = [2, 1, 4];
const TC_CODES: [u32; 3] = [u32::MAX, 2, 7];

/// A program that does not do with a frame what it must.
#[derive(Debug, thiserror::Error)]
#[error("{name} fails its self-test on {port}: {found}, not {expected}{bytes} (frame {frame})")]
pub struct Wrong {
    name: &'static str,
    port: String,
    found: String,
    expected: String,
    bytes: &'static str,
    frame: String,
}

/// An address of the routes, and the next hop of that route.
type Known = (IpAddr, u32);

/// Tries the programs of an object for every port, and sees that they are those that will be
/// attached: `pinned` tells where these are.
pub(super) fn run(
    view: &View,
    object: &Object,
    pinned: impl Fn(&str) -> std::path::PathBuf,
) -> Result<(), Error> {
    let known = known(view)?;
    let addresses = known.iter().flatten().map(|(address, _)| *address);
    let keys: Vec<u64> = addresses.chain(STRANGERS).filter_map(key).collect();
    let ports = ports(view)?;
    for name in [XDP, TC] {
        let mut stand = Stand::new(view, object, name, &keys)?;
        let aside = ProgramInfo::from_pin(pinned(name)).map_err(failed)?;
        if aside.tag() != stand.tag {
            return Err(Error::OtherProgram {
                name,
                pinned: aside.tag(),
                own: stand.tag,
            });
        }
        for (kind, ifindex) in &ports {
            let serves = (kind.hook() == Hook::Tc) == (name == TC);
            if serves {
                port(view, &mut stand, name, *ifindex, &known)?;
            }
        }
    }
    Ok(())
}

/// The ports that live.
fn ports(view: &View) -> Result<Vec<(Kind, u32)>, Error> {
    let mut ports = Vec::new();
    for (kind, ifindex) in view.links()? {
        let here = nix::net::if_::if_indextoname(ifindex).is_ok();
        if here && view.is_attached(kind, ifindex)? {
            ports.push((kind, ifindex));
        }
    }
    Ok(ports)
}

/// Tries one port.
fn port(
    view: &View,
    stand: &mut Stand,
    name: &'static str,
    ifindex: u32,
    known: &[Vec<Known>; 2],
) -> Result<(), Error> {
    let Some(before) = stand.plain(ifindex)? else {
        return Ok(());
    };
    let entry = stand.ports.get(&ifindex).copied().unwrap_or_default();
    for frame in frames(view, ifindex, &entry, known) {
        try_frame(view, stand, name, ifindex, &frame)?;
    }
    stand.put(ifindex, before)
}

fn try_frame(
    view: &View,
    stand: &Stand,
    name: &'static str,
    ifindex: u32,
    frame: &[u8],
) -> Result<(), Error> {
    let (is_tc, codes) = (name == TC, if name == TC { TC_CODES } else { XDP_CODES });
    let ports = &stand.ports;
    let tables = Tables { view, ports };
    let mut wrong = None;
    for _ in 0..ATTEMPTS {
        let expected = tables.expect(ifindex, frame, is_tc);
        let tried = match stand.run(ifindex, frame) {
            // The device went meanwhile: there is nothing to be judged any more.
            Err(_) if nix::net::if_::if_indextoname(ifindex).is_err() => return Ok(()),
            tried => tried?,
        };
        if tables.expect(ifindex, frame, is_tc) != expected {
            continue; // The tables are others than when it ran.
        }
        let outcome = expected.as_ref().map(|expected| expected.outcome);
        let code = match outcome {
            Some(Outcome::Forward) => codes[2],
            Some(Outcome::Drop(_)) => codes[1],
            Some(Outcome::Punt(_)) | None => codes[0],
        };
        let left = expected.map_or_else(|| frame.to_vec(), |expected| expected.frame);
        if tried.outcome == outcome && tried.code == code && tried.frame == left {
            return Ok(());
        }
        let same = tried.outcome == outcome && tried.code == code;
        let port = nix::net::if_::if_indextoname(ifindex);
        wrong = Some(Wrong {
            name,
            port: port.map_or_else(
                |_| ifindex.to_string(),
                |name| name.to_string_lossy().into_owned(),
            ),
            found: describe(tried.outcome, tried.code),
            expected: describe(outcome, code),
            bytes: if same {
                "; it leaves with other bytes"
            } else {
                ""
            },
            frame: hexadecimal(frame),
        });
    }
    // Tables that never stand still tell nothing against the program.
    match wrong {
        Some(wrong) => Err(Error::SelfTest(Box::new(wrong))),
        None => Ok(()),
    }
}

fn describe(outcome: Option<Outcome>, code: u32) -> String {
    let what = match outcome {
        Some(Outcome::Forward) => "forward".to_owned(),
        Some(Outcome::Punt(reason)) => format!("punt {}", reason.name()),
        Some(Outcome::Drop(reason)) => format!("drop {}", reason.name()),
        None => "nothing counted".to_owned(),
    };
    format!("{what}, returns {}", code.cast_signed())
}

fn hexadecimal(frame: &[u8]) -> String {
    frame
        .iter()
        .take(64)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Addresses that no route of the instance need know: documentation (RFC 3849, RFC 5737), and
/// some that never cross a router.
const STRANGERS: [IpAddr; 6] = [
    IpAddr::V6(std::net::Ipv6Addr::new(
        0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7,
    )),
    IpAddr::V6(std::net::Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7)),
    IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7)),
    IpAddr::V4(std::net::Ipv4Addr::new(224, 0, 0, 1)),
    IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1)),
];

/// Addresses of the instance's routes, IPv6 and IPv4: of every action, origin and next hop as far
/// as there is room.
fn known(view: &View) -> Result<[Vec<Known>; 2], Error> {
    let mut kinds = BTreeMap::new();
    let mut first = BTreeMap::new();
    view.maps.each_rib(|key, entry| {
        let family = key.prefix.family;
        // One for each next hop is more than enough to choose from: there are thousands at most.
        kinds
            .entry((family, entry.action, key.origin, entry.next_hop))
            .or_insert(key.prefix);
        first
            .entry((family, key.prefix.length))
            .or_insert((key.prefix, entry.next_hop));
    })?;
    let mut known = [Vec::new(), Vec::new()];
    let by_kind = kinds
        .iter()
        .map(|((.., next_hop), prefix)| (prefix, next_hop));
    let by_length = first.values().map(|(prefix, next_hop)| (prefix, next_hop));
    // Turn by turn, so that neither is left out.
    let mut turns: Vec<_> = by_kind.enumerate().chain(by_length.enumerate()).collect();
    turns.sort_by_key(|(turn, _)| *turn);
    for (_, (prefix, next_hop)) in turns {
        let Some(prefix) = decode_prefix(prefix) else {
            continue;
        };
        let address = prefix.hosts().next().unwrap_or_else(|| prefix.addr());
        let family = &mut known[usize::from(address.is_ipv4())];
        if family.len() < DESTINATIONS {
            family.push((address, *next_hop));
        }
    }
    Ok(known)
}

/// The frames that a port is tried with.
fn frames(view: &View, ifindex: u32, entry: &PortEntry, known: &[Vec<Known>; 2]) -> Vec<Vec<u8>> {
    let to = if entry.mac == [0; 6] {
        STAND_IN
    } else {
        entry.mac
    };
    let mut frames = vec![other_protocol(to)];
    for (known, strangers) in known.iter().zip([&STRANGERS[..3], &STRANGERS[3..]]) {
        let mut sources = BTreeSet::new();
        // Such as the port may believe.
        let behind = known
            .iter()
            .filter(|(_, index)| leads_to(view, *index, ifindex));
        sources.extend(behind.map(|(address, _)| *address).take(SOURCES / 2));
        let rest = strangers.iter().copied();
        let others = rest.chain(known.iter().map(|(address, _)| *address));
        for other in others {
            if sources.len() < SOURCES {
                sources.insert(other);
            }
        }
        let destinations: Vec<IpAddr> = known
            .iter()
            .map(|(address, _)| *address)
            .chain(strangers.iter().copied())
            .collect();
        for source in &sources {
            for destination in &destinations {
                for hop_limit in [64, 1] {
                    frames.extend(udp(to, *source, *destination, hop_limit));
                }
            }
        }
        let pair = sources.first().zip(destinations.first());
        frames.extend(pair.and_then(|(source, destination)| {
            let other = [0x02, 0, 0, 0, 0xff, 0xfe];
            udp(other, *source, *destination, 64)
        }));
    }
    frames
}

fn leads_to(view: &View, index: u32, ifindex: u32) -> bool {
    let way = view.way(index);
    way.is_ok_and(|way| match way {
        group::Way::One(hop) => hop.ifindex == ifindex,
        group::Way::Several(hops) => hops.iter().any(|(hop, _)| hop.ifindex == ifindex),
    })
}

/// A frame of a protocol for local experiments (IEEE 802).
fn other_protocol(to: [u8; 6]) -> Vec<u8> {
    let mut frame = [&to[..], &SENDER, &[0x88, 0xb5]].concat();
    frame.resize(64, 0);
    frame
}

fn udp(to: [u8; 6], source: IpAddr, destination: IpAddr, hop_limit: u8) -> Option<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(SENDER, to);
    let builder = match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), hop_limit)
        }
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), hop_limit)
        }
        _ => return None,
    };
    let mut frame = Vec::new();
    let payload = [0x5a; 32];
    builder.udp(49_152, 9).write(&mut frame, &payload).ok()?;
    Some(frame)
}

fn key(address: IpAddr) -> Option<u64> {
    key_of(&Address::from(address))
}
