//! The port tables: what the programs must know of a device before a packet comes from it or
//! goes to it.

use std::collections::BTreeSet;

use aya::maps::MapError;
use aya::maps::xdp::XdpMapError;
use netmesh_common::table::{
    MAX_PORTS, PORT_TRIES, Port as PortEntry, PortCounters, REASONS, vlan_key,
};

use super::instance::View;
use super::maps::gone;
use super::{Error, Instance};
use crate::plan::facts::{Device, NamespaceFacts};
use crate::plan::state::{Hook, Martians, Port, Sources};

impl View {
    /// Every entry of the port table, by interface index.
    pub(super) fn port_entries(&self) -> Vec<(u32, PortEntry)> {
        self.maps.ports.iter().collect()
    }
}

impl Instance {
    /// Makes a device known to the programs. Only a device that runs XDP may be sent frames from
    /// XDP.
    pub(super) fn put_port(
        &mut self,
        device: &Device,
        port: &Port,
        facts: &NamespaceFacts,
    ) -> Result<(), Error> {
        let slot = match self.maps.ports.get(device.ifindex) {
            Some(entry) => entry.slot,
            None => self.free_slot()?,
        };
        let layer3 = if device.mac.is_none() {
            PortEntry::LAYER3
        } else {
            0
        };
        let sources = match port.sources {
            Sources::Any => 0,
            Sources::Behind => PortEntry::SOURCES_BEHIND,
            Sources::External => PortEntry::EXTERNAL,
        };
        let xdp = if port.hook == Hook::Tc {
            0
        } else {
            PortEntry::XDP
        };
        // In XDP the device below does the sending and receiving.
        let below = device.vlan.filter(|_| port.hook != Hook::Tc);
        let sender = match below {
            Some(vlan) => facts.device_of(vlan.device),
            None => Some(device),
        };
        let several = if sender.is_some_and(|sender| sender.sends_several_buffers) {
            PortEntry::SEVERAL_BUFFERS
        } else {
            0
        };
        // Before the entry, which says whether to look.
        let listed = self.set_martians(device.ifindex, &port.martians)?;
        let entry = PortEntry {
            slot,
            flags: layer3 | sources | xdp | several | listed,
            mac: device.mac.unwrap_or_default(),
            vlan: below.map_or(0, |vlan| vlan.vid),
        };
        let maps = self.maps();
        if !maps.ports.put(device.ifindex, entry) {
            return Err(crowded());
        }
        if port.hook != Hook::Tc {
            let egress = below.map_or(device.ifindex, |vlan| vlan.device);
            let added = maps.tx.insert(device.ifindex, egress, None, 0);
            added.map_err(|error| not_added("TX", error))?;
        }
        if let Some(key) = device.vlan.and_then(|vlan| vlan_key(vlan.device, vlan.vid)) {
            let added = maps.vlans.insert(key, device.ifindex, None, 0);
            added.map_err(|error| not_added("VLANS", error))?;
        }
        Ok(())
    }

    /// Makes the programs forget a device. One they do not know is fine.
    pub(super) fn remove_port(&mut self, ifindex: u32) -> Result<(), Error> {
        let keys = self.vlan_keys(ifindex)?;
        let maps = self.maps();
        for key in keys {
            gone(maps.vlans.remove(key), "VLANS", "remove a port")?;
        }
        gone(maps.tx.remove(ifindex), "TX", "remove a port")?;
        maps.ports.remove(ifindex);
        self.set_martians(ifindex, &Martians::new()).map(drop)
    }

    /// Removes what is known of devices to which nothing is attached: a writer was killed.
    pub(super) fn remove_unattached(&mut self, attached: &BTreeSet<u32>) -> Result<(), Error> {
        for (ifindex, _) in self.port_entries() {
            if !attached.contains(&ifindex) {
                self.remove_port(ifindex)?;
            }
        }
        // A list is written before its port's entry, and goes after it.
        for ifindex in self.martians()?.into_keys() {
            if !attached.contains(&ifindex) {
                self.set_martians(ifindex, &Martians::new())?;
            }
        }
        Ok(())
    }

    /// A slot no port uses, its counters at zero.
    fn free_slot(&mut self) -> Result<u32, Error> {
        let used: BTreeSet<u32> = self
            .port_entries()
            .into_iter()
            .map(|(_, entry)| entry.slot)
            .collect();
        let slot = (0..MAX_PORTS)
            .find(|slot| !used.contains(slot))
            .ok_or(Error::Full {
                table: "the port table",
                capacity: MAX_PORTS.into(),
                remedy: "detach ports that are not needed; the size is fixed",
            })?;
        let zero = PortCounters {
            received: 0,
            forwarded: 0,
            forwarded_bytes: 0,
            redirect_failed: 0,
            punted: [0; REASONS],
            dropped: [0; REASONS],
        };
        self.set_port_counters(slot, zero)?;
        Ok(slot)
    }
}

fn not_added(map: &'static str, error: XdpMapError) -> Error {
    let source = match error {
        XdpMapError::MapError(source) => source,
        XdpMapError::ChainedProgramNotSupported => MapError::ProgIdNotSupported,
    };
    fail(map, "add a port", source)
}

fn fail(map: &'static str, action: &'static str, source: MapError) -> Error {
    Error::Map {
        map,
        action,
        source,
    }
}

/// All places a port could stand at are others'.
pub(super) fn crowded() -> Error {
    Error::Full {
        table: "the port table",
        capacity: PORT_TRIES.into(),
        remedy: "ports whose interface indexes differ by multiples of 256 are too many: give one of the \
                 devices another index",
    }
}
