//! The neighbour follower: copies what the kernel knows of a next hop into the next-hop table,
//! at the moment it changes and without any process.
//!
//! The kernel may leave a tracing program out: one that is interrupted by itself on its CPU
//! (`bpf_prog_get_recursion_context`), and some kernels all of them in an interrupt of the first
//! process. A change that is missed so lasts until the neighbour's next one, less than a minute, as
//! neighbours we ask for are never left unasked (`NTF_MANAGED`), or until `netmesh run` hears of it
//! over netlink.

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use netmesh_common::table::{Link, NeighbourKey, NeighbourLayout};

use crate::atomic::Word;
use crate::maps;

/// Where the fields of the running kernel's structures are; set by the loader.
#[unsafe(no_mangle)]
pub(crate) static NEIGHBOUR_LAYOUT: Global<NeighbourLayout> = Global::new(NeighbourLayout {
    netns: 0,
    dev: 0,
    dev_ifindex: 0,
    dev_net: 0,
    net_inum: 0,
    nud_state: 0,
    ha: 0,
    tbl: 0,
    tbl_family: 0,
    primary_key: 0,
    dead: 0,
    reserved: 0,
});

/// States in which a neighbour's link-layer address may be used: `NUD_VALID` of
/// include/net/neighbour.h. A dead entry is parked in one of them and is told apart by `dead`.
const NUD_VALID: u8 = 0x80 | 0x40 | 0x02 | 0x10 | 0x04 | 0x08;

/// Reads of one neighbour before the follower leaves the rest to the next event.
const ATTEMPTS: usize = 4;

const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;

/// What happened to the neighbour.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It may have another state or address.
    Changed,
    /// The kernel forgets it.
    Gone,
}

/// Follows one `struct neighbour`.
#[inline(always)]
pub(crate) fn neighbour(pointer: *const u8, event: Event) -> Option<()> {
    let layout = NEIGHBOUR_LAYOUT.load();
    let device: u64 = read(pointer, layout.dev)?;
    let net: u64 = read(device as *const u8, layout.dev_net)?;
    let inum: u32 = read(net as *const u8, layout.net_inum)?;
    if inum != layout.netns {
        return None;
    }
    let table: u64 = read(pointer, layout.tbl)?;
    let family: i32 = read(table as *const u8, layout.tbl_family)?;
    let ifindex: u32 = read(device as *const u8, layout.dev_ifindex)?;
    let key = match family {
        AF_INET6 => NeighbourKey {
            ifindex,
            family: 6,
            address: read(pointer, layout.primary_key)?,
        },
        AF_INET => {
            let [a, b, c, d]: [u8; 4] = read(pointer, layout.primary_key)?;
            let address = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            NeighbourKey {
                ifindex,
                family: 4,
                address,
            }
        }
        _ => return None,
    };
    let next_hop = maps::next_hop_of(&key)?;
    // SAFETY: `link` is the first, 8-byte aligned field of the map's value.
    let word = unsafe { Word::new(next_hop.cast()) };
    match event {
        Event::Changed => copy(pointer, &layout, word),
        Event::Gone => {
            word.set(Link::UNRESOLVED.0);
            Some(())
        }
    }
}

/// Copies the neighbour's state and reads it again: the kernel reports a change after it has let
/// go of the entry, so another CPU may have changed it, and reported that, in between. Whoever
/// writes last has then read what is true.
#[inline(always)]
fn copy(pointer: *const u8, layout: &NeighbourLayout, word: Word) -> Option<()> {
    // Nothing of a dead entry: a live one may stand for the same key.
    let mut link = observe(pointer, layout)?;
    for _ in 0..ATTEMPTS {
        word.set(link.0);
        let Some(now) = observe(pointer, layout) else {
            // It died meanwhile: take back what was written, but not its successor's word.
            word.replace(link.0, Link::UNRESOLVED.0);
            return None;
        };
        if now == link {
            return Some(());
        }
        link = now;
    }
    Some(())
}

/// What a live neighbour's link-layer address is; `None` for a dead one.
#[inline(always)]
fn observe(pointer: *const u8, layout: &NeighbourLayout) -> Option<Link> {
    let dead: u8 = read(pointer, layout.dead)?;
    if dead != 0 {
        return None;
    }
    let state: u8 = read(pointer, layout.nud_state)?;
    if state & NUD_VALID == 0 {
        return Some(Link::UNRESOLVED);
    }
    Some(Link::resolved(read(pointer, layout.ha)?))
}

/// A field of one of the kernel's structures.
#[inline(always)]
pub(crate) fn read<T>(base: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper checks every access and fails on a bad one.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }.ok()
}
