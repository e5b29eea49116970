//! Atomic changes of a word that CPUs share. The compiler knows of none for this target, though
//! every kernel since 5.12 does.

#[cfg(target_arch = "bpf")]
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
    #[cfg(target_arch = "bpf")]
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
    #[cfg(target_arch = "bpf")]
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

    /// Writes, before anything that is read after it.
    #[inline(always)]
    #[cfg(target_arch = "bpf")]
    pub(crate) fn set(self, value: u64) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "{value} = xchg_64({word} + 0, {value})",
                word = in(reg) self.0,
                value = inout(reg) value => _,
            );
        }
    }

    /// Writes where there still is what is expected.
    #[inline(always)]
    #[cfg(target_arch = "bpf")]
    pub(crate) fn replace(self, expected: u64, value: u64) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {value})",
                word = in(reg) self.0,
                value = in(reg) value,
                inout("r0") expected => _,
            );
        }
    }
}

/// Where the checks of this crate run.
#[cfg(not(target_arch = "bpf"))]
impl Word {
    fn word(self) -> &'static core::sync::atomic::AtomicU64 {
        // SAFETY: the word is there and aligned (see `new`).
        unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0) }
    }

    pub(crate) fn add(self, value: u64) -> u64 {
        self.word()
            .fetch_add(value, core::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn or(self, value: u64) -> u64 {
        self.word()
            .fetch_or(value, core::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn set(self, value: u64) {
        self.word()
            .store(value, core::sync::atomic::Ordering::SeqCst);
    }

    pub(crate) fn replace(self, expected: u64, value: u64) {
        use core::sync::atomic::Ordering::SeqCst;
        let _ = self
            .word()
            .compare_exchange(expected, value, SeqCst, SeqCst);
    }
}

/// The same value, of which the compiler knows nothing: it would leave out, as needless, the very
/// bounds a verifier asks for.
#[inline(always)]
pub(crate) fn opaque(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let value = {
        let mut value = value;
        // SAFETY: the value stays as it is. No instruction at all would do, but for the kernel,
        // which wants one for every line of the source (`check_btf_line`).
        unsafe {
            asm!("{value} = {value}", value = inout(reg) value, options(pure, nomem, nostack));
        }
        value
    };
    value
}
