//! What may differ between the two routers, and why. Everything else is a fault.
//!
//! | what | why |
//! |---|---|
//! | the identification of IPv4 packets, and of fragments of IPv6 packets, that the router itself makes | a secret of each namespace, or chance (`ip_select_ident`, `ipv6_select_ident`) |
//! | bytes behind the IP packet in frames of up to 60 bytes | link-layer padding: XDP may not send less than Ethernet's least, the kernel leaves padding to the device |
//! | group membership reports | sent when the kernel likes, not because of a packet |
//! | which member of a route with several next hops | a flow's hash is each router's own; that it is a member, and all else, is compared |
//! | ICMPv6 redirects | limited to one a second and destination, by a clock; the packets that cause them are compared |

use std::net::{Ipv4Addr, Ipv6Addr};

use super::frames::seal_v4;
use super::twins::{MEMBERS, NEIGHBOURS, Out, PORTS, neighbour, own};

/// The shortest Ethernet frame, without its check sequence.
const SHORTEST: usize = 60;

/// What is left of what came out, in an order of its own.
#[must_use]
pub fn normal(out: &Out) -> Out {
    let mut all: Out = out
        .iter()
        .filter_map(|(port, frame)| {
            let offset = if *port == PORTS { 0 } else { 14 };
            let mut frame = frame.clone();
            let ip = frame.get(offset..)?;
            if is_report(ip) || is_redirect(ip) {
                return None;
            }
            if let Some(length) = length(&frame, offset)
                && frame.len() <= SHORTEST
            {
                frame.truncate(offset + length);
            }
            if *port < PORTS {
                forget_member(*port, &mut frame);
            }
            if is_own_v4(&frame[offset..]) {
                frame[offset + 4..offset + 6].fill(0);
                seal_v4(&mut frame[offset..]);
            }
            if is_own_fragment(&frame[offset..]) {
                frame[offset + 44..offset + 48].fill(0);
            }
            Some((*port, frame))
        })
        .collect();
    all.sort();
    all
}

/// Every member of a port becomes its first one.
fn forget_member(port: usize, frame: &mut [u8]) {
    let is_member = |mac: &[u8]| {
        (NEIGHBOURS..NEIGHBOURS + MEMBERS).any(|number| neighbour(port, number).2 == *mac)
    };
    if let Some(mac) = frame.get_mut(..6)
        && is_member(mac)
    {
        mac.copy_from_slice(&neighbour(port, NEIGHBOURS).2);
    }
}

/// The length of the IP packet in a frame.
fn length(frame: &[u8], offset: usize) -> Option<usize> {
    let ip = frame.get(offset..)?;
    let length = match ip.first()? >> 4 {
        6 => usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?])) + 40,
        4 => usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?])),
        _ => return None,
    };
    (length <= ip.len()).then_some(length)
}

fn is_own_v4(ip: &[u8]) -> bool {
    let Some([a, b, c, d]) = ip.get(12..16) else {
        return false;
    };
    ip[0] >> 4 == 4 && ip.len() >= 20 && {
        let source = Ipv4Addr::new(*a, *b, *c, *d);
        (0..=PORTS).any(|port| own(port).1 == source)
    }
}

fn is_own_fragment(ip: &[u8]) -> bool {
    let source = ip
        .get(8..24)
        .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    let is_own = |source| (0..=PORTS).any(|port| own(port).0 == source);
    ip.len() >= 48
        && ip[0] >> 4 == 6
        && ip[6] == 44
        && source.map(Ipv6Addr::from).is_some_and(is_own)
}

/// MLD behind a hop-by-hop header, or IGMP.
fn is_report(ip: &[u8]) -> bool {
    match ip.first().map(|first| first >> 4) {
        Some(6) => ip.get(6) == Some(&0) && matches!(ip.get(48), Some(131 | 132 | 143)),
        Some(4) => ip.get(9) == Some(&2),
        _ => false,
    }
}

/// A redirect that a router itself has sent.
fn is_redirect(ip: &[u8]) -> bool {
    let source = ip
        .get(8..24)
        .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    source.is_some_and(|source| Ipv6Addr::from(source).is_unicast_link_local())
        && ip[0] >> 4 == 6
        && ip.get(6) == Some(&58)
        && ip.get(40) == Some(&137)
}
