//! The next-hop table: one slot for each (device, address), shared by many routes.
//!
//! ```text
//!   1. slot written, unresolved      packets: kernel
//!   2. NEIGHBOURS[(dev, addr)] = id  from here the follower keeps the slot right
//!   3. link word from the kernel's neighbour table, if nobody has changed it since it was read
//! ```
//! The table is mapped into memory: the follower writes link words at any moment, and only a
//! compare-and-swap never puts an old address over a new one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};

use netmesh_common::table::{Link, MAX_NEXT_HOPS, NeighbourKey, NextHop};

use super::instance::View;
use super::maps::{Maps, gone};
use super::neighbour::{self, Lookup};
use super::sys::Mapping;
use super::{Error, neighbour::encode};
use crate::plan::facts::{self, Device, NamespaceFacts};

/// A next hop, to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Its device.
    pub ifindex: u32,
    /// Its address; a device without neighbours has none.
    pub neighbour: Option<IpAddr>,
    /// The programs know its link-layer address.
    pub resolved: bool,
}

/// What names a next hop.
type Identity = (u32, u8, [u8; 16], u8);

/// Words of a slot: link; ifindex and MTU; source address, flags, family; address (2).
pub(super) const WORDS: usize = size_of::<NextHop>() / size_of::<u64>();

/// Attempts to find a neighbour at rest before it is left to the follower.
const SETTLE: usize = 8;

/// The table as last read; only the holder of the lock has one.
#[derive(Debug)]
pub(super) struct NextHops {
    memory: Mapping,
    by_identity: BTreeMap<Identity, u32>,
    /// Longest free first: a packet that is being forwarded never meets another next hop in the
    /// slot it has just looked up.
    free: VecDeque<u32>,
}

impl NextHops {
    pub(super) fn read(maps: &Maps) -> Result<Self, Error> {
        let bytes = size_of::<NextHop>() * MAX_NEXT_HOPS as usize;
        let memory = Mapping::new(maps.next_hops_fd.as_fd(), bytes)
            .map_err(|error| fail("NEXT_HOPS", "map it", aya::maps::MapError::IoError(error)))?;
        let mut table = Self {
            memory,
            by_identity: BTreeMap::new(),
            free: VecDeque::new(),
        };
        for id in 1..MAX_NEXT_HOPS {
            match table.load(id).filter(|hop| hop.ifindex != 0) {
                Some(hop) => drop(table.by_identity.insert(identity(&hop), id)),
                None => table.free.push_back(id),
            }
        }
        Ok(table)
    }

    /// Slots left.
    pub(super) fn room(&self) -> usize {
        self.free.len()
    }

    /// The slot for a next hop, made if need be, refreshed in any case.
    pub(super) fn put(
        &mut self,
        maps: &mut Maps,
        device: &Device,
        address: Option<IpAddr>,
        connected: bool,
    ) -> Result<u32, Error> {
        let (family, bytes) = address.map_or((0, [0; 16]), encode);
        let hop = NextHop {
            link: Link::UNRESOLVED.0,
            ifindex: device.ifindex,
            mtu: device.mtu,
            source_mac: device.mac.unwrap_or_default(),
            flags: flags(device, connected),
            family,
            address: bytes,
        };
        if let Some(&id) = self.by_identity.get(&identity(&hop)) {
            self.store(id, &hop);
            return Ok(id);
        }
        let id = self.free.pop_front().ok_or(Error::Full {
            table: "the next-hop table",
            capacity: u64::from(MAX_NEXT_HOPS) - 1,
            remedy: "fewer neighbours a namespace; the size is fixed",
        })?;
        self.set_link(id, Link::UNRESOLVED);
        self.store(id, &hop);
        if hop.has_neighbour()
            && let Some(address) = address
            && let Err(error) = self.follow(maps, id, device.ifindex, address)
        {
            // Whatever went wrong, two neighbours must never lead to one slot.
            let _ = maps
                .neighbours
                .remove(&neighbour_key(device.ifindex, address));
            self.store(id, &NextHop::default());
            self.free.push_back(id);
            return Err(error);
        }
        self.by_identity.insert(identity(&hop), id);
        Ok(id)
    }

    /// From here on the follower keeps the slot right.
    fn follow(&self, maps: &mut Maps, id: u32, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        maps.neighbours
            .insert(neighbour_key(ifindex, address), id, 0)
            .map_err(|source| fail("NEIGHBOURS", "add a neighbour", source))?;
        self.settle(id, ifindex, address, &neighbour::kernel())
    }

    /// Frees every slot that is not in `used`.
    pub(super) fn free_unused(
        &mut self,
        maps: &mut Maps,
        used: &BTreeSet<u32>,
    ) -> Result<(), Error> {
        let unused: Vec<(Identity, u32)> = self
            .by_identity
            .iter()
            .filter(|(_, id)| !used.contains(id))
            .map(|(identity, id)| (*identity, *id))
            .collect();
        for (identity, id) in unused {
            if let Some(hop) = self.load(id)
                && let Some(address) = decode(&hop)
            {
                let key = neighbour_key(hop.ifindex, address);
                gone(
                    maps.neighbours.remove(&key),
                    "NEIGHBOURS",
                    "remove a neighbour",
                )?;
            }
            self.store(id, &NextHop::default());
            self.set_link(id, Link::UNRESOLVED);
            self.by_identity.remove(&identity);
            self.free.push_back(id);
        }
        Ok(())
    }

    /// Brings every slot to what the kernel knows now of its device and neighbour: for changes
    /// that happened while no follower ran, and for addresses and MTUs of devices.
    pub(super) fn refresh(&self, facts: &NamespaceFacts) -> Result<(), Error> {
        let devices: BTreeMap<u32, &Device> = facts
            .devices
            .values()
            .map(|device| (device.ifindex, device))
            .collect();
        let kernel = neighbour::kernel();
        for &id in self.by_identity.values() {
            let Some(mut hop) = self.load(id) else {
                continue;
            };
            if let Some(device) = devices.get(&hop.ifindex) {
                hop.mtu = device.mtu;
                hop.source_mac = device.mac.unwrap_or_default();
                self.store(id, &hop);
            }
            if let Some(address) = decode(&hop).filter(|_| hop.has_neighbour()) {
                self.settle(id, hop.ifindex, address, &kernel)?;
            }
        }
        Ok(())
    }

    /// Makes the link word what the kernel says, racing with the follower. The kernel changes
    /// the neighbour first and calls the follower then: if the neighbour still is what was
    /// written, every later change finds the follower after us.
    fn settle(
        &self,
        id: u32,
        ifindex: u32,
        address: IpAddr,
        kernel: &impl Lookup,
    ) -> Result<(), Error> {
        let Some(word) = self.word(id, 0) else {
            return Ok(());
        };
        for _ in 0..SETTLE {
            let before = word.load(Ordering::Acquire);
            let known = kernel.lookup(ifindex, address)?;
            let link = known.map_or(Link::UNRESOLVED, Link::resolved);
            let order = (Ordering::AcqRel, Ordering::Acquire);
            let swapped = word.compare_exchange(before, link.0, order.0, order.1);
            if swapped.is_ok() && kernel.lookup(ifindex, address)? == known {
                break;
            }
        }
        Ok(())
    }

    fn load(&self, id: u32) -> Option<NextHop> {
        let word = |n| Some(self.word(id, n)?.load(Ordering::Acquire).to_ne_bytes());
        let [i0, i1, i2, i3, m0, m1, m2, m3] = word(1)?;
        let [s0, s1, s2, s3, s4, s5, flags, family] = word(2)?;
        let mut address = [0; 16];
        address[..8].copy_from_slice(&word(3)?);
        address[8..].copy_from_slice(&word(4)?);
        Some(NextHop {
            link: self.word(id, 0)?.load(Ordering::Acquire),
            ifindex: u32::from_ne_bytes([i0, i1, i2, i3]),
            mtu: u32::from_ne_bytes([m0, m1, m2, m3]),
            source_mac: [s0, s1, s2, s3, s4, s5],
            flags,
            family,
            address,
        })
    }

    /// Writes everything but the link word; the interface index, which makes a slot count,
    /// comes last.
    fn store(&self, id: u32, hop: &NextHop) {
        let [s0, s1, s2, s3, s4, s5] = hop.source_mac;
        let (low, high) = hop.address.split_at(8);
        let half = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        // One that is withdrawn stays so: not the writer decides on that.
        let flags = match self.load(id) {
            Some(before) if before.ifindex != 0 && identity(&before) == identity(hop) => {
                hop.flags & !NextHop::WITHDRAWN | before.flags & NextHop::WITHDRAWN
            }
            _ => hop.flags,
        };
        let [i0, i1, i2, i3] = hop.ifindex.to_ne_bytes();
        let [m0, m1, m2, m3] = hop.mtu.to_ne_bytes();
        let words = [
            (3, half(low)),
            (4, half(high)),
            (
                2,
                u64::from_ne_bytes([s0, s1, s2, s3, s4, s5, flags, hop.family]),
            ),
            (1, u64::from_ne_bytes([i0, i1, i2, i3, m0, m1, m2, m3])),
        ];
        for (n, value) in words {
            if let Some(word) = self.word(id, n) {
                word.store(value, Ordering::Release);
            }
        }
    }

    fn set_link(&self, id: u32, link: Link) {
        if let Some(word) = self.word(id, 0) {
            word.store(link.0, Ordering::Release);
        }
    }

    fn word(&self, id: u32, n: usize) -> Option<&AtomicU64> {
        self.memory.words().get(id as usize * WORDS + n)
    }
}

/// The address of a next hop; `None` on a device without neighbours.
pub(super) fn decode(hop: &NextHop) -> Option<IpAddr> {
    let a = hop.address;
    match hop.family {
        6 => Some(IpAddr::from(a)),
        4 => Some(IpAddr::from([a[0], a[1], a[2], a[3]])),
        _ => None,
    }
}

impl View {
    /// Every next hop that routes have.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn next_hops(&self) -> Result<Vec<Hop>, Error> {
        let table = NextHops::read(&self.maps)?;
        let used = table.by_identity.values().filter_map(|id| table.load(*id));
        let hops = used.map(|hop| Hop {
            ifindex: hop.ifindex,
            neighbour: decode(&hop).filter(|_| hop.has_neighbour()),
            resolved: Link(hop.link).is_resolved(),
        });
        Ok(hops.collect())
    }
}

/// A slot as every reader sees it.
pub(super) fn get(maps: &Maps, id: u32) -> Result<NextHop, Error> {
    maps.next_hops
        .get(&id, 0)
        .map_err(|source| fail("NEXT_HOPS", "read a next hop", source))
}

fn identity(hop: &NextHop) -> Identity {
    let flags = hop.flags & !NextHop::WITHDRAWN;
    (hop.ifindex, hop.family, hop.address, flags)
}

fn flags(device: &Device, connected: bool) -> u8 {
    let layer3 = if device.mac.is_none() {
        NextHop::LAYER3
    } else {
        0
    };
    let vlan = if device.kind == facts::VLAN {
        NextHop::VLAN
    } else {
        0
    };
    layer3 | vlan | if connected { NextHop::CONNECTED } else { 0 }
}

fn neighbour_key(ifindex: u32, address: IpAddr) -> NeighbourKey {
    let (family, address) = encode(address);
    NeighbourKey {
        ifindex,
        family: u32::from(family),
        address,
    }
}

fn fail(map: &'static str, action: &'static str, source: aya::maps::MapError) -> Error {
    Error::Map {
        map,
        action,
        source,
    }
}
