//! Frames as they are on the wire, tags included, in and out of an interface.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use netmesh::kernel::netns;
use netmesh::plan::state::Namespace;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _,
    bind, recvmsg, send, socket,
};

/// `SOL_PACKET`, `PACKET_AUXDATA` and `TP_STATUS_VLAN_VALID` of linux/if_packet.h.
const SOL_PACKET: libc::c_int = 263;
const PACKET_AUXDATA: libc::c_int = 8;
const VLAN_VALID: u32 = 1 << 4;

/// One end of a wire.
pub(crate) struct Wire(OwnedFd);

impl Wire {
    /// Listens from now on; what it sends itself it does not hear.
    pub(crate) fn open(namespace: &Namespace, interface: &str) -> Self {
        let socket = netns::run_in(namespace, || {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            // No protocol: nothing is taken before the socket is bound to its interface.
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, flags, None).expect("a packet socket");
            let on: libc::c_int = 1;
            // SAFETY: the option takes an int, which lives as long as the call.
            let set = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    SOL_PACKET,
                    PACKET_AUXDATA,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
            assert_eq!(set, 0, "tags are told");
            let index = nix::net::if_::if_nametoindex(interface).expect("an interface");
            bind(socket.as_raw_fd(), &every_frame_of(index)).expect("bound");
            socket
        });
        Self(socket.expect("a namespace"))
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty()).expect("sent");
        assert_eq!(sent, frame.len());
    }

    /// The next frame that is here already, its tag where it was on the wire.
    pub(crate) fn next(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 4096];
        let mut control = vec![0; 256];
        let mut tag = None;
        let length = {
            let mut parts = [IoSliceMut::new(&mut frame)];
            let message = recvmsg::<LinkAddr>(
                self.0.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::MSG_DONTWAIT,
            )
            .ok()?;
            for control in message.cmsgs().expect("whole notes") {
                if let ControlMessageOwned::Unknown(note) = control
                    && note.cmsg_header.cmsg_level == SOL_PACKET
                    && note.cmsg_header.cmsg_type == PACKET_AUXDATA
                {
                    tag = tag_of(&note.data_bytes);
                }
            }
            message.bytes
        };
        frame.truncate(length);
        if let Some(tag) = tag {
            frame.splice(12..12, tag);
        }
        Some(frame)
    }
}

/// `struct tpacket_auxdata`: status, length, captured, then mac, net, control information and
/// protocol of the tag.
fn tag_of(note: &[u8]) -> Option<[u8; 4]> {
    let status = u32::from_ne_bytes(note.get(..4)?.try_into().ok()?);
    let half = |at: usize| Some(u16::from_ne_bytes(note.get(at..at + 2)?.try_into().ok()?));
    if status & VLAN_VALID == 0 {
        return None;
    }
    let [c0, c1] = half(16)?.to_be_bytes();
    let [p0, p1] = half(18)?.to_be_bytes();
    Some([p0, p1, c0, c1])
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

/// A frame with these tags, outermost first: EtherType, control information.
pub(crate) fn frame(to: [u8; 6], from: [u8; 6], tags: &[(u16, u16)], packet: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(from);
    for (protocol, control) in tags {
        frame.extend(protocol.to_be_bytes());
        frame.extend(control.to_be_bytes());
    }
    let v6 = packet[0] >> 4 == 6;
    frame.extend(if v6 { 0x86dd_u16 } else { 0x0800 }.to_be_bytes());
    frame.extend(packet);
    frame
}

/// An IPv6 packet of UDP's number that holds the payload alone.
pub(crate) fn v6(from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([17, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// The same of IPv4.
pub(crate) fn v4(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0x12, 0x34, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let mut sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet.extend(payload);
    packet
}
