//! Atomic changes of a word that CPUs share. The compiler knows of none for this target, though
//! every kernel since 5.12 does.

use core::arch::asm;

/// A word of a map that lives as long as the program.
#[derive(Clone, Copy)]
pub(crate) struct Word(*mut u64);

impl Word {
    /// # Safety
    /// The pointer is to an aligned word of a map's value.
    #[inline(always)]
    pub(crate) const unsafe fn new(pointer: *mut u64) -> Self {
        Self(pointer)
    }

    /// Adds, and returns what was there before.
    #[inline(always)]
    pub(crate) fn add(self, value: u64) -> u64 {
        let mut value = value;
        // SAFETY: the word is there (see `new`), and nothing else is touched.
        unsafe {
            asm!(
                "{value} = atomic_fetch_add((u64 *)({word} + 0), {value})",
                word = in(reg) self.0,
                value = inout(reg) value,
            );
        }
        value
    }

    /// Subtracts.
    #[inline(always)]
    pub(crate) fn sub(self, value: u64) {
        self.add(value.wrapping_neg());
    }

    /// Sets bits, and returns what was there before.
    #[inline(always)]
    pub(crate) fn or(self, value: u64) -> u64 {
        let mut value = value;
        // SAFETY: as above.
        unsafe {
            asm!(
                "{value} = atomic_fetch_or((u64 *)({word} + 0), {value})",
                word = in(reg) self.0,
                value = inout(reg) value,
            );
        }
        value
    }
}
