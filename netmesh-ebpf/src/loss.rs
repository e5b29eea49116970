//! What XDP had handed over and no device took: the program has long said "redirect" by then, so
//! only the kernel's tracepoints tell.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::warn;
use netmesh_common::table::Port;

use crate::follow::{NEIGHBOUR_LAYOUT, read};
use crate::{count, maps};

/// Of this CPU: when it has told of losses last, and the packets it has not told of.
#[map]
static UNTOLD: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// A CPU tells of losses once in so many nanoseconds.
const PAUSE: u64 = 1_000_000_000;

/// Takes lost packets off what was forwarded from a `struct net_device`, if that is a port of
/// this namespace, and tells of them.
#[inline(always)]
pub(crate) fn lost(context: &BtfTracePointContext, from: *const u8, packets: i32) -> Option<()> {
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
    tell(context, ifindex, packets)
}

/// The losses of one interface stand for those of all since the CPU told last: counters tell them
/// apart.
#[inline(always)]
fn tell(context: &BtfTracePointContext, ifindex: u32, packets: u32) -> Option<()> {
    let untold = UNTOLD.get_ptr_mut(0)?;
    // SAFETY: this CPU's own; a program that interrupts this one here miscounts a few at most.
    let [before, count] = unsafe { &mut *untold };
    *count += u64::from(packets);
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if now.wrapping_sub(*before) < PAUSE {
        return None;
    }
    *before = now;
    let lost = core::mem::take(count);
    warn!(
        context,
        "no device took {} packets, the last of which came in at interface {}", lost, ifindex
    );
    Some(())
}
