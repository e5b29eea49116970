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
    /// Those of them that somebody entered for good (`NUD_PERMANENT`).
    pub permanent: BTreeSet<(u32, IpAddr)>,
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
    /// The device below a VLAN sub-interface, where XDP can stand in for the sub-interface: its
    /// tag is one of 802.1Q and the device is in the same namespace.
    pub vlan: Option<Vlan>,
    /// The receive side takes VLAN tags off before XDP sees a frame (`rx-vlan-offload`). Asked
    /// only of devices that carry VLAN sub-interfaces.
    pub takes_tags_off: bool,
    /// The driver sends frames in several buffers for XDP (`NETDEV_XDP_ACT_NDO_XMIT_SG`, 6.3): one
    /// that does not loses them.
    pub sends_several_buffers: bool,
}

/// What a VLAN sub-interface stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Interface index of the device below.
    pub device: u32,
    /// The VLAN's number, 1 to 4094.
    pub vid: u16,
}

/// [`Device::kind`] of a VLAN sub-interface.
pub const VLAN: &str = "vlan";

impl NamespaceFacts {
    /// VLAN sub-interfaces of a device.
    pub fn vlans_of(&self, ifindex: u32) -> impl Iterator<Item = (&LinkName, &Device)> {
        let on = move |device: &Device| device.vlan.is_some_and(|vlan| vlan.device == ifindex);
        self.devices.iter().filter(move |(_, device)| on(device))
    }

    /// The device behind an interface index.
    #[must_use]
    pub fn device_of(&self, ifindex: u32) -> Option<&Device> {
        self.devices
            .values()
            .find(|device| device.ifindex == ifindex)
    }

    /// The name behind an interface index.
    #[must_use]
    pub fn name_of(&self, ifindex: u32) -> Option<&LinkName> {
        self.devices
            .iter()
            .find(|(_, device)| device.ifindex == ifindex)
            .map(|(name, _)| name)
    }
}
