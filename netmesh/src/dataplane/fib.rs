//! Routes: the RIB holds every origin's, the FIB the preferred one of each prefix.
//!
//! The RIB is written before the FIB. A writer that dies between the two leaves a FIB that lags
//! by one prefix; the next writer of that prefix, and every [`Instance::repair`], mends it. A
//! prefix that changes is replaced in place: readers see the old or the new entry, never none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netmesh_common::table::{Action, FibEntry, NextHop, Origin, PrefixKey, RibEntry, RibKey};
use serde::Serialize;

use super::{Error, Instance, next_hop};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::FibRoute;

/// One route as it stands in the RIB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteRow {
    /// The prefix.
    pub prefix: IpNet,
    /// Who put it there.
    #[serde(serialize_with = "origin_text")]
    pub origin: Origin,
    /// What it does.
    pub route: FibRoute,
    /// It is the one the data plane follows.
    pub active: bool,
    /// Next hop's link-layer address, where one is needed and known.
    pub resolved: Option<bool>,
}

/// The word for an origin.
#[must_use]
pub const fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Connected => "connected",
        Origin::Object => "object",
        Origin::Static => "static",
        Origin::Kernel => "kernel",
        Origin::Fpm => "fpm",
    }
}

fn origin_text<S: serde::Serializer>(origin: &Origin, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(origin_name(*origin))
}

impl Instance {
    /// Adds a route or changes it in place.
    ///
    /// # Errors
    /// When its device is not in the namespace, or a table is full.
    pub fn put_route(
        &mut self,
        prefix: IpNet,
        origin: Origin,
        route: &FibRoute,
        facts: &NamespaceFacts,
    ) -> Result<(), Error> {
        let (action, hop) = match route {
            FibRoute::Via { gateway, link } => (Action::Forward, Some((link, *gateway, false))),
            FibRoute::Connected { link } => (Action::Connected, Some((link, None, true))),
            FibRoute::Local => (Action::Local, None),
            FibRoute::Unreachable => (Action::Unreachable, None),
            FibRoute::Prohibit => (Action::Prohibit, None),
            FibRoute::Blackhole => (Action::Blackhole, None),
            FibRoute::Punt => (Action::Punt, None),
        };
        let next_hop = match hop {
            Some((link, gateway, connected)) => {
                let device = device(facts, link)?;
                // A device without neighbours has one next hop, whatever the route names.
                let gateway = gateway.filter(|_| device.mac.is_some());
                let maps = &mut self.maps;
                self.next_hops
                    .put(maps, device, gateway, connected, facts)?
            }
            None => 0,
        };
        let key = rib_key(prefix, origin);
        let entry = RibEntry {
            next_hop,
            action: action as u8,
            reserved: [0; 3],
        };
        self.maps
            .rib
            .insert(key, entry, 0)
            .map_err(|source| self.full_or("RIB", source))?;
        self.publish(&key.prefix)
    }

    /// Removes the route of one origin; the next origin's takes over, if there is one.
    ///
    /// # Errors
    /// When there is no such route.
    pub fn remove_route(&mut self, prefix: IpNet, origin: Origin) -> Result<(), Error> {
        let key = rib_key(prefix, origin);
        match self.maps.rib.remove(&key) {
            Ok(()) => self.publish(&key.prefix),
            Err(MapError::KeyNotFound) => Err(Error::NoRoute {
                prefix,
                origin: origin_name(origin),
            }),
            Err(error) if not_found(&error) => Err(Error::NoRoute {
                prefix,
                origin: origin_name(origin),
            }),
            Err(source) => Err(Error::Map {
                map: "RIB",
                action: "remove a route",
                source,
            }),
        }
    }

    /// Every route of every origin, in order.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn routes(&self, facts: &NamespaceFacts) -> Result<Vec<RouteRow>, Error> {
        let mut routes = BTreeMap::new();
        for item in self.maps.rib.iter() {
            let (key, entry) = item.map_err(|source| Error::Map {
                map: "RIB",
                action: "read it",
                source,
            })?;
            routes.insert((key.prefix.family, key.prefix, key.origin), entry);
        }
        let mut rows: Vec<RouteRow> = Vec::with_capacity(routes.len());
        let mut last = None;
        for ((_, prefix, origin), entry) in routes {
            let (Some(net), Some(origin)) = (decode_prefix(&prefix), Origin::from_u8(origin))
            else {
                continue;
            };
            let hop = next_hop::get(&self.maps, entry.next_hop)?;
            let needs_neighbour = entry.action == Action::Forward as u8 && hop.flags == 0;
            rows.push(RouteRow {
                prefix: net,
                origin,
                route: decode_route(&entry, &hop, facts),
                // Within a prefix the origins come in order of preference.
                active: last != Some(prefix),
                resolved: needs_neighbour
                    .then(|| netmesh_common::table::Link(hop.link).mac().is_some()),
            });
            last = Some(prefix);
        }
        Ok(rows)
    }

    /// Makes the connected routes equal the namespace's own addresses and subnets.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn set_connected(&mut self, facts: &NamespaceFacts) -> Result<(), Error> {
        let wanted = connected_routes(facts);
        let rows = self.routes(facts)?;
        for row in rows.iter().filter(|row| row.origin == Origin::Connected) {
            if !wanted.contains_key(&row.prefix) {
                self.remove_route(row.prefix, Origin::Connected)?;
            }
        }
        for (prefix, route) in &wanted {
            let same = rows.iter().any(|row| {
                row.origin == Origin::Connected && row.prefix == *prefix && row.route == *route
            });
            if !same {
                self.put_route(*prefix, Origin::Connected, route, facts)?;
            }
        }
        Ok(())
    }

    /// Makes the FIB agree with the RIB, resolves next hops, frees what nothing uses. Cheap when
    /// all is well.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn repair(&mut self, facts: &NamespaceFacts) -> Result<(), Error> {
        let mut used = BTreeSet::new();
        let mut prefixes = BTreeSet::new();
        for item in self.maps.rib.iter() {
            let (key, entry) = item.map_err(|source| Error::Map {
                map: "RIB",
                action: "read it",
                source,
            })?;
            used.insert(entry.next_hop);
            prefixes.insert(key.prefix);
        }
        // A prefix the RIB no longer has: a writer died before it took it from the FIB.
        let orphans: Vec<PrefixKey> = self
            .counter_ids
            .keys()
            .filter(|prefix| !prefixes.contains(*prefix))
            .copied()
            .collect();
        for prefix in prefixes.iter().chain(&orphans) {
            self.publish(prefix)?;
        }
        let maps = &mut self.maps;
        self.next_hops.free_unused(maps, &used)?;
        self.next_hops.resolve(maps, facts)
    }

    /// Puts the preferred route of a prefix into the FIB, or takes the prefix out of it.
    fn publish(&mut self, prefix: &PrefixKey) -> Result<(), Error> {
        for origin in Origin::ALL {
            let key = RibKey {
                prefix: *prefix,
                origin: *origin as u8,
                reserved: [0; 3],
            };
            let entry = match self.maps.rib.get(&key, 0) {
                Ok(entry) => entry,
                Err(MapError::KeyNotFound) => continue,
                Err(source) => {
                    return Err(Error::Map {
                        map: "RIB",
                        action: "read it",
                        source,
                    });
                }
            };
            let value = FibEntry {
                next_hop: entry.next_hop,
                counter: self.counter_of(prefix)?,
                action: entry.action,
                prefix_length: prefix.length,
                origin: *origin as u8,
                reserved: [0; 5],
            };
            return self.write_fib(prefix, &value);
        }
        self.erase_fib(prefix)
    }

    fn write_fib(&mut self, prefix: &PrefixKey, value: &FibEntry) -> Result<(), Error> {
        let length = u32::from(prefix.length);
        let a = prefix.address;
        let result = if prefix.family == 6 {
            let key = Key::new(length, a);
            if self
                .maps
                .fib6
                .get(&key, 0)
                .is_ok_and(|found| found == *value)
            {
                return Ok(());
            }
            retry_memory(|| self.maps.fib6.insert(&key, value, 0))
        } else {
            let key = Key::new(length, [a[0], a[1], a[2], a[3]]);
            if self
                .maps
                .fib4
                .get(&key, 0)
                .is_ok_and(|found| found == *value)
            {
                return Ok(());
            }
            retry_memory(|| self.maps.fib4.insert(&key, value, 0))
        };
        result.map_err(|source| self.full_or("FIB", source))
    }

    fn erase_fib(&mut self, prefix: &PrefixKey) -> Result<(), Error> {
        let length = u32::from(prefix.length);
        let a = prefix.address;
        let result = if prefix.family == 6 {
            self.maps.fib6.remove(&Key::new(length, a))
        } else {
            self.maps
                .fib4
                .remove(&Key::new(length, [a[0], a[1], a[2], a[3]]))
        };
        match result {
            Err(error) if !not_found(&error) => Err(Error::Map {
                map: "FIB",
                action: "remove a prefix",
                source: error,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn full_or(&self, map: &'static str, source: MapError) -> Error {
        match &source {
            MapError::SyscallError(error)
                if matches!(
                    error.io_error.raw_os_error(),
                    Some(libc::ENOSPC | libc::E2BIG)
                ) =>
            {
                Error::Full {
                    table: "the route table",
                    capacity: 1 << 20,
                }
            }
            _ => Error::Map {
                map,
                action: "write it",
                source,
            },
        }
    }
}

/// The node's own addresses are local, the subnet-router anycast of each of its subnets too
/// (RFC 4291 section 2.6.1), the rest of the subnets connected.
fn connected_routes(facts: &NamespaceFacts) -> BTreeMap<IpNet, FibRoute> {
    let mut routes = BTreeMap::new();
    for (ifindex, address) in &facts.addresses {
        let Some(link) = facts.name_of(*ifindex) else {
            continue;
        };
        let special = match address.addr() {
            IpAddr::V6(a) => a.is_loopback() || (a.segments()[0] & 0xffc0) == 0xfe80,
            IpAddr::V4(a) => a.is_loopback(),
        };
        if special {
            continue; // The decision leaves these to the kernel by their class.
        }
        routes.insert(IpNet::from(address.addr()), FibRoute::Local);
        let subnet = address.trunc();
        if subnet.prefix_len() < subnet.max_prefix_len() {
            routes
                .entry(subnet)
                .or_insert(FibRoute::Connected { link: link.clone() });
            let edge = match subnet {
                // Point-to-point links have no anycast address (RFC 6164).
                IpNet::V6(net) => (net.prefix_len() < 127).then(|| IpAddr::V6(net.network())),
                IpNet::V4(net) => (net.prefix_len() < 31).then(|| IpAddr::V4(net.broadcast())),
            };
            if let Some(edge) = edge {
                routes.insert(IpNet::from(edge), FibRoute::Local);
            }
        }
    }
    routes
}

fn decode_route(entry: &RibEntry, hop: &NextHop, facts: &NamespaceFacts) -> FibRoute {
    // A device that is gone has no name; the number says so to people and to the diff.
    let link = || {
        facts
            .name_of(hop.ifindex)
            .cloned()
            .unwrap_or_else(|| format!("if{}?", hop.ifindex))
    };
    match Action::from_u8(entry.action) {
        Some(Action::Forward) => FibRoute::Via {
            gateway: next_hop::decode(hop),
            link: link(),
        },
        Some(Action::Connected) => FibRoute::Connected { link: link() },
        Some(Action::Local) => FibRoute::Local,
        Some(Action::Unreachable) => FibRoute::Unreachable,
        Some(Action::Prohibit) => FibRoute::Prohibit,
        Some(Action::Blackhole) => FibRoute::Blackhole,
        Some(Action::Punt) | None => FibRoute::Punt,
    }
}

pub(super) fn device<'a>(
    facts: &'a NamespaceFacts,
    name: &str,
) -> Result<&'a crate::plan::facts::Device, Error> {
    facts.devices.get(name).ok_or_else(|| Error::NoDevice {
        name: name.to_owned(),
        known: facts.devices.keys().cloned().collect::<Vec<_>>().join(", "),
    })
}

pub(super) fn prefix_key(prefix: IpNet) -> PrefixKey {
    let mut address = [0; 16];
    let family = match prefix.network() {
        IpAddr::V6(a) => {
            address = a.octets();
            6
        }
        IpAddr::V4(a) => {
            address[..4].copy_from_slice(&a.octets());
            4
        }
    };
    PrefixKey {
        address,
        family,
        length: prefix.prefix_len(),
        reserved: [0; 2],
    }
}

pub(super) fn decode_prefix(key: &PrefixKey) -> Option<IpNet> {
    let a = key.address;
    match key.family {
        6 => Ipv6Net::new(a.into(), key.length).ok().map(IpNet::V6),
        4 => Ipv4Net::new([a[0], a[1], a[2], a[3]].into(), key.length)
            .ok()
            .map(IpNet::V4),
        _ => None,
    }
}

fn rib_key(prefix: IpNet, origin: Origin) -> RibKey {
    RibKey {
        prefix: prefix_key(prefix),
        origin: origin as u8,
        reserved: [0; 3],
    }
}

pub(super) fn not_found(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

/// A fresh trie allocates without waiting and may be refused memory that is there a moment later.
fn retry_memory(mut insert: impl FnMut() -> Result<(), MapError>) -> Result<(), MapError> {
    let mut attempt = 0;
    loop {
        match insert() {
            Err(MapError::SyscallError(error))
                if attempt < 5 && error.io_error.raw_os_error() == Some(libc::ENOMEM) =>
            {
                attempt += 1;
                std::thread::sleep(std::time::Duration::from_millis(1 << attempt));
            }
            other => return other,
        }
    }
}
