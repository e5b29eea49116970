//! How full the tables are.

use netmesh_common::group::MAX_GROUPS;
use netmesh_common::lines::{Place, place};
use netmesh_common::table::{MAX_MARTIANS, MAX_NEXT_HOPS, MAX_PORTS, NextHop, PrefixKey};

use super::Error;
use super::instance::View;
use super::next_hop;

/// How many entries each table has, and how many it can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// /64s of IPv6 and /24s of IPv4.
    pub exact: Level,
    /// Other prefixes of IPv6.
    pub ipv6: Level,
    /// Other prefixes of IPv4.
    pub ipv4: Level,
    /// Next hops.
    pub next_hops: Level,
    /// Groups of next hops.
    pub groups: Level,
    /// Counters of prefixes with a route.
    pub counters: Level,
    /// Ports.
    pub ports: Level,
    /// Prefixes that ports list as martians, or as none.
    pub martians: Level,
    /// Next hops that are neighbours, of IPv6 and IPv4.
    pub neighbours: [u64; 2],
}

/// One table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Entries.
    pub used: u64,
    /// Most entries.
    pub capacity: u64,
}

impl View {
    /// How full the tables are.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn fill(&self) -> Result<Fill, Error> {
        let level = |used: usize, capacity: u32| Level {
            used: used as u64,
            capacity: capacity.into(),
        };
        let mut others: Vec<PrefixKey> = Vec::new();
        self.maps.each_rib(|key, _| {
            if !matches!(place(&key.prefix), Place::Exact(_)) {
                others.push(key.prefix);
            }
        })?;
        // A prefix that several have a route for is one in the FIB.
        others.sort_unstable();
        others.dedup();
        let ipv6 = others.iter().filter(|prefix| prefix.family == 6).count();
        let exact = self.lines.table().map_or(0, |table| table.live());
        let (mut hops, mut neighbours) = (0, [0; 2]);
        for id in 1..MAX_NEXT_HOPS {
            let hop: NextHop = next_hop::get(&self.maps, id)?;
            if hop.ifindex == 0 {
                continue;
            }
            hops += 1;
            if hop.has_neighbour() {
                neighbours[usize::from(hop.family == 4)] += 1;
            }
        }
        // A prefix keeps its counter; one without a route gives it away when none is left.
        let (mut counted, mut counters) = (Vec::new(), 0);
        self.maps.each_counter(|prefix, _| counted.push(prefix))?;
        for prefix in counted {
            counters += usize::from(self.preferred(&prefix)?.is_some());
        }
        let martians = self.martians()?.values().map(|list| list.len()).sum();
        let capacity = self.capacity();
        Ok(Fill {
            exact: Level {
                used: exact,
                capacity: capacity.routes.into(),
            },
            ipv6: level(ipv6, capacity.routes),
            ipv4: level(others.len() - ipv6, capacity.routes),
            next_hops: level(hops, MAX_NEXT_HOPS - 1),
            groups: level(self.used_groups()?.len(), MAX_GROUPS),
            counters: level(counters, capacity.counters),
            ports: level(self.port_entries().len(), MAX_PORTS),
            martians: level(martians, MAX_MARTIANS),
            neighbours,
        })
    }
}
