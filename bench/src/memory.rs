//! Maps in this process's memory, and the address of an interface: the one place that is unsafe.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use anyhow::Context as _;
use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use nix::sys::socket::{AddressFamily, LinkAddr, SockaddrLike as _};

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

    /// Maps pieces of `bytes` bytes each, one behind the other.
    pub(crate) fn of_pieces(pieces: &[MapData], bytes: usize) -> anyhow::Result<Self> {
        let whole = NonZeroUsize::new(pieces.len() * bytes).context("nothing to map")?;
        let piece = NonZeroUsize::new(bytes).context("nothing to map")?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe { mmap_anonymous(None, whole, access, MapFlags::MAP_PRIVATE)? };
        let memory = Self {
            base: base.cast(),
            bytes: whole,
        };
        for (n, map) in pieces.iter().enumerate() {
            let at = NonZeroUsize::new(base.as_ptr() as usize + n * bytes);
            let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
            // SAFETY: inside the mapping above, which nobody has looked at yet.
            unsafe { mmap(at, piece, access, flags, map.fd().as_fd(), 0)? };
        }
        Ok(memory)
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped until drop, page aligned, and only touched by atomics.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes.get() / 8) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped.
        let _ = unsafe { munmap(self.base.cast(), self.bytes.get()) };
    }
}

/// Every frame through an interface, but none that is received.
pub(crate) fn interface(index: u32) -> anyhow::Result<LinkAddr> {
    let mut address = [0_u8; 20];
    address[..2].copy_from_slice(&(AddressFamily::Packet as u16).to_ne_bytes());
    address[4..8].copy_from_slice(&index.to_ne_bytes());
    // SAFETY: a whole sockaddr_ll, packet(7): family, protocol, interface index, and zeros.
    let known = unsafe { LinkAddr::from_raw(address.as_ptr().cast(), Some(20)) };
    known.context("no address")
}
