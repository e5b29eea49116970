//! Looking behind priority tags, with a stack of its own: that of a program is full.
//!
//! The functions take the bounds of the frame, which every caller has at hand. Given the context
//! instead, the compiler would hand over the bounds all the same, in a form that no verifier
//! believes.

use netmesh_common::view::PacketView;
use netmesh_common::vlan;

use crate::{atomic, wide};

/// A frame from its first byte to behind its last.
struct Bounds(usize, usize);

impl PacketView for Bounds {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let Self(start, end) = *self;
        if start + offset + N > end {
            return None;
        }
        // SAFETY: N bytes from there lie inside the frame.
        Some(unsafe { *((start + offset) as *const [u8; N]) })
    }

    #[inline(always)]
    fn halves<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let Self(start, end) = *self;
        if start + offset + 4 * N > end {
            return None;
        }
        // SAFETY: so many bytes lie inside the frame.
        Some(unsafe { wide::halves(start + offset) })
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.1.wrapping_sub(self.0)
    }
}

/// [`vlan::walk`].
#[inline(never)]
pub(crate) fn walk(start: usize, end: usize, own: bool) -> u32 {
    atomic::opaque(vlan::walk(&Bounds(start, end), own).into()) as u32
}

/// [`vlan::vid_behind`].
#[inline(never)]
pub(crate) fn vid_behind(start: usize, end: usize) -> u16 {
    vlan::vid_behind(&Bounds(start, end))
}
