//! Frames as they are on the wire: made by hand, sent from an interface, taken off an interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use netmesh::kernel::netns;
use netmesh::plan::state::Namespace;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, bind, recv, send,
    setsockopt, socket, sockopt,
};

use crate::slowness;

/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// One interface of a namespace, every frame in and out of it.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Begins to listen; frames from now on are kept until they are asked for.
    ///
    /// # Panics
    /// When there is no such interface.
    #[must_use]
    pub fn open(namespace: &Namespace, interface: &str) -> Self {
        let socket = netns::run_in(namespace, || {
            // No protocol yet: nothing is taken before the socket is bound to its interface.
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
                None,
            )
            .expect("a packet socket");
            setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20)).expect("a large buffer");
            let index = nix::net::if_::if_nametoindex(interface).expect("an interface");
            bind(socket.as_raw_fd(), &every_frame_of(index)).expect("bound");
            socket
        });
        Self {
            socket: socket.expect("a namespace"),
        }
    }

    /// Sends a frame as it is.
    ///
    /// # Panics
    /// When the interface does not take it.
    pub fn send(&self, frame: &[u8]) {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).expect("sent");
        assert_eq!(sent, frame.len());
    }

    /// The next frame that is here already.
    #[must_use]
    pub fn next(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 256 << 10];
        let length = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()).ok()?;
        frame.truncate(length);
        Some(frame)
    }

    /// Waits for a frame.
    #[must_use]
    pub fn wait(&self, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + patience * slowness();
        loop {
            match self.next() {
                Some(frame) if wanted(&frame) => return Some(frame),
                Some(_) => {}
                None if Instant::now() > deadline => return None,
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

/// `packet(7)`: all protocols of one interface.
fn every_frame_of(index: u32) -> LinkAddr {
    // SAFETY: an all-zero sockaddr_ll is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer is to a live sockaddr_ll of this length.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }.expect("a link")
}

/// The link-layer address of an interface.
///
/// # Panics
/// When there is no such interface.
#[must_use]
pub fn mac(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let text = netns::run_in(namespace, || {
        std::process::Command::new("ip")
            .args(["-j", "link", "show", interface])
            .output()
            .expect("ip starts")
    })
    .expect("a namespace");
    let link: serde_json::Value = serde_json::from_slice(&text.stdout).expect("JSON");
    let text = link[0]["address"].as_str().expect("an Ethernet device");
    let mut bytes = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"));
    std::array::from_fn(|_| bytes.next().expect("six bytes"))
}

/// A frame around a packet.
#[must_use]
pub fn frame(destination: [u8; 6], source: [u8; 6], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = destination.to_vec();
    frame.extend(source);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

/// An IPv6 packet.
#[must_use]
pub fn ipv6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    next_header: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, hop_limit]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// An IPv4 packet; `flags` are the two bytes of flags and fragment offset.
#[must_use]
pub fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    protocol: u8,
    flags: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(flags.to_be_bytes());
    packet.extend([ttl, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = !fold(sum(&packet));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IP packet of either family with a UDP datagram in it, checksum and all.
///
/// # Panics
/// When the addresses are of two families.
#[must_use]
pub fn datagram(
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    port: u16,
    size: usize,
) -> Vec<u8> {
    let header = if source.is_ipv6() { 40 } else { 20 };
    let length = size - header;
    assert!(length >= 8, "a datagram has a header");
    let mut udp = Vec::with_capacity(length);
    udp.extend(port.to_be_bytes());
    udp.extend(port.to_be_bytes());
    udp.extend((length as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend((8..length).map(|i| i as u8));
    let sum = transport_sum(source, destination, UDP, &udp);
    udp[6..8].copy_from_slice(&(!sum).to_be_bytes());
    match (source, destination) {
        (IpAddr::V6(s), IpAddr::V6(d)) => ipv6(s, d, hop_limit, UDP, &udp),
        // Do not fragment, as the kernel's own sockets say.
        (IpAddr::V4(s), IpAddr::V4(d)) => ipv4(s, d, hop_limit, UDP, 0x4000, &udp),
        _ => panic!("{source} and {destination}"),
    }
}

/// RFC 1071 over pseudo header (RFC 8200 section 8.1, RFC 768) and message: 0xffff for a message
/// that carries the right checksum.
#[must_use]
pub fn transport_sum(source: IpAddr, destination: IpAddr, protocol: u8, message: &[u8]) -> u16 {
    let addresses = |address: IpAddr| match address {
        IpAddr::V6(a) => sum(&a.octets()),
        IpAddr::V4(a) => sum(&a.octets()),
    };
    let length = message.len() as u32;
    fold(
        addresses(source)
            + addresses(destination)
            + u64::from(protocol)
            + u64::from(length)
            + sum(message),
    )
}

/// The sum of a packet's transport message, whose checksum is right when it is 0xffff; `None`
/// for fragments and what is no TCP, UDP or ICMPv6 in its first header.
#[must_use]
pub fn checked(packet: &[u8]) -> Option<u16> {
    match packet.first()? >> 4 {
        6 => {
            let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let destination: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            let message = packet.get(40..40 + length)?;
            [6, UDP, ICMPV6]
                .contains(&packet[6])
                .then(|| transport_sum(source.into(), destination.into(), packet[6], message))
        }
        4 => {
            let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let destination: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            let fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
            let message = packet.get(20..length)?;
            ([6, UDP].contains(&packet[9]) && packet[0] == 0x45 && !fragment)
                .then(|| transport_sum(source.into(), destination.into(), packet[9], message))
        }
        _ => None,
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low)))
        .sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A packet whose IP header says that it is this one.
#[must_use]
pub fn is_from(frame: &[u8], source: IpAddr) -> bool {
    let packet = frame.get(ETHERNET..).unwrap_or_default();
    match source {
        IpAddr::V6(a) => {
            frame.get(12..14) == Some(&IPV6.to_be_bytes()) && packet.get(8..24) == Some(&a.octets())
        }
        IpAddr::V4(a) => {
            frame.get(12..14) == Some(&IPV4.to_be_bytes())
                && packet.get(12..16) == Some(&a.octets())
        }
    }
}
