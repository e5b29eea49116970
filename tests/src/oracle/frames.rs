//! Packets put together by hand, right in every field unless told otherwise.

use std::net::{IpAddr, Ipv4Addr};

/// RFC 1071 over any bytes.
pub(super) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Writes the checksum of a transport header whose checksum lies at `at`.
pub(super) fn seal(source: IpAddr, destination: IpAddr, protocol: u8, at: usize, data: &mut [u8]) {
    let Some(field) = data.get_mut(at..at + 2) else {
        return;
    };
    field.fill(0);
    let length = (data.len() as u32).to_be_bytes();
    let sum = match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => checksum(&[
            &source.octets(),
            &destination.octets(),
            &length,
            &[0, 0, 0, protocol],
            data,
        ]),
        // ICMP has no pseudo-header.
        (IpAddr::V4(_), IpAddr::V4(_)) if protocol == 1 => checksum(&[data]),
        (IpAddr::V4(source), IpAddr::V4(destination)) => checksum(&[
            &source.octets(),
            &destination.octets(),
            &[0, protocol],
            &length[2..],
            data,
        ]),
        _ => 0,
    };
    data[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// An IPv4 header, with options of a multiple of four bytes, in front of a payload.
pub(super) fn v4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    ttl: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0x40 | (header / 4) as u8, 0];
    packet.extend(((header + payload.len()) as u16).to_be_bytes());
    packet.extend([0x12, 0x34, 0, 0, ttl, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(options);
    seal_v4(&mut packet);
    packet.extend(payload);
    packet
}

/// Makes the checksum of an IPv4 header right.
pub(super) fn seal_v4(packet: &mut [u8]) {
    let Some(first) = packet.first() else { return };
    let length = usize::from(first & 0xf) * 4;
    if length < 20 || packet.len() < length {
        return;
    }
    packet[10..12].fill(0);
    let sum = checksum(&[&packet[..length]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}
