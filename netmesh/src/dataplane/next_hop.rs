//! The next-hop table: one slot for each (device, address), shared by many routes.
//!
//! ```text
//!   1. slot written, unresolved      packets: kernel
//!   2. NEIGHBOURS[(dev, addr)] = id  from here the follower keeps the slot right
//!   3. link word from the kernel's neighbour table, unless the follower was faster
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netmesh_common::table::{Link, MAX_NEXT_HOPS, NeighbourKey, NextHop};

use super::Error;
use super::maps::Maps;
use crate::plan::facts::{Device, NamespaceFacts};

/// What names a next hop.
type Identity = (u32, u8, [u8; 16], u8);

/// The table as last read; only the holder of the lock has one.
#[derive(Debug)]
pub(super) struct NextHops {
    by_identity: BTreeMap<Identity, u32>,
    free: BTreeSet<u32>,
}

impl NextHops {
    pub(super) fn read(maps: &Maps) -> Result<Self, Error> {
        let mut by_identity = BTreeMap::new();
        let mut free = BTreeSet::new();
        for id in 1..MAX_NEXT_HOPS {
            let hop = get(maps, id)?;
            if hop.ifindex == 0 {
                free.insert(id);
            } else {
                by_identity.insert(identity(&hop), id);
            }
        }
        Ok(Self { by_identity, free })
    }

    /// The slot for a next hop, made if need be, refreshed in any case.
    pub(super) fn put(
        &mut self,
        maps: &mut Maps,
        device: &Device,
        address: Option<IpAddr>,
        connected: bool,
        facts: &NamespaceFacts,
    ) -> Result<u32, Error> {
        let mut hop = NextHop {
            ifindex: device.ifindex,
            mtu: device.mtu,
            source_mac: device.mac.unwrap_or_default(),
            flags: flags(device, connected),
            ..NextHop::default()
        };
        (hop.family, hop.address) = address.map_or((0, [0; 16]), encode);
        if let Some(&id) = self.by_identity.get(&identity(&hop)) {
            // The follower owns the link word of a slot in use.
            hop.link = get(maps, id)?.link;
            if get(maps, id)? != hop {
                set(maps, id, &hop)?;
            }
            return Ok(id);
        }
        let id = self.free.pop_first().ok_or(Error::Full {
            table: "the next-hop table",
            capacity: u64::from(MAX_NEXT_HOPS),
        })?;
        set(maps, id, &hop)?;
        if hop.flags == 0
            && let Some(address) = address
        {
            let key = neighbour_key(device.ifindex, address);
            maps.neighbours
                .insert(key, id, 0)
                .map_err(|source| fail("NEIGHBOURS", "add a neighbour", source))?;
            if let Some(mac) = facts.neighbours.get(&(device.ifindex, address))
                && get(maps, id)?.link == 0
            {
                hop.link = Link::resolved(*mac).0;
                set(maps, id, &hop)?;
            }
        }
        self.by_identity.insert(identity(&hop), id);
        Ok(id)
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
            let hop = get(maps, id)?;
            if let Some(address) = decode(&hop) {
                // It may have none; that is as good.
                let _ = maps.neighbours.remove(&neighbour_key(hop.ifindex, address));
            }
            set(maps, id, &NextHop::default())?;
            self.by_identity.remove(&identity);
            self.free.insert(id);
        }
        Ok(())
    }

    /// Brings the link words of all slots to what the kernel knows: for changes that happened
    /// while no follower ran.
    pub(super) fn resolve(&self, maps: &mut Maps, facts: &NamespaceFacts) -> Result<(), Error> {
        for &id in self.by_identity.values() {
            let mut hop = get(maps, id)?;
            let Some(address) = decode(&hop).filter(|_| hop.flags == 0) else {
                continue;
            };
            if let Some(mac) = facts.neighbours.get(&(hop.ifindex, address))
                && Link(hop.link).mac().as_ref() != Some(mac)
            {
                hop.link = Link::resolved(*mac).0;
                set(maps, id, &hop)?;
            }
        }
        Ok(())
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

pub(super) fn get(maps: &Maps, id: u32) -> Result<NextHop, Error> {
    maps.next_hops
        .get(&id, 0)
        .map_err(|source| fail("NEXT_HOPS", "read a next hop", source))
}

fn set(maps: &mut Maps, id: u32, hop: &NextHop) -> Result<(), Error> {
    maps.next_hops
        .set(id, hop, 0)
        .map_err(|source| fail("NEXT_HOPS", "write a next hop", source))
}

fn identity(hop: &NextHop) -> Identity {
    (hop.ifindex, hop.family, hop.address, hop.flags)
}

fn flags(device: &Device, connected: bool) -> u8 {
    let layer3 = if device.mac.is_none() {
        NextHop::LAYER3
    } else {
        0
    };
    layer3 | if connected { NextHop::CONNECTED } else { 0 }
}

fn encode(address: IpAddr) -> (u8, [u8; 16]) {
    match address {
        IpAddr::V6(a) => (6, a.octets()),
        IpAddr::V4(a) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&a.octets());
            (4, bytes)
        }
    }
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
