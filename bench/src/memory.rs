//! Maps in this process's memory: the one place that is unsafe.

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// An array map in memory, as words.
pub(crate) struct Mapping {
    base: NonNull<AtomicU64>,
    bytes: NonZeroUsize,
}

impl Mapping {
    pub(crate) fn new(map: BorrowedFd<'_>, bytes: usize) -> anyhow::Result<Self> {
        let bytes = NonZeroUsize::new(bytes).ok_or_else(|| anyhow::anyhow!("nothing to map"))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice; the kernel refuses a map
        // that is shorter.
        let base = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, map, 0)? };
        Ok(Self {
            base: base.cast(),
            bytes,
        })
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped in `new` until drop, page aligned, and only touched by atomics.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes.get() / 8) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` has mapped.
        let _ = unsafe { munmap(self.base.cast(), self.bytes.get()) };
    }
}
