//! Sums over all routes, without a row for each.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netmesh_common::table::{Origin, PrefixKey, RibEntry, RibKey};

use super::Error;
use super::instance::View;
use super::route::{self, decode_prefix};
use crate::plan::facts::NamespaceFacts;

/// What can be said of all routes together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteSums {
    /// Routes of each origin.
    pub origins: BTreeMap<Origin, u64>,
    /// Routes in use whose next hop has no link-layer address.
    pub unresolved: u64,
    /// The node's own addresses and subnets.
    pub connected: BTreeSet<IpNet>,
}

impl View {
    /// Sums over [`routes`](Self::routes).
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn route_sums(&self, facts: &NamespaceFacts) -> Result<RouteSums, Error> {
        let mut sums = RouteSums::default();
        // One route for each way: they are resolved together.
        let mut ways: BTreeMap<(u32, u8), (RibKey, RibEntry)> = BTreeMap::new();
        self.maps.each_rib(|key, entry| {
            let Some(origin) = Origin::from_u8(key.origin) else {
                return;
            };
            *sums.origins.entry(origin).or_default() += 1;
            if origin == Origin::Connected {
                sums.connected.extend(decode_prefix(&key.prefix));
            }
            ways.insert((entry.next_hop, entry.action), (key, entry));
        })?;
        let mut unresolved = BTreeSet::new();
        for (way, (key, entry)) in ways {
            let Some(origin) = Origin::from_u8(key.origin) else {
                continue;
            };
            let hops = self.way(entry.next_hop)?;
            let row = route::row(&key.prefix, origin, &entry, &hops, true, facts);
            if row.is_some_and(|row| row.resolved == Some(false)) {
                unresolved.insert(way);
            }
        }
        if unresolved.is_empty() {
            return Ok(sums);
        }
        let mut affected: Vec<(PrefixKey, u8)> = Vec::new();
        self.maps.each_rib(|key, entry| {
            if unresolved.contains(&(entry.next_hop, entry.action)) {
                affected.push((key.prefix, key.origin));
            }
        })?;
        for (prefix, origin) in affected {
            let preferred = self.preferred(&prefix)?;
            let active = preferred.is_some_and(|(preferred, _)| preferred as u8 == origin);
            sums.unresolved += u64::from(active);
        }
        Ok(sums)
    }
}
