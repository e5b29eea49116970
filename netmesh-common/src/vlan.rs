//! 802.1Q: which port a frame came in through.
//!
//! ```text
//!   no tag ────────────────────────► the device's own port
//!   one tag, (device, VID) known ──► the VLAN sub-interface's port: in XDP at once; in TC, and
//!                                    where it runs TC, when the kernel has taken the tag off
//!   any other tag ─────────────────► the device's own port, and there the kernel's
//! ```
//! A VLAN sub-interface is a port of its own: address, sources, counters. Priority tags (VID 0),
//! 802.1ad and what stands behind a second tag are the kernel's. The priority bits of a tag are
//! not looked at; the frame that leaves has none, as with the kernel's default priority maps.
//!
//! The kernel takes priority tags off, before and behind the tag of a VLAN, and routes what is
//! left. So a source is checked behind them as if they were not there; more than [`MAX_TAGS`] are
//! nobody's.

use crate::header::{ETHERTYPE_QINQ, ETHERTYPE_VLAN, TAG_OFFSET};
use crate::table::{MAX_PORTS, Port};
use crate::view::{Ingress, PacketView, TableView};

/// Bytes of a tag.
pub const TAG: usize = 4;

/// Tags of a frame that are looked behind.
pub const MAX_TAGS: usize = 4;

/// Where the EtherTypes of tags may stand, and that of what is behind the last.
const PLACES: [usize; MAX_TAGS + 1] = [
    TAG_OFFSET,
    TAG_OFFSET + TAG,
    TAG_OFFSET + 2 * TAG,
    TAG_OFFSET + 3 * TAG,
    TAG_OFFSET + 4 * TAG,
];

/// The part of the tag control information that names the VLAN.
pub(crate) const VID: u16 = 0x0fff;

/// Finds the port that a packet of a device came in through, and fills it into `ingress`, which
/// comes from outside so that all of it is set on every path.
///
/// `false` when it is not for this program to judge nor to count: the device is no port, or the
/// packet meets a program again on the sub-interface that its tag names.
#[inline(always)]
#[must_use]
pub fn arrive<P: PacketView, T: TableView>(
    packet: &P,
    device: u32,
    table: &T,
    ingress: &mut Ingress,
) -> bool {
    let vid = first_vid(packet);
    if vid == TOO_DEEP {
        // It may be of a VLAN whose sources are checked. Counted where it can be.
        let nobody = Port {
            slot: MAX_PORTS,
            ..Port::NONE
        };
        ingress.ifindex = device;
        ingress.tagged = false;
        ingress.port = table.port(device).unwrap_or(nobody);
        ingress.port.vlan = TOO_DEEP;
        return true;
    }
    if vid != 0
        && let Some(sub_interface) = table.sub_interface(device, vid)
        && let Some(port) = table.port(sub_interface)
    {
        ingress.ifindex = sub_interface;
        ingress.port = port;
        ingress.tagged = true;
        return P::TAG_IN_DATA && port.vlan != 0;
    }
    ingress.ifindex = device;
    ingress.tagged = false;
    let port = table.port(device);
    ingress.port = port.unwrap_or(Port::NONE);
    // Also where TC serves the device XDP may run: for its sub-interfaces.
    port.is_some_and(|port| !P::TAG_IN_DATA || port.flags & Port::XDP != 0)
}

/// What no tag can name: it is not known which port the frame is of.
pub(crate) const TOO_DEEP: u16 = u16::MAX;

/// What [`walk`] tells of a VLAN that is the kernel's. Like the next two it stands in place of an
/// EtherType, and none behind the tags has its value.
pub(crate) const OTHER_VLAN: u16 = ETHERTYPE_VLAN;

/// What [`walk`] tells of more tags than are looked behind.
pub(crate) const MORE_TAGS: u16 = ETHERTYPE_QINQ;

/// What [`walk`] tells of a frame that ends among its tags.
pub(crate) const TOO_SHORT: u16 = 0;

/// What is behind the first tag of a frame begins there.
pub(crate) const BEHIND_FIRST: usize = TAG_OFFSET + TAG + 2;

/// Passes every priority tag in a frame that begins with a tag, and the tag of the port where it has
/// one (`own`): the offset behind them, counted from behind the first tag and shifted by 16, and the
/// EtherType there, or one of the values above. EtherType 0 becomes 1: both are lengths (802.3).
#[inline(always)]
pub fn walk<P: PacketView>(packet: &P, mut own: bool) -> u32 {
    for offset in PLACES {
        let Some([p0, p1]) = packet.load(offset) else {
            return u32::from(TOO_SHORT);
        };
        let protocol = u16::from_be_bytes([p0, p1]);
        if protocol != ETHERTYPE_VLAN && protocol != ETHERTYPE_QINQ {
            let behind = (offset + 2).wrapping_sub(BEHIND_FIRST) as u32;
            return behind << 16 | u32::from(protocol.max(1));
        }
        let Some([c0, c1]) = packet.load(offset + 2) else {
            return u32::from(TOO_SHORT);
        };
        if u16::from_be_bytes([c0, c1]) & VID != 0 {
            if !own {
                return u32::from(OTHER_VLAN);
            }
            own = false;
        }
    }
    u32::from(MORE_TAGS)
}

/// VID of the frame's first tag that names a VLAN, when that is one of 802.1Q; 0 for none. In TC
/// the kernel comes to it by itself, on the way to the sub-interface's own program.
#[inline(always)]
fn first_vid<P: PacketView>(packet: &P) -> u16 {
    if !P::TAG_IN_DATA {
        return match packet.tag_beside() {
            Some((ETHERTYPE_VLAN, control)) => control & VID,
            _ => 0,
        };
    }
    match packet.halves(TAG_OFFSET).and_then(tag) {
        Some((_, 0)) => packet.vid_behind(),
        Some((ETHERTYPE_VLAN, vid)) => vid,
        _ => 0,
    }
}

/// VID of the first tag that names a VLAN, behind a priority tag; 0 for none that is one of 802.1Q,
/// 0xffff for more tags than are looked behind.
#[inline(always)]
pub fn vid_behind<P: PacketView>(packet: &P) -> u16 {
    let mut offset = TAG_OFFSET;
    for _ in 0..MAX_TAGS {
        offset += TAG;
        match packet.halves(offset).and_then(tag) {
            Some((_, 0)) => {}
            Some((ETHERTYPE_VLAN, vid)) => return vid,
            _ => return 0,
        }
    }
    TOO_DEEP
}

/// EtherType and VID of a tag, if that is what these bytes are.
#[inline(always)]
const fn tag([word]: [u32; 1]) -> Option<(u16, u16)> {
    match ((word >> 16) as u16, word as u16 & VID) {
        (protocol @ (ETHERTYPE_VLAN | ETHERTYPE_QINQ), vid) => Some((protocol, vid)),
        _ => None,
    }
}
