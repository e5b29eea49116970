//! Tallies: packets and bytes of a slot in one direction, in one word.
//!
//! ```text
//!   63        62      36 35        0
//!  carrying │ packets   │ bytes
//! ```
//! One atomic addition counts both. Long before a field runs over, whoever has brought it half way
//! carries what it holds to the prefix's own memory, a map keyed by the prefix: the bit keeps
//! others from doing the same, and tells readers that the sum is on its way.

use super::{Direction, SLOTS};

const BYTES: u32 = 36;
const CARRYING: u64 = 1 << 63;
/// The uppermost bit of each field.
const HALF_WAY: u64 = 1 << 62 | 1 << (BYTES - 1);

/// Bytes one addition may bring: more than the largest packet there can be (BIG TCP, 512 KiB).
pub const MOST_BYTES: u64 = 1 << 32;

/// What a tally holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The word of a bucket that holds a slot's tally.
#[inline(always)]
#[must_use]
pub const fn word(direction: Direction, slot: usize) -> usize {
    match direction {
        Direction::To => SLOTS + slot,
        Direction::From => 2 * SLOTS + slot,
    }
}

/// What an addition adds.
#[inline(always)]
#[must_use]
pub const fn packed(packets: u32, bytes: u64) -> u64 {
    ((packets as u64) << BYTES).wrapping_add(bytes & (MOST_BYTES - 1))
}

/// What a word holds.
#[inline(always)]
#[must_use]
pub const fn unpacked(word: u64) -> Tally {
    Tally {
        packets: (word & !CARRYING) >> BYTES,
        bytes: word & ((1 << BYTES) - 1),
    }
}

/// Somebody is carrying; what is read beside it now may be wrong.
#[inline(always)]
#[must_use]
pub const fn is_carrying(word: u64) -> bool {
    word & CARRYING != 0
}

/// The word, after an addition, is to be carried: claim it with [`CLAIM`].
#[inline(always)]
#[must_use]
pub const fn is_due(word: u64) -> bool {
    word & HALF_WAY != 0 && !is_carrying(word)
}

/// To be or-ed atomically: if the bit was clear before, the caller carries what the word held and
/// takes [`settled`] of it off afterwards.
pub const CLAIM: u64 = CARRYING;

/// What is taken off, atomically, of a word that was claimed when it held `word`, once that is
/// safe in the prefix's memory.
#[inline(always)]
#[must_use]
pub const fn settled(word: u64) -> u64 {
    word | CARRYING
}

/// What is taken off when it could not be brought there: the claim alone.
pub const UNSETTLED: u64 = CARRYING;
