//! What XDP had handed over and no device took: the program has long said "redirect" by then, so
//! only the kernel's tracepoints tell.

use netmesh_common::table::Port;

use crate::follow::{NEIGHBOUR_LAYOUT, read};
use crate::{count, maps};

/// Takes lost packets off what was forwarded from a `struct net_device`, if that is a port of
/// this namespace.
#[inline(always)]
pub(crate) fn lost(from: *const u8, packets: i32) -> Option<()> {
    let packets = u32::try_from(packets).ok().filter(|packets| *packets > 0)?;
    if from.is_null() {
        return None;
    }
    let layout = NEIGHBOUR_LAYOUT.load();
    let net: u64 = read(from, layout.dev_net)?;
    let inum: u32 = read(net as *const u8, layout.net_inum)?;
    if inum != layout.netns {
        return None;
    }
    let ifindex: u32 = read(from, layout.dev_ifindex)?;
    let own = maps::port(ifindex).filter(|port| port.flags & Port::XDP != 0);
    let slot = match own {
        Some(port) => port.slot,
        // The device below VLAN sub-interfaces. Frames of several may be lost at once: all of
        // them are the last one's, so that the sum is right.
        None => maps::last_vlan(ifindex)?,
    };
    count::lost(slot, packets);
    Some(())
}
