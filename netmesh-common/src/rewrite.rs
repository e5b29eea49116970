//! What forwarding changes in a packet: hop limit or TTL, IPv4 checksum, link-layer header.

use crate::header::{ETHERNET, ETHERTYPE_VLAN, Family, SHORTEST_FRAME};
use crate::verdict::{Forward, Stations};
use crate::vlan::TAG;

/// A packet as its host changes it. `None` means that the change was not possible; but for
/// [`PacketEdit::trim`] the packet is then worth nothing any more.
pub trait PacketEdit {
    /// Every packet leaves with a link-layer header (XDP).
    const FRAMES_ONLY: bool;

    /// Cuts off what follows the packet: `length` is what is left of the frame; `least` of it where
    /// nobody pads it again. `None` leaves the packet as it was.
    fn trim(&mut self, length: usize, least: usize) -> Option<()>;

    /// Makes the link-layer header `to` bytes long instead of `from`; what is in it then is
    /// written afterwards.
    fn resize_header(&mut self, from: usize, to: usize) -> Option<()>;

    /// Writes the Ethernet header at offset 0.
    fn store_ethernet(&mut self, stations: Stations, ethertype: u16) -> Option<()>;

    /// Writes behind the Ethernet header; `offset` counts from the start of the packet.
    fn store_ip<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;
}

/// The first step of carrying a decision out. `None`: the packet is as it came, and the kernel's.
#[inline(always)]
#[must_use]
pub fn prepare<E: PacketEdit>(packet: &mut E, forward: &Forward) -> Option<()> {
    let offset = forward.offset as usize;
    // Without its tag it must still be a frame.
    let shrinks = offset.saturating_sub(egress_header(forward));
    let length = offset.wrapping_add(forward.length as usize);
    packet.trim(length, SHORTEST_FRAME.wrapping_add(shrinks))
}

/// Carries a decision out after [`prepare`], up to handing the packet over.
///
/// What can fail for want of memory comes first. Towards a device without a link-layer header the
/// Ethernet header stays as it came: the kernel takes it off (`__bpf_redirect_no_mac`).
#[inline(always)]
#[must_use]
pub fn rewrite<E: PacketEdit>(packet: &mut E, forward: &Forward) -> Option<()> {
    let mut offset = forward.offset as usize;
    if E::FRAMES_ONLY || !forward.layer3 {
        let header = egress_header(forward);
        packet.resize_header(offset, header)?;
        offset = header;
        let family = forward.family.ethertype();
        if forward.vlan == 0 {
            packet.store_ethernet(forward.stations, family)?;
        } else {
            packet.store_ethernet(forward.stations, ETHERTYPE_VLAN)?;
            let [c0, c1] = forward.vlan.to_be_bytes();
            let [t0, t1] = family.to_be_bytes();
            packet.store_ip(ETHERNET, [c0, c1, t0, t1])?;
        }
    }
    let hop_limit = offset + forward.family.hop_limit_offset();
    packet.store_ip(hop_limit, [forward.hop_limit])?;
    match forward.family {
        Family::V6 => Some(()),
        Family::V4 => packet.store_ip(offset + 10, forward.checksum.to_be_bytes()),
    }
}

/// Length of the link-layer header that the frame leaves with.
#[inline(always)]
const fn egress_header(forward: &Forward) -> usize {
    if forward.vlan == 0 {
        ETHERNET
    } else {
        ETHERNET + TAG
    }
}
