//! Counting, after the decision and before the packet is handed over.

use netmesh_common::verdict::{DropReason, Forward, PuntReason};

use crate::maps;

/// Counts one outcome on a port.
///
/// Per-CPU: XDP and TC run with bottom halves off, so nothing interrupts an update on its CPU.
macro_rules! on_port {
    ($slot:expr, |$counters:ident| $update:block) => {
        if let Some(pointer) = maps::port_counters($slot) {
            // SAFETY: the map owns the value and this CPU alone writes it.
            let $counters = unsafe { &mut *pointer };
            $update
        }
    };
}

/// A packet left for another device.
#[inline(always)]
pub(crate) fn forwarded(slot: u32, forward: &Forward) {
    let packets = u64::from(forward.packets);
    on_port!(slot, |counters| {
        counters.received = counters.received.wrapping_add(packets);
        counters.forwarded = counters.forwarded.wrapping_add(packets);
        counters.forwarded_bytes = counters.forwarded_bytes.wrapping_add(forward.bytes);
    });
    if let Some(pointer) = maps::prefix_counters(forward.to_counter) {
        // SAFETY: as above.
        let counters = unsafe { &mut *pointer };
        counters.to_packets = counters.to_packets.wrapping_add(packets);
        counters.to_bytes = counters.to_bytes.wrapping_add(forward.bytes);
    }
    if let Some(pointer) = maps::prefix_counters(forward.from_counter) {
        // SAFETY: as above.
        let counters = unsafe { &mut *pointer };
        counters.from_packets = counters.from_packets.wrapping_add(packets);
        counters.from_bytes = counters.from_bytes.wrapping_add(forward.bytes);
    }
}

/// A packet was left to the kernel.
#[inline(always)]
pub(crate) fn punted(slot: u32, reason: PuntReason, packets: u32) {
    on_port!(slot, |counters| {
        counters.received = counters.received.wrapping_add(u64::from(packets));
        if let Some(counter) = counters.punted.get_mut(reason.index() as usize) {
            *counter = counter.wrapping_add(u64::from(packets));
        }
    });
}

/// A packet was dropped.
#[inline(always)]
pub(crate) fn dropped(slot: u32, reason: DropReason, packets: u32) {
    on_port!(slot, |counters| {
        counters.received = counters.received.wrapping_add(u64::from(packets));
        if let Some(counter) = counters.dropped.get_mut(reason.index() as usize) {
            *counter = counter.wrapping_add(u64::from(packets));
        }
    });
}

/// Packets were handed over, and nobody took them.
#[inline(always)]
pub(crate) fn lost(slot: u32, packets: u32) {
    on_port!(slot, |counters| {
        counters.redirect_failed = counters.redirect_failed.wrapping_add(u64::from(packets));
    });
}
