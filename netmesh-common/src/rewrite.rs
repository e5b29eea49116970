//! What forwarding changes in a packet: hop limit or TTL, IPv4 checksum, link-layer header.

use crate::header::{ETHERNET, Family};
use crate::verdict::Forward;

/// A packet as its host changes it. `None` means that the change was not possible; but for
/// [`PacketEdit::trim`] the packet is then worth nothing any more.
pub trait PacketEdit {
    /// Cuts off what follows the packet: `length` is what is left of the frame; `SHORTEST_FRAME` where
    /// nobody pads it again. `None` leaves the packet as it was.
    fn trim(&mut self, length: usize) -> Option<()>;

    /// Makes room for an Ethernet header in front.
    fn push_ethernet(&mut self) -> Option<()>;

    /// Writes the Ethernet header at offset 0.
    fn store_ethernet(&mut self, header: [u8; ETHERNET]) -> Option<()>;

    /// Writes into the IP header; `offset` counts from the start of the packet.
    fn store_ip<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;
}

/// The first step of carrying a decision out. `None`: the packet is as it came, and the kernel's.
#[inline(always)]
#[must_use]
pub fn prepare<E: PacketEdit>(packet: &mut E, forward: &Forward) -> Option<()> {
    packet.trim((forward.offset as usize).wrapping_add(forward.length as usize))
}

/// Carries a decision out after [`prepare`], up to handing the packet over.
///
/// What can fail for want of memory comes first. Towards a device without a link-layer header the
/// Ethernet header stays as it came: the kernel takes it off (`__bpf_redirect_no_mac`).
#[inline(always)]
#[must_use]
pub fn rewrite<E: PacketEdit>(packet: &mut E, forward: &Forward) -> Option<()> {
    let mut offset = forward.offset as usize;
    if !forward.layer3 {
        if offset == 0 {
            packet.push_ethernet()?;
            offset = ETHERNET;
        }
        packet.store_ethernet(ethernet(forward))?;
    }
    let hop_limit = offset + forward.family.hop_limit_offset();
    packet.store_ip(hop_limit, [forward.hop_limit])?;
    match forward.family {
        Family::V6 => Some(()),
        Family::V4 => packet.store_ip(offset + 10, forward.checksum.to_be_bytes()),
    }
}

#[inline(always)]
fn ethernet(forward: &Forward) -> [u8; ETHERNET] {
    let [a, b, c, d, e, f] = forward.destination_mac;
    let [g, h, i, j, k, l] = forward.source_mac;
    let [t0, t1] = forward.family.ethertype().to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, t0, t1]
}
