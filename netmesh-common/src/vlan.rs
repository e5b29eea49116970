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

use crate::header::{ETHERTYPE_VLAN, TAG_OFFSET};
use crate::table::Port;
use crate::view::{Ingress, PacketView, TableView};

/// Bytes of a tag.
pub const TAG: usize = 4;

/// The part of the tag control information that names the VLAN.
const VID: u16 = 0x0fff;

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
    if let Some(sub_interface) = tag(packet).and_then(|vid| table.sub_interface(device, vid))
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

/// VID of the frame's outermost tag, when that is one of 802.1Q that names a VLAN.
#[inline(always)]
fn tag<P: PacketView>(packet: &P) -> Option<u16> {
    let (protocol, control) = if P::TAG_IN_DATA {
        let [p0, p1, c0, c1]: [u8; TAG] = packet.load(TAG_OFFSET)?;
        (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([c0, c1]))
    } else {
        packet.tag_beside()?
    };
    let vid = control & VID;
    (protocol == ETHERTYPE_VLAN && vid != 0).then_some(vid)
}
