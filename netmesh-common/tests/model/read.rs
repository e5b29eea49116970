//! Headers, read the long way.

use netmesh_common::verdict::{DropReason, PuntReason};

use super::Stop;

/// What an IP packet says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    /// 4 or 6.
    pub(crate) version: u8,
    /// As a number.
    pub(crate) source: u128,
    /// As a number.
    pub(crate) destination: u128,
    /// Hop limit or TTL.
    pub(crate) hop_limit: u8,
    /// Bytes of the packet, its header included.
    pub(crate) length: usize,
    /// Bytes of the fixed header.
    pub(crate) header: usize,
    /// Bytes of the TCP or UDP header; 0 where another one follows, or none is there.
    pub(crate) transport_header: usize,
    /// Routers on the way have to look at more than the fixed header; then only its addresses are
    /// sure.
    pub(crate) has_options: bool,
}

const fn kernel(reason: PuntReason) -> Stop {
    Stop::Kernel(reason)
}

fn number(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .fold(0, |number, byte| number * 256 + u128::from(*byte))
}

/// What stands in front of an IP packet in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    /// Bytes of it.
    pub(crate) length: usize,
    /// What its last type field says.
    pub(crate) version: u8,
    /// Priority tags, which the kernel would take off.
    pub(crate) priorities: usize,
}

/// The Ethernet header of a frame for a station of this address. `is_vlan`: the first tag that
/// names a VLAN (IEEE 802.1Q section 9.6) has led to the station.
pub(crate) fn read_ethernet(
    frame: &[u8],
    own: [u8; 6],
    is_vlan: bool,
    is_checked: bool,
) -> Result<Front, Stop> {
    if frame.len() < 14 {
        return Err(kernel(PuntReason::Malformed));
    }
    if frame[0..6] != own {
        return Err(kernel(PuntReason::NotForUs));
    }
    let mut vids: Vec<u128> = Vec::new();
    loop {
        let length = 14 + 4 * vids.len();
        let named = vids.iter().filter(|vid| **vid != 0).count();
        if named > usize::from(is_vlan) {
            return Err(kernel(PuntReason::Vlan));
        }
        // More than anybody means.
        if vids.len() == 5 {
            return Err(Stop::Nobody(DropReason::SourceInvalid));
        }
        let Some(kind) = frame.get(length - 2..length) else {
            return Err(kernel(PuntReason::Malformed));
        };
        let version = match number(kind) {
            0x0800 => 4,
            0x86dd => 6,
            // 802.1Q and 802.1ad
            0x8100 | 0x88a8 if !is_checked && vids.len() == usize::from(is_vlan) => {
                return Err(kernel(PuntReason::Vlan));
            }
            0x8100 | 0x88a8 if frame.len() < length + 2 => {
                return Err(kernel(PuntReason::Malformed));
            }
            0x8100 | 0x88a8 => {
                vids.push(number(&frame[length..length + 2]) % 4096);
                continue;
            }
            _ => return Err(kernel(PuntReason::NotIp)),
        };
        return Ok(Front {
            length,
            version,
            priorities: vids.len() - named,
        });
    }
}

/// The version of a packet without any other header in front.
pub(crate) fn read_version(packet: &[u8]) -> Result<u8, Stop> {
    if packet.len() < 20 {
        return Err(kernel(PuntReason::Malformed));
    }
    match packet[0] / 16 {
        version @ (4 | 6) => Ok(version),
        _ => Err(kernel(PuntReason::NotIp)),
    }
}

/// The IP header at the start of `packet`, which may have padding behind it.
pub(crate) fn read_ip(packet: &[u8], version: u8) -> Result<Read, Stop> {
    match version {
        6 => read_ipv6(packet),
        _ => read_ipv4(packet),
    }
}

/// RFC 8200 section 3.
fn read_ipv6(packet: &[u8]) -> Result<Read, Stop> {
    let malformed = Err(kernel(PuntReason::Malformed));
    if packet.len() < 40 || packet[0] / 16 != 6 {
        return malformed;
    }
    let payload = number(&packet[4..6]) as usize;
    let next_header = packet[6];
    // Section 4.3: the one header that every router on the way may have to look at. It may hold
    // another length, that of a jumbogram (RFC 2675).
    let has_options = next_header == 0;
    if !has_options && packet.len() < 40 + payload {
        return malformed;
    }
    Ok(Read {
        version: 6,
        source: number(&packet[8..24]),
        destination: number(&packet[24..40]),
        hop_limit: packet[7],
        length: 40 + payload,
        header: 40,
        transport_header: transport_header(&packet[40..], next_header),
        has_options,
    })
}

/// RFC 791 section 3.1, RFC 1812 section 5.2.2. Of a packet with options the kernel sees to the
/// checksum.
fn read_ipv4(packet: &[u8]) -> Result<Read, Stop> {
    let malformed = Err(kernel(PuntReason::Malformed));
    if packet.len() < 20 || packet[0] / 16 != 4 || packet[0] % 16 < 5 {
        return malformed;
    }
    let has_options = packet[0] % 16 > 5;
    let length = number(&packet[2..4]) as usize;
    if length < 20 || length > packet.len() {
        return malformed;
    }
    if !has_options && checksum(&packet[..20]) != 0 {
        return malformed;
    }
    Ok(Read {
        version: 4,
        source: number(&packet[12..16]),
        destination: number(&packet[16..20]),
        hop_limit: packet[8],
        length,
        header: 20,
        transport_header: transport_header(&packet[20..], packet[9]),
        has_options,
    })
}

/// RFC 9293 section 3.1 (the data offset counts words), RFC 768.
fn transport_header(data: &[u8], protocol: u8) -> usize {
    match protocol {
        6 => data.get(12).map_or(0, |byte| usize::from(byte / 16) * 4),
        17 => 8,
        _ => 0,
    }
}

/// RFC 1071: the complement of the one's complement sum; 0 over a header that holds the right one.
pub(super) fn checksum(header: &[u8]) -> u16 {
    let mut sum = 0_u16;
    for word in header.chunks(2) {
        let word = number(word) as u16;
        let (total, carry) = sum.overflowing_add(word);
        sum = total + u16::from(carry);
    }
    !sum
}
