//! Counting, after the decision and before the packet is handed over.

use netmesh_common::lines::tally::{self, CLAIM, UNSETTLED};
use netmesh_common::lines::{Direction, SlotCounter};
use netmesh_common::table::PrefixCounters;
use netmesh_common::trace::DROPS;
use netmesh_common::verdict::Forward;

use crate::atomic::Word;
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

/// A packet left for another device. What is counted on prefixes can be left out.
#[inline(always)]
pub(crate) fn forwarded<const PREFIXES: bool>(slot: u32, forward: &Forward) {
    let packets = u64::from(forward.packets);
    on_port!(slot, |counters| {
        counters.received = counters.received.wrapping_add(packets);
        counters.forwarded = counters.forwarded.wrapping_add(packets);
        counters.forwarded_bytes = counters.forwarded_bytes.wrapping_add(forward.bytes);
    });
    if PREFIXES {
        on_prefix(forward.to_counter, Direction::To, forward);
        on_prefix(forward.from_counter, Direction::From, forward);
    }
}

/// Counts a packet on one of its prefixes: in the lines of stage 1 if that has found it, else by
/// the number the trie has given.
#[inline(always)]
pub(crate) fn on_prefix(counter: u32, direction: Direction, forward: &Forward) {
    if SlotCounter::from_counter(counter).is_some() {
        let to = u32::from(direction == Direction::To);
        if on_slot(counter, to, forward.packets, forward.bytes) != 0 {
            carry(counter, to);
        }
        return;
    }
    let Some(pointer) = maps::prefix_counters(counter) else {
        return;
    };
    // SAFETY: as in `on_port`.
    let counters = unsafe { &mut *pointer };
    let (packets, bytes) = match direction {
        Direction::To => (&mut counters.to_packets, &mut counters.to_bytes),
        Direction::From => (&mut counters.from_packets, &mut counters.from_bytes),
    };
    *packets = packets.wrapping_add(u64::from(forward.packets));
    *bytes = bytes.wrapping_add(forward.bytes);
}

/// Counts in a slot of stage 1; not 0 when its tally is to be carried.
#[inline(always)]
fn on_slot(counter: u32, to: u32, packets: u32, bytes: u64) -> u32 {
    let Some(slot) = SlotCounter::from_counter(counter) else {
        return 0;
    };
    let Some(word) = maps::tally(slot, towards(to)) else {
        return 0;
    };
    let added = tally::packed(packets, bytes);
    let before = word.add(added);
    u32::from(tally::is_due(before.wrapping_add(added)))
}

/// Carries what a slot's tally holds to the prefix's own memory; not 0 when it has. Rare. A global
/// function, so that the verifier looks through it once.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn carry(counter: u32, to: u32) -> u32 {
    let Some(slot) = SlotCounter::from_counter(counter) else {
        return 0;
    };
    let Some(word) = maps::tally(slot, towards(to)) else {
        return 0;
    };
    let held = word.or(CLAIM);
    if tally::is_carrying(held) {
        return 0;
    }
    let Some(room) = maps::key_of_slot(slot).and_then(maps::carried) else {
        // The upper half of the field is still free. The next packet tries again.
        word.sub(UNSETTLED);
        return 0;
    };
    add(room, towards(to), tally::unpacked(held));
    word.sub(tally::settled(held));
    1
}

#[inline(always)]
const fn towards(to: u32) -> Direction {
    if to == 0 {
        Direction::From
    } else {
        Direction::To
    }
}

/// Adds to what a prefix has had carried already.
#[inline(always)]
fn add(room: *mut PrefixCounters, direction: Direction, sum: tally::Tally) {
    let word = match direction {
        Direction::To => 0,
        Direction::From => 2,
    };
    let first: *mut u64 = room.cast();
    // SAFETY: the map's value is four aligned words.
    let (packets, bytes) = unsafe { (Word::new(first.add(word)), Word::new(first.add(word + 1))) };
    packets.add(sum.packets);
    bytes.add(sum.bytes);
}

/// A packet was not forwarded: the code of its outcome, which is not 0, says why.
#[inline(always)]
pub(crate) fn refused(slot: u32, code: u8, packets: u32) {
    if code < DROPS {
        punted(slot, u32::from(code.wrapping_sub(1)), packets);
    } else {
        dropped(slot, u32::from(code.wrapping_sub(DROPS)), packets);
    }
}

/// A packet was left to the kernel, for the reason of that index.
#[inline(always)]
pub(crate) fn punted(slot: u32, reason: u32, packets: u32) {
    on_port!(slot, |counters| {
        counters.received = counters.received.wrapping_add(u64::from(packets));
        if let Some(counter) = counters.punted.get_mut(reason as usize) {
            *counter = counter.wrapping_add(u64::from(packets));
        }
    });
}

/// A packet was dropped, for the reason of that index.
#[inline(always)]
pub(crate) fn dropped(slot: u32, reason: u32, packets: u32) {
    on_port!(slot, |counters| {
        counters.received = counters.received.wrapping_add(u64::from(packets));
        if let Some(counter) = counters.dropped.get_mut(reason as usize) {
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
