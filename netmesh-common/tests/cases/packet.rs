//! Packets from scratch, and what a router must have made of them, computed the slow way.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Input;
use super::lab::{INGRESS_MAC, TAGGED, macs};

/// `NUL`-filled payload behind UDP.
pub(crate) const UDP: u8 = 17;
/// TCP.
pub(crate) const TCP: u8 = 6;

/// An IPv6 packet of UDP's protocol number with `payload` bytes.
pub(crate) fn v6(source: &str, destination: &str, hop_limit: u8, payload: usize) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().unwrap();
    let destination: Ipv6Addr = destination.parse().unwrap();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload as u16).to_be_bytes());
    packet.extend([UDP, hop_limit]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend((0..payload).map(|n| n as u8));
    packet
}

/// An IPv4 packet of UDP's protocol number with `payload` bytes.
pub(crate) fn v4(source: &str, destination: &str, ttl: u8, payload: usize) -> Vec<u8> {
    let source: Ipv4Addr = source.parse().unwrap();
    let destination: Ipv4Addr = destination.parse().unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload as u16).to_be_bytes());
    packet.extend([0x12, 0x34, 0, 0, ttl, UDP, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    checksum(&mut packet);
    packet.extend((0..payload).map(|n| n as u8));
    packet
}

/// With a byte changed.
pub(crate) fn with(mut packet: Vec<u8>, offset: usize, byte: u8) -> Vec<u8> {
    packet[offset] = byte;
    packet
}

/// With a byte of the IPv4 header changed and the checksum made right again.
pub(crate) fn with4(packet: Vec<u8>, offset: usize, byte: u8) -> Vec<u8> {
    let mut packet = with(packet, offset, byte);
    checksum(&mut packet);
    packet
}

/// Behind an Ethernet header to the ingress port.
pub(crate) fn ethernet(packet: Vec<u8>) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
    frame(INGRESS_MAC, ethertype, packet)
}

/// Behind any Ethernet header.
pub(crate) fn frame(destination: [u8; 6], ethertype: u16, packet: Vec<u8>) -> Vec<u8> {
    let mut frame = destination.to_vec();
    frame.extend([2, 0, 0, 0, 0xcc, 1]);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

/// Behind an Ethernet header with a tag, to the VLAN sub-interface of the ingress.
pub(crate) fn tagged(control: u16, packet: Vec<u8>) -> Vec<u8> {
    let mut frame = ethernet(packet);
    frame[..6].copy_from_slice(&macs(TAGGED).1);
    frame.splice(12..12, tag(control));
    frame
}

/// An 802.1Q tag as it stands in a frame.
pub(crate) fn tag(control: u16) -> [u8; 4] {
    let [c0, c1] = control.to_be_bytes();
    [0x81, 0, c0, c1]
}

/// The IP packet in a frame, behind its tag if it has one.
pub(crate) fn inside(frame: &[u8]) -> &[u8] {
    let tagged = frame.get(12..14) == Some(&[0x81, 0]);
    frame
        .get(if tagged { 18 } else { 14 }..)
        .unwrap_or_default()
}

/// As one packet on the wire.
pub(crate) fn plain(bytes: Vec<u8>) -> Input {
    Input {
        bytes,
        ..Input::default()
    }
}

/// One hop further: hop limit or TTL down, IPv4 checksum summed afresh.
pub(crate) fn routed(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
    } else {
        packet[8] -= 1;
        checksum(&mut packet);
    }
    packet
}

fn checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let mut sum: u32 = packet[..20]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
