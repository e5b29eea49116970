//! The port tables: what the programs must know of a device before a packet comes from it or
//! goes to it.

use std::collections::BTreeSet;

use aya::maps::MapError;
use aya::maps::xdp::XdpMapError;
use netmesh_common::table::{MAX_PORTS, Port as PortEntry, PortCounters, REASONS};

use super::instance::View;
use super::maps::{found, gone};
use super::{Error, Instance};
use crate::plan::facts::Device;
use crate::plan::state::{Hook, Port, Sources};

impl View {
    /// Every entry of the port table, by interface index.
    pub(super) fn port_entries(&self) -> Result<Vec<(u32, PortEntry)>, Error> {
        self.maps
            .ports
            .iter()
            .map(|item| item.map_err(|source| fail("PORTS", "read it", source)))
            .collect()
    }
}

impl Instance {
    /// Makes a device known to the programs. Only a device that runs XDP may be sent frames from
    /// XDP.
    pub(super) fn put_port(&mut self, device: &Device, port: Port) -> Result<(), Error> {
        let slot = match found(self.maps.ports.get(&device.ifindex, 0), "PORTS")? {
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
        let entry = PortEntry {
            slot,
            flags: layer3 | sources,
            mac: device.mac.unwrap_or_default(),
            reserved: 0,
        };
        let maps = self.maps();
        maps.ports
            .insert(device.ifindex, entry, 0)
            .map_err(|source| fail("PORTS", "add a port", source))?;
        if port.hook == Hook::Tc {
            return Ok(());
        }
        maps.tx
            .insert(device.ifindex, device.ifindex, None, 0)
            .map_err(|error| match error {
                XdpMapError::MapError(source) => fail("TX", "add a port", source),
                XdpMapError::ChainedProgramNotSupported => {
                    fail("TX", "add a port", MapError::ProgIdNotSupported)
                }
            })
    }

    /// Makes the programs forget a device. One they do not know is fine.
    pub(super) fn remove_port(&mut self, ifindex: u32) -> Result<(), Error> {
        let maps = self.maps();
        gone(maps.tx.remove(ifindex), "TX", "remove a port")?;
        gone(maps.ports.remove(&ifindex), "PORTS", "remove a port")
    }

    /// Removes what is known of devices to which nothing is attached: a writer was killed.
    pub(super) fn remove_unattached(&mut self, attached: &BTreeSet<u32>) -> Result<(), Error> {
        for (ifindex, _) in self.port_entries()? {
            if !attached.contains(&ifindex) {
                self.remove_port(ifindex)?;
            }
        }
        Ok(())
    }

    /// A slot no port uses, its counters at zero.
    fn free_slot(&mut self) -> Result<u32, Error> {
        let used: BTreeSet<u32> = self
            .port_entries()?
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

fn fail(map: &'static str, action: &'static str, source: MapError) -> Error {
    Error::Map {
        map,
        action,
        source,
    }
}
