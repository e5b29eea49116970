//! The neighbour follower: copies what the kernel knows of a next hop into the next-hop table,
//! at the moment it changes and without any process.

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use netmesh_common::table::{Link, NeighbourKey, NeighbourLayout};

use crate::maps;

/// Where the fields of the running kernel's structures are; set by the loader.
#[unsafe(no_mangle)]
static NEIGHBOUR_LAYOUT: Global<NeighbourLayout> = Global::new(NeighbourLayout {
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
/// include/net/neighbour.h without `NUD_NOARP`.
const USABLE: u8 = 0x80 | 0x02 | 0x10 | 0x04 | 0x08;

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
    let state: u8 = read(pointer, layout.nud_state)?;
    let link = if event == Event::Changed && state & USABLE != 0 {
        Link::resolved(read(pointer, layout.ha)?)
    } else {
        Link::UNRESOLVED
    };
    // SAFETY: the map owns the value; `link` is its first, 8-byte aligned field, and a single
    // store of it is never seen half done.
    unsafe { core::ptr::write_volatile(&raw mut (*next_hop).link, link.0) };
    Some(())
}

#[inline(always)]
fn read<T>(base: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper checks every access and fails on a bad one.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset as usize).cast::<T>()) }.ok()
}
