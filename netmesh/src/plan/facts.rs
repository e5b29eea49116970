//! What only the machine can tell about a namespace: read by the kernel room, used by the plan
//! and the data plane.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::state::LinkName;

/// One namespace as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Every device.
    pub devices: BTreeMap<LinkName, Device>,
    /// Link-layer addresses of neighbours that are usable now, by interface index and address.
    pub neighbours: BTreeMap<(u32, IpAddr), [u8; 6]>,
    /// Every address, with the interface index that holds it.
    pub addresses: BTreeSet<(u32, IpNet)>,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Interface index.
    pub ifindex: u32,
    /// Link-layer address; `None` for a device without a link-layer header.
    pub mac: Option<[u8; 6]>,
    /// IP MTU in bytes.
    pub mtu: u32,
    /// Kind as the kernel names it (`veth`, `bridge`, …); empty for a physical one.
    pub kind: String,
    /// Administratively up.
    pub up: bool,
}

impl NamespaceFacts {
    /// The name behind an interface index.
    #[must_use]
    pub fn name_of(&self, ifindex: u32) -> Option<&LinkName> {
        self.devices
            .iter()
            .find(|(_, device)| device.ifindex == ifindex)
            .map(|(name, _)| name)
    }
}
