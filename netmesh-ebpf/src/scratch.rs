//! What a program has in hand, off its stack: with all it calls it has 512 bytes.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use netmesh_common::trace::outcome_code;
use netmesh_common::verdict::{Forward, Outcome};

/// What a program has decided.
pub(crate) struct Decision {
    /// Where the packet goes.
    pub(crate) forward: Forward,
    code: u8,
}

impl Decision {
    /// The code of the outcome, through memory: what follows is then the same for the verifier
    /// whatever the outcome was, and it looks at it once instead of once for every reason.
    #[inline(always)]
    pub(crate) fn code(&mut self, outcome: Outcome) -> u8 {
        let place = &raw mut self.code;
        // SAFETY: the place is the map's own; volatile, or the compiler would leave memory out.
        unsafe {
            place.write_volatile(outcome_code(outcome));
            place.read_volatile()
        }
    }
}

// Not pinned: nobody else looks at it.
#[map]
static DECISION: PerCpuArray<Decision> = PerCpuArray::with_max_entries(1, 0);

// Nor at this.
#[map]
static SCRATCH: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's. Programs run with bottom halves off, none inside another.
#[inline(always)]
pub(crate) fn decision() -> Option<&'static mut Decision> {
    let pointer = DECISION.get_ptr_mut(0)?;
    // SAFETY: the map owns the value, which only this CPU uses; its first zeros are values of all
    // its fields (`Family::V6`, `false`), and only whole ones are written later.
    Some(unsafe { &mut *pointer })
}

/// The same value, of which the verifier knows nothing any more: it would otherwise follow the rest
/// of the program once for every place where it may have been found.
#[inline(always)]
pub(crate) fn forgotten(value: u64) -> u64 {
    let Some(place) = SCRATCH.get_ptr_mut(0) else {
        return value;
    };
    // SAFETY: the map's own, and this CPU's alone; volatile, or the compiler would leave memory out.
    unsafe {
        place.write_volatile(value);
        place.read_volatile()
    }
}
