//! What ports say themselves of prefixes, before the registries (RFC 6890): martians, or none.

use std::collections::BTreeMap;

use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use netmesh_common::class::Address;
use netmesh_common::table::{
    MARTIAN_SCOPE, MAX_MARTIANS, Port as PortEntry, martian_key, martian_of,
};

use super::instance::View;
use super::maps::gone;
use super::{Error, Instance};
use crate::plan::state::Martians;

const MAP: &str = "MARTIANS";

impl View {
    /// Every port's list, by interface index.
    pub(super) fn martians(&self) -> Result<BTreeMap<u32, Martians>, Error> {
        let mut lists: BTreeMap<u32, Martians> = BTreeMap::new();
        for item in self.maps.martians.iter() {
            let (key, value) = item.map_err(|source| fail("read it", source))?;
            if let Some((ifindex, prefix)) = read(key) {
                lists.entry(ifindex).or_default().insert(prefix, value != 0);
            }
        }
        Ok(lists)
    }
}

impl Instance {
    /// Makes these a port's list. A reader meets every prefix of both the old and the new list
    /// with one of its two values, at any time. Returns [`PortEntry::LISTED`] where some port has a
    /// list now, else 0.
    pub(super) fn set_martians(&mut self, ifindex: u32, wanted: &Martians) -> Result<u32, Error> {
        let mut lists = self.martians()?;
        let there = lists.remove(&ifindex).unwrap_or_default();
        let others: usize = lists.values().map(BTreeMap::len).sum();
        if others + wanted.len() > MAX_MARTIANS as usize {
            return Err(Error::Full {
                table: "the table of martians",
                capacity: MAX_MARTIANS.into(),
                remedy: "name larger prefixes; the size is fixed",
            });
        }
        let map = &mut self.maps().martians;
        // The ones that go make room where there is none for both; only then is a prefix missing.
        let stale = || there.keys().filter(|prefix| !wanted.contains_key(prefix));
        let tight = others + there.len() + wanted.len() > MAX_MARTIANS as usize;
        if tight {
            for prefix in stale() {
                gone(map.remove(&key(ifindex, *prefix)), MAP, "remove a prefix")?;
            }
        }
        for (prefix, is_martian) in wanted {
            if there.get(prefix) != Some(is_martian) {
                map.insert(&key(ifindex, *prefix), u32::from(*is_martian), 0)
                    .map_err(|source| fail("add a prefix", source))?;
            }
        }
        if !tight {
            for prefix in stale() {
                gone(map.remove(&key(ifindex, *prefix)), MAP, "remove a prefix")?;
            }
        }
        let listed = if others + wanted.len() > 0 {
            PortEntry::LISTED
        } else {
            0
        };
        self.tell_ports(listed);
        Ok(listed)
    }

    /// Tells every port whether there is a list anywhere: where there is none, nobody looks.
    fn tell_ports(&mut self, listed: u32) {
        for (ifindex, entry) in self.port_entries() {
            if entry.flags & PortEntry::LISTED != listed {
                let flags = entry.flags & !PortEntry::LISTED | listed;
                // It has its place.
                self.maps().ports.put(ifindex, PortEntry { flags, ..entry });
            }
        }
    }
}

fn key(ifindex: u32, prefix: IpNet) -> Key<[u32; 6]> {
    let address = Address::from(prefix.network());
    let length = MARTIAN_SCOPE + u32::from(prefix.prefix_len());
    Key::new(length, martian_key(ifindex, &address))
}

fn read(key: Key<[u32; 6]>) -> Option<(u32, IpNet)> {
    let (ifindex, address) = martian_of(key.data());
    let length = u8::try_from(key.prefix_len().checked_sub(MARTIAN_SCOPE)?).ok()?;
    Some((ifindex, IpNet::new(address.into(), length).ok()?))
}

fn fail(action: &'static str, source: MapError) -> Error {
    Error::Map {
        map: MAP,
        action,
        source,
    }
}
