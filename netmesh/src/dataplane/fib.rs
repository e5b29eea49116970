//! The RIB holds every origin's routes, the FIB the preferred one of each prefix.
//!
//! The FIB is the two stages of the table (see `netmesh_common::lines`); the RIB alone is complete
//! and can make everything else anew.
//!
//! A route that comes is written to the RIB first; one that goes leaves the FIB first. So the
//! FIB never holds a prefix the RIB does not know, and a writer that dies between the two leaves
//! something `Instance::rebuild` can mend from the RIB alone. A prefix that changes is
//! replaced in place: packets meet the old or the new entry, never none.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::maps::MapError;
use ipnet::IpNet;
use netmesh_common::lines::{self, Class, Place};
use netmesh_common::table::{Action, FibEntry, Origin, PrefixKey, RibEntry, RibKey};

use super::group::Way;
use super::instance::View;
use super::route::{self, prefix_key};
pub use super::route::{Match, RouteRow, origin_name};
use super::{Error, Instance};
use crate::plan::facts::{Device, NamespaceFacts};
use crate::plan::state::{FibRoute, Neighbour};

impl View {
    /// Every route of every origin, in order.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn routes(&self, facts: &NamespaceFacts) -> Result<Vec<RouteRow>, Error> {
        let mut routes = BTreeMap::new();
        self.maps.each_rib(|key, entry| {
            routes.insert((key.prefix.family, key.prefix, key.origin), entry);
        })?;
        let mut ways: BTreeMap<u32, Way> = BTreeMap::new();
        let mut rows: Vec<RouteRow> = Vec::with_capacity(routes.len());
        let mut last = None;
        for ((_, prefix, origin), entry) in routes {
            let Some(origin) = Origin::from_u8(origin) else {
                continue;
            };
            let way = match ways.entry(entry.next_hop) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.way(entry.next_hop)?),
            };
            // Within a prefix the origins come in order of preference.
            let active = last != Some(prefix);
            rows.extend(route::row(&prefix, origin, &entry, way, active, facts));
            last = Some(prefix);
        }
        Ok(rows)
    }

    /// The route of one origin to a prefix.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn route(
        &self,
        prefix: IpNet,
        origin: Origin,
        facts: &NamespaceFacts,
    ) -> Result<Option<RouteRow>, Error> {
        let key = prefix_key(prefix);
        let Some(entry) = self.read_rib(&rib_key_of(&key, origin))? else {
            return Ok(None);
        };
        let way = self.way(entry.next_hop)?;
        let preferred = self.preferred(&key)?;
        let active = preferred.is_some_and(|(preferred, _)| preferred == origin);
        Ok(route::row(&key, origin, &entry, &way, active, facts))
    }

    /// The routes of one origin.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn routes_of(
        &self,
        origin: Origin,
        facts: &NamespaceFacts,
    ) -> Result<BTreeMap<IpNet, FibRoute>, Error> {
        let mut entries = Vec::new();
        self.maps.each_rib(|key, entry| {
            if key.origin == origin as u8 {
                entries.push((key.prefix, entry));
            }
        })?;
        let mut routes = BTreeMap::new();
        for (prefix, entry) in entries {
            let way = self.way(entry.next_hop)?;
            if let Some(row) = route::row(&prefix, origin, &entry, &way, true, facts) {
                routes.insert(row.prefix, row.route);
            }
        }
        Ok(routes)
    }

    /// The neighbours that routes of these origins lead to.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn neighbours(
        &self,
        wanted: impl Fn(Origin) -> bool,
        facts: &NamespaceFacts,
    ) -> Result<BTreeSet<Neighbour>, Error> {
        // Routes with one next hop, or one group, have the same neighbours.
        let mut ways = BTreeMap::new();
        self.maps.each_rib(|key, entry| {
            if Origin::from_u8(key.origin).is_some_and(&wanted) {
                ways.insert(entry.next_hop, entry);
            }
        })?;
        let mut neighbours = BTreeSet::new();
        for (next_hop, entry) in ways {
            let route = route::decode_route(&entry, &self.way(next_hop)?, facts);
            neighbours.extend(route.neighbours());
        }
        Ok(neighbours)
    }

    /// What the data plane does with packets for an address: the longest prefix that matches,
    /// `None` where there is none and the kernel decides.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn get(&self, address: IpAddr, facts: &NamespaceFacts) -> Result<Option<Match>, Error> {
        let whole = IpNet::from(address);
        for length in (0..=whole.max_prefix_len()).rev() {
            let Ok(prefix) = IpNet::new(address, length) else {
                continue;
            };
            let prefix = prefix_key(prefix.trunc());
            if let Some((origin, entry)) = self.preferred(&prefix)? {
                let way = self.way(entry.next_hop)?;
                let fib = self.read_fib(&prefix_key(whole))?;
                let right = |fib: &FibEntry| {
                    fib.prefix_length == prefix.length
                        && fib.origin == origin as u8
                        && fib.next_hop == entry.next_hop
                        && fib.action == entry.action
                };
                return Ok(
                    route::row(&prefix, origin, &entry, &way, true, facts).map(|row| Match {
                        link_address: way.link_address().filter(|_| row.resolved.is_some()),
                        next_hops: way.next_hops(),
                        counted: fib.is_some_and(|fib| fib.counter != FibEntry::UNCOUNTED),
                        stale: !fib.as_ref().is_some_and(right),
                        row,
                    }),
                );
            }
        }
        Ok(None)
    }

    /// The route of the most preferred origin that has one.
    pub(super) fn preferred(
        &self,
        prefix: &PrefixKey,
    ) -> Result<Option<(Origin, RibEntry)>, Error> {
        for origin in Origin::ALL {
            if let Some(entry) = self.read_rib(&rib_key_of(prefix, *origin))? {
                return Ok(Some((*origin, entry)));
            }
        }
        Ok(None)
    }

    fn read_rib(&self, key: &RibKey) -> Result<Option<RibEntry>, Error> {
        self.maps.rib.get(key)
    }
}

impl Instance {
    /// Adds a route or changes it in place.
    ///
    /// # Errors
    /// When its device is not in the namespace, or a table is full; the route then is what it
    /// was before.
    pub fn put_route(
        &mut self,
        prefix: IpNet,
        origin: Origin,
        route: &FibRoute,
        facts: &NamespaceFacts,
    ) -> Result<(), Error> {
        let key = rib_key_of(&prefix_key(prefix), origin);
        let before = self.read_rib(&key)?;
        self.room_for(&key.prefix)?;
        let (action, hop) = fate(route);
        self.note()?;
        let next_hop = match (hop, route) {
            (Some((link, gateway, connected)), _) => {
                self.make_room(1)?;
                self.next_hop(link, gateway, connected, facts)?
            }
            (None, FibRoute::Paths(paths)) => {
                let before = before.map_or(0, |before| before.next_hop);
                self.spread(paths, before, facts)?
            }
            (None, _) => 0,
        };
        let entry = RibEntry {
            next_hop,
            action: action as u8,
            reserved: [0; 3],
        };
        self.change(|instance| {
            instance.write_rib(&key, &entry)?;
            let Err(error) = instance.publish(&key.prefix) else {
                return Ok(());
            };
            match before {
                Some(before) => instance.write_rib(&key, &before)?,
                None => instance.erase_rib(&key)?,
            }
            Err(error)
        })
    }

    /// Removes the route of one origin; the next origin's takes over, if there is one.
    ///
    /// # Errors
    /// When there is no such route.
    pub fn remove_route(&mut self, prefix: IpNet, origin: Origin) -> Result<(), Error> {
        let key = rib_key_of(&prefix_key(prefix), origin);
        let before = self.read_rib(&key)?.ok_or(Error::NoRoute {
            prefix,
            origin: origin_name(origin),
        })?;
        let mut last = true;
        for other in Origin::ALL.iter().filter(|other| **other != origin) {
            last &= self.read_rib(&rib_key_of(&key.prefix, *other))?.is_none();
        }
        self.note()?;
        self.change(|instance| {
            if last {
                instance.erase_fib(&key.prefix)?;
                instance.erase_rib(&key)?;
                return instance.may_reclaim(&key.prefix);
            }
            instance.erase_rib(&key)?;
            instance.publish(&key.prefix).or_else(|error| {
                instance.write_rib(&key, &before)?;
                Err(error)
            })
        })
    }

    /// Brings next hops to what the kernel knows now and frees those no route uses. Cheap: one
    /// pass over the RIB.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn repair(&mut self, facts: &NamespaceFacts) -> Result<(), Error> {
        self.inside()?;
        self.collect()?;
        self.next_hops.refresh(facts)
    }

    /// Makes the FIB agree with the RIB: a writer may have been killed between the two.
    pub(super) fn rebuild(&mut self) -> Result<(), Error> {
        self.take_up_the_other()?;
        if self.trees.valid().is_none() {
            self.trees.forget();
        }
        let mut preferred = BTreeMap::<PrefixKey, (u8, RibEntry)>::new();
        self.maps.each_rib(|key, entry| {
            let best = preferred.entry(key.prefix).or_insert((key.origin, entry));
            if key.origin < best.0 {
                *best = (key.origin, entry);
            }
        })?;
        self.renew_notes(preferred.keys().copied())?;
        for (prefix, (origin, entry)) in &preferred {
            if let Some(origin) = Origin::from_u8(*origin) {
                lines::publish(self, prefix, class(origin, entry))?;
            }
        }
        self.collect()
    }

    /// Frees the next hops no route uses.
    fn collect(&mut self) -> Result<(), Error> {
        let mut used = BTreeSet::new();
        self.maps.each_rib(|_, entry| {
            used.insert(entry.next_hop);
        })?;
        let (used, groups) = self.reached(&used)?;
        self.keep_groups(&groups);
        let (maps, next_hops) = self.tables();
        next_hops.free_unused(maps, &used)
    }

    /// A change that leaves the tables whole or the note that they are not.
    fn change(&mut self, work: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        let torn = std::mem::replace(&mut self.torn, true);
        let result = work(self);
        // A full table has been undone and is no reason to look through all of them.
        self.torn = torn || !matches!(result, Ok(()) | Err(Error::Full { .. }));
        result
    }

    /// Makes room for next hops, which are in no route yet: from here on none may be collected.
    pub(super) fn make_room(&mut self, slots: usize) -> Result<(), Error> {
        if self.next_hops.room() < slots {
            self.collect()?;
        }
        Ok(())
    }

    pub(super) fn next_hop(
        &mut self,
        link: &str,
        gateway: Option<IpAddr>,
        connected: bool,
        facts: &NamespaceFacts,
    ) -> Result<u32, Error> {
        self.inside()?;
        let device = device(facts, link)?;
        // A device without neighbours has one next hop, whatever the route names.
        let gateway = gateway.filter(|_| device.mac.is_some());
        let (maps, next_hops) = self.tables();
        next_hops.put(maps, device, gateway, connected)
    }

    /// The trie refuses what is too much by itself, stage 1 would not.
    fn room_for(&self, prefix: &PrefixKey) -> Result<(), Error> {
        let Place::Exact(key) = lines::place(prefix) else {
            return Ok(());
        };
        let full = self.lines.table().is_some_and(|table| {
            let there = table.get(key).is_some_and(|entry| entry.class.is_some());
            !there && table.live() >= self.maps.route_capacity.into()
        });
        if full && self.preferred(prefix)?.is_none() {
            return Err(self.full());
        }
        Ok(())
    }

    /// Puts the preferred route of a prefix into the FIB, or takes the prefix out of it.
    fn publish(&mut self, prefix: &PrefixKey) -> Result<(), Error> {
        match self.preferred(prefix)? {
            Some((origin, entry)) => lines::publish(self, prefix, class(origin, &entry)),
            None => self.erase_fib(prefix),
        }
    }

    pub(super) fn erase_fib(&mut self, prefix: &PrefixKey) -> Result<(), Error> {
        lines::withdraw(self, prefix)
    }

    fn write_rib(&mut self, key: &RibKey, entry: &RibEntry) -> Result<(), Error> {
        let written = self.maps().rib.insert(key, entry);
        written.map_err(|source| self.full_or("RIB", source))
    }

    pub(super) fn erase_rib(&mut self, key: &RibKey) -> Result<(), Error> {
        self.maps().rib.remove(key, "remove a route")
    }

    pub(super) fn full_or(&self, map: &'static str, source: MapError) -> Error {
        match &source {
            MapError::SyscallError(error)
                if matches!(
                    error.io_error.raw_os_error(),
                    Some(libc::ENOSPC | libc::E2BIG)
                ) =>
            {
                self.full()
            }
            _ => Error::Map {
                map,
                action: "write it",
                source,
            },
        }
    }
}

impl View {
    pub(super) fn full(&self) -> Error {
        Error::Full {
            table: "the route table",
            capacity: self.maps.route_capacity.into(),
            remedy: "put aggregates in the place of what lies inside them",
        }
    }
}

/// Where a route leads: the link, the gateway, and whether the subnet is connected.
type Hop<'a> = (&'a str, Option<IpAddr>, bool);

/// What a route does, and the one next hop it has, if it has one.
pub(super) fn fate(route: &FibRoute) -> (Action, Option<Hop<'_>>) {
    match route {
        FibRoute::Paths(_) => (Action::Forward, None),
        FibRoute::Via { gateway, link } => (Action::Forward, Some((link, *gateway, false))),
        FibRoute::Connected { link } => (Action::Connected, Some((link, None, true))),
        FibRoute::Local => (Action::Local, None),
        FibRoute::Unreachable => (Action::Unreachable, None),
        FibRoute::Prohibit => (Action::Prohibit, None),
        FibRoute::Blackhole => (Action::Blackhole, None),
        FibRoute::Punt => (Action::Punt, None),
    }
}

pub(super) fn device<'a>(facts: &'a NamespaceFacts, name: &str) -> Result<&'a Device, Error> {
    facts.devices.get(name).ok_or_else(|| Error::NoDevice {
        name: name.to_owned(),
        known: facts.devices.keys().cloned().collect::<Vec<_>>().join(", "),
    })
}

const fn class(origin: Origin, entry: &RibEntry) -> Class {
    Class {
        next_hop: entry.next_hop,
        action: entry.action,
        origin: origin as u8,
    }
}

pub(super) fn rib_key_of(prefix: &PrefixKey, origin: Origin) -> RibKey {
    RibKey {
        prefix: *prefix,
        origin: origin as u8,
        reserved: [0; 3],
    }
}
