//! Watching decisions as they are made: what is asked of the programs, and what they tell.
//!
//! ```text
//!   netmesh trace ──► TRACE[0]  the question ──► programs, packet by packet, while it stands
//!         ▲                                         │
//!         └────────── EVENTS, a ring ◄──────────────┘
//! ```
//! While nobody asks, a packet costs one load and one branch. A question has an end, which the
//! asker moves on as long as it lives: one who was killed is not listened to for long.

use crate::header::ETHERNET;
use crate::verdict::Outcome;

/// Room for the beginning of a packet: a power of two, so that a mask bounds it.
pub const CAPTURED: usize = 128;

/// Length of the window that a limit counts in, in nanoseconds.
pub const WINDOW: u64 = 1_000_000_000;

/// Bytes of the ring.
pub const RING: u32 = 1 << 18;

/// The question. All of it is set before `until`, which is cleared first when it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TraceFilter {
    /// It stands until then, in nanoseconds of the monotonic clock; 0 while nobody asks.
    pub until: u64,
    /// Start of the running window, kept by the programs.
    pub window: u64,
    /// Events told in the running window, kept by the programs. CPUs that tell at once may
    /// each count one too few.
    pub told: u64,
    /// Events that were wanted but beyond the limit, or without room in the ring; kept by the
    /// programs.
    pub missed: u64,
    /// Events in a window.
    pub limit: u64,
    /// Outcomes, a bit each: [`outcome_bit`].
    pub outcomes: u64,
    /// Network address the source or the destination lies in, masked.
    pub network: [u8; 16],
    /// Mask of the network; all zero for any address of any family.
    pub mask: [u8; 16],
    /// 4 or 6, or 0 for both.
    pub family: u32,
    /// Interface index of the ingress; 0 for any.
    pub ifindex: u32,
}

/// One decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TraceEvent {
    /// When, in nanoseconds of the monotonic clock.
    pub time: u64,
    /// Interface index of the ingress.
    pub ifindex: u32,
    /// Interface index of the egress; 0 for none.
    pub egress: u32,
    /// Length of the packet as it came, from its first header on.
    pub length: u32,
    /// [`outcome_code`].
    pub outcome: u8,
    /// The packet starts with its IP header.
    pub layer3: u8,
    /// Bytes of `data` that are the packet's.
    pub captured: u16,
    /// The packet's beginning, as it came.
    pub data: [u8; CAPTURED],
}

impl TraceEvent {
    /// The event in a record of the ring; `None` for a record of another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, data) = bytes.split_first_chunk::<24>()?;
        let word = |at: usize| {
            head.get(at..)?
                .first_chunk::<4>()
                .copied()
                .map(u32::from_ne_bytes)
        };
        Some(Self {
            time: u64::from_ne_bytes(*head.first_chunk()?),
            ifindex: word(8)?,
            egress: word(12)?,
            length: word(16)?,
            outcome: head[20],
            layer3: head[21],
            captured: u16::from_ne_bytes([head[22], head[23]]),
            data: data.try_into().ok()?,
        })
    }
}

const _: () = assert!(size_of::<TraceFilter>() == 88);
const _: () = assert!(size_of::<TraceEvent>() == 24 + CAPTURED);

/// First code of the drops.
pub const DROPS: u8 = 40;

/// An outcome as a number below 64: 0 for forwarded, then the punts, from 40 on the drops.
#[inline(always)]
#[must_use]
pub const fn outcome_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Forward => 0,
        Outcome::Punt(reason) => (reason.index() as u8).wrapping_add(1) & 63,
        Outcome::Drop(reason) => (reason.index() as u8).wrapping_add(DROPS) & 63,
    }
}

/// The bit of an outcome in [`TraceFilter::outcomes`].
#[must_use]
pub const fn outcome_bit(outcome: Outcome) -> u64 {
    1 << outcome_code(outcome)
}

/// The outcome behind a number.
#[must_use]
pub fn outcome_of(code: u8) -> Option<Outcome> {
    use crate::verdict::{DropReason, PuntReason};
    let at = |from: u8| usize::from(code.wrapping_sub(from));
    match code {
        0 => Some(Outcome::Forward),
        1..DROPS => PuntReason::ALL.get(at(1)).copied().map(Outcome::Punt),
        _ => DropReason::ALL.get(at(DROPS)).copied().map(Outcome::Drop),
    }
}

/// The question is about packets of this port that meet this outcome.
#[inline(always)]
#[must_use]
pub const fn is_asked(filter: &TraceFilter, ifindex: u32, code: u8) -> bool {
    filter.outcomes & 1u64.wrapping_shl(code as u32) != 0
        && (filter.ifindex == 0 || filter.ifindex == ifindex)
}

/// The question is about this packet, of which the beginning was captured, zeros behind it as far as
/// its headers may reach: its source or its destination lies in the network.
#[inline(always)]
#[must_use]
pub fn is_wanted(filter: &TraceFilter, data: &[u8; CAPTURED], layer3: bool) -> bool {
    if filter.family == 0 {
        return true;
    }
    // Constant offsets: the verifier then knows each access.
    if layer3 {
        lies_inside::<0>(filter, data)
    } else if data[12] == 0x81 && data[13] == 0 {
        lies_inside::<{ ETHERNET + 4 }>(filter, data)
    } else {
        lies_inside::<ETHERNET>(filter, data)
    }
}

#[inline(always)]
fn lies_inside<const OFFSET: usize>(filter: &TraceFilter, data: &[u8; CAPTURED]) -> bool {
    match (filter.family, data[OFFSET] >> 4) {
        (6, 6) => {
            is_inside(filter, bytes::<16>(data, OFFSET + 8))
                || is_inside(filter, bytes::<16>(data, OFFSET + 24))
        }
        (4, 4) => {
            let long = |[a, b, c, d]: [u8; 4]| [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            is_inside(filter, long(bytes(data, OFFSET + 12)))
                || is_inside(filter, long(bytes(data, OFFSET + 16)))
        }
        _ => false,
    }
}

#[inline(always)]
fn bytes<const N: usize>(data: &[u8; CAPTURED], at: usize) -> [u8; N] {
    let mut out = [0; N];
    let mut i = 0;
    while i < N {
        if let Some(byte) = data.get(at.wrapping_add(i)) {
            out[i] = *byte;
        }
        i += 1;
    }
    out
}

#[inline(always)]
fn is_inside(filter: &TraceFilter, address: [u8; 16]) -> bool {
    let bits = u128::from_ne_bytes;
    bits(address) & bits(filter.mask) == bits(filter.network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{DropReason, PuntReason};

    #[test]
    fn every_outcome_has_a_number_of_its_own() {
        let punts = PuntReason::ALL.iter().copied().map(Outcome::Punt);
        let drops = DropReason::ALL.iter().copied().map(Outcome::Drop);
        let mut seen = 0u64;
        for outcome in core::iter::once(Outcome::Forward).chain(punts).chain(drops) {
            assert_eq!(outcome_of(outcome_code(outcome)), Some(outcome));
            assert_eq!(seen & outcome_bit(outcome), 0, "{outcome:?}");
            seen |= outcome_bit(outcome);
        }
        assert_eq!(outcome_of(39), None);
        assert_eq!(outcome_of(255), None);
    }

    #[test]
    fn a_network_is_looked_for_on_both_sides() {
        let mut data = [0; CAPTURED];
        data[14] = 0x60;
        data[22..25].copy_from_slice(&[0x2a, 0x02, 0x18]);
        data[38..41].copy_from_slice(&[0x20, 0x01, 0x0d]);
        let ask = |start: [u8; 3], family| {
            let mut filter = TraceFilter {
                family,
                ..TraceFilter::default()
            };
            filter.network[..3].copy_from_slice(&start);
            filter.mask[..3].fill(0xff);
            is_wanted(&filter, &data, false)
        };
        assert!(ask([0x2a, 0x02, 0x18], 6));
        assert!(ask([0x20, 0x01, 0x0d], 6));
        assert!(!ask([0x20, 0x01, 0x0e], 6));
        assert!(!ask([0x2a, 0x02, 0x18], 4), "another family");
        assert!(ask([0, 0, 0], 0), "anything");

        let mut tagged = [0; CAPTURED];
        tagged[..12].copy_from_slice(&data[..12]);
        tagged[12] = 0x81;
        tagged[16..].copy_from_slice(&data[12..CAPTURED - 4]);
        let all = TraceFilter {
            family: 6,
            ..TraceFilter::default()
        };
        assert!(is_wanted(&all, &tagged, false));
        assert!(!is_wanted(&all, &tagged, true), "that is no IP header");
    }

    #[test]
    fn ports_and_outcomes_are_told_apart() {
        let filter = |outcomes, ifindex| TraceFilter {
            outcomes,
            ifindex,
            ..TraceFilter::default()
        };
        assert!(is_asked(&filter(1, 0), 7, 0));
        assert!(is_asked(&filter(1, 7), 7, 0));
        assert!(!is_asked(&filter(1, 8), 7, 0));
        assert!(!is_asked(&filter(2, 0), 7, 0));
    }
}
