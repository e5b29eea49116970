//! Several next hops for one prefix.
//!
//! ```text
//!  FibEntry.next_hop ≥ MAX_NEXT_HOPS ──► GROUPS[id] ──► buckets[hash of the flow] ──► members[slot]
//! ```
//! A flow belongs to a bucket, a bucket to a member: as in the kernel's resilient next-hop groups
//! (net/ipv4/nexthop.c) a change of the members moves only the buckets that must move. A group
//! never changes while a route refers to it: a route that changes gets another one.

use crate::table::{Link, MAX_NEXT_HOPS, NextHop};
use crate::view::TableView;

/// Capacity of the table of groups; id 0 is never used.
pub const MAX_GROUPS: u32 = 1024;

/// Most next hops a group can have.
pub const MAX_MEMBERS: usize = 16;

/// Buckets of a group: shares are exact to one part in as many.
pub const BUCKETS: usize = 256;

/// Heaviest weight, as in the kernel (`rtnh_hops` is one byte, counted from zero).
pub const MAX_WEIGHT: u16 = 256;

/// Members after the flow's own and one drawn anew that are tried while those are not resolved.
const ATTEMPTS: u32 = 3;

/// One next hop of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Member {
    /// Index into the next-hop table; 0 where the slot is free.
    pub next_hop: u32,
    /// That next hop's device.
    pub ifindex: u32,
    /// Its share of the buckets, relative to the other members': 1 to [`MAX_WEIGHT`].
    pub weight: u16,
    /// Reserved, zero.
    pub reserved: [u16; 3],
}

/// Value of the table of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Group {
    /// The members, the free slots last.
    pub members: [Member; MAX_MEMBERS],
    /// Start of the flow hash: routers in a row must not draw the same lots.
    pub seed: u64,
    /// Slots in use.
    pub count: u32,
    /// Reserved, zero.
    pub reserved: u32,
    /// Slot of the member each bucket belongs to.
    pub buckets: [u8; BUCKETS],
}

impl Default for Group {
    fn default() -> Self {
        Self {
            members: [Member::default(); MAX_MEMBERS],
            seed: 0,
            count: 0,
            reserved: 0,
            buckets: [0; BUCKETS],
        }
    }
}

/// The group a route's next-hop index stands for, if it is not a single next hop's.
#[inline(always)]
#[must_use]
pub const fn of(next_hop: u32) -> Option<u32> {
    if next_hop < MAX_NEXT_HOPS {
        None
    } else {
        Some(next_hop - MAX_NEXT_HOPS)
    }
}

/// The next-hop index that stands for a group.
#[must_use]
pub const fn index(group: u32) -> u32 {
    MAX_NEXT_HOPS + group
}

impl Group {
    /// One of the members is reached through this device.
    #[inline(never)]
    #[must_use]
    pub fn leads_to(&self, ifindex: u32) -> bool {
        self.members
            .iter()
            .any(|member| member.next_hop != 0 && member.ifindex == ifindex)
    }

    /// The next hop for a flow: its bucket's; while that one is not resolved, or withdrawn, one of
    /// the others that is neither. So a neighbour that dies loses its flows at once and the others keep theirs, and
    /// one that comes back gets its own again.
    #[inline(never)]
    #[must_use]
    pub fn choose<T: TableView>(&self, hash: u64, table: &T) -> u32 {
        let mut slot = self.slot(hash as u8);
        let own = self.next_hop(slot);
        if is_usable(own, table) {
            return own;
        }
        // By weight first, then whoever there is.
        let drawn = self.next_hop(self.slot((hash >> 8) as u8));
        if is_usable(drawn, table) {
            return drawn;
        }
        for _ in 0..ATTEMPTS {
            slot += 1;
            if slot >= self.count {
                slot = 0;
            }
            let next = self.next_hop(slot);
            if is_usable(next, table) {
                return next;
            }
        }
        own
    }

    #[inline(always)]
    const fn slot(&self, bucket: u8) -> u32 {
        self.buckets[bucket as usize] as u32
    }

    #[inline(always)]
    const fn next_hop(&self, slot: u32) -> u32 {
        self.members[slot as usize % MAX_MEMBERS].next_hop
    }
}

/// Packets can be sent there now.
#[inline(always)]
fn is_usable<T: TableView>(next_hop: u32, table: &T) -> bool {
    table.next_hop(next_hop).is_some_and(|hop| {
        hop.ifindex != 0
            && hop.flags & NextHop::WITHDRAWN == 0
            && (hop.flags & NextHop::LAYER3 != 0 || Link(hop.link).mac().is_some())
    })
}

const _: () = {
    assert!(size_of::<Member>() == 16);
    assert!(size_of::<Group>() == 16 * MAX_MEMBERS + 16 + BUCKETS);
    assert!(MAX_MEMBERS.is_power_of_two() && BUCKETS == 256);
};
