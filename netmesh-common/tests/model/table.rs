//! The tables, read as their documentation says they are.

use netmesh_common::table::{Action, NextHop, Origin, Port};

use crate::cases::reference::Router;

/// A router's tables.
pub(super) struct Tables<'a>(pub(super) &'a Router);

/// What a route does with a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Does {
    /// It leaves through a device; none where the next hop is free.
    Forward(Option<Device>),
    /// It is for this node.
    IsThisNode,
    /// It is for a neighbour on a device.
    IsOnLink(Option<Device>),
    /// Nobody hears of it.
    Discard,
    /// The kernel knows.
    AskKernel,
}

/// An egress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    pub(crate) ifindex: u32,
    pub(crate) mtu: u32,
    pub(crate) has_no_frames: bool,
    /// VID of a VLAN sub-interface that XDP serves.
    pub(crate) vlan: Option<u16>,
    /// XDP may send it frames that lie in several buffers.
    pub(crate) takes_several_buffers: bool,
    /// Link-layer address of the next hop, if it is known.
    pub(crate) neighbour: Option<[u8; 6]>,
    /// Link-layer address of the device.
    pub(crate) own: [u8; 6],
}

/// A route.
pub(super) struct Route {
    length: u8,
    pub(super) does: Does,
    pub(super) counter: u32,
    pub(super) of_node: bool,
    pub(super) of_object: bool,
    pub(super) of_operator: bool,
}

impl Route {
    pub(super) fn is_default(&self) -> bool {
        self.length == 0
    }
}

impl Tables<'_> {
    /// Every prefix is looked at; the longest that holds the address wins (RFC 1812 section
    /// 5.2.4.3).
    pub(super) fn longest_match(&self, version: u8, address: u128) -> Option<Route> {
        let bits: u32 = if version == 6 { 128 } else { 32 };
        let mut best: Option<(u8, usize)> = None;
        for (at, ((network, length), _)) in self.0.fib.iter().enumerate() {
            if network.len() * 8 != bits as usize {
                continue;
            }
            let network = network
                .iter()
                .fold(0_u128, |number, byte| number * 256 + u128::from(*byte));
            let host_bits = bits - u32::from(*length);
            let same = |a: u128| a.checked_shr(host_bits).unwrap_or(0);
            if same(network) == same(address) && best.is_none_or(|(longest, _)| *length > longest) {
                best = Some((*length, at));
            }
        }
        let (length, at) = best?;
        let entry = &self.0.fib[at].1;
        let action = |action: Action| entry.action == action as u8;
        let origin = |origin: Origin| entry.origin == origin as u8;
        let does = if action(Action::Forward) {
            Does::Forward(self.device(entry.next_hop))
        } else if action(Action::Local) {
            Does::IsThisNode
        } else if action(Action::Connected) {
            Does::IsOnLink(self.device(entry.next_hop))
        } else if action(Action::Blackhole) {
            Does::Discard
        } else {
            Does::AskKernel
        };
        Some(Route {
            length,
            does,
            counter: entry.counter,
            of_node: origin(Origin::Connected),
            of_object: origin(Origin::Object),
            of_operator: origin(Origin::Static),
        })
    }

    /// The device of a next hop; free ones have none.
    fn device(&self, index: u32) -> Option<Device> {
        let (_, hop) = self.0.next_hops.iter().find(|(found, _)| *found == index)?;
        if hop.ifindex == 0 {
            return None;
        }
        // Bytes 0 to 5 of the word are the address, its highest bit says that it is known.
        let link: Vec<u8> = (0..8).map(|byte| (hop.link >> (8 * byte)) as u8).collect();
        let known = link[7] >= 0x80;
        let port = self.0.ports.iter().find(|(port, _)| *port == hop.ifindex);
        Some(Device {
            ifindex: hop.ifindex,
            vlan: port.map(|(_, port)| port.vlan).filter(|vid| *vid != 0),
            mtu: hop.mtu,
            has_no_frames: hop.flags & NextHop::LAYER3 == NextHop::LAYER3,
            takes_several_buffers: port
                .is_some_and(|(_, port)| port.flags & Port::SEVERAL_BUFFERS != 0),
            neighbour: known.then(|| [link[0], link[1], link[2], link[3], link[4], link[5]]),
            own: hop.source_mac,
        })
    }

    /// What a port's own list says of an address: that of the longest prefix.
    pub(super) fn listed(&self, port: u32, version: u8, address: u128) -> Option<bool> {
        let bits: u32 = if version == 6 { 128 } else { 32 };
        let mut best: Option<(u8, bool)> = None;
        for ((of, (network, length)), said) in &self.0.martians {
            if *of != port || network.len() * 8 != bits as usize {
                continue;
            }
            let first = network
                .iter()
                .fold(0_u128, |number, byte| number * 256 + u128::from(*byte));
            let size = 1_u128.checked_shl(bits - u32::from(*length));
            let inside = size.is_none_or(|size| address >= first && address - first < size);
            if inside && best.is_none_or(|(longest, _)| *length > longest) {
                best = Some((*length, *said));
            }
        }
        best.map(|(_, said)| said)
    }

    /// A port that faces the outside.
    pub(super) fn is_outer_edge(&self, ifindex: u32) -> bool {
        let mut found = self.0.ports.iter().filter(|(index, _)| *index == ifindex);
        found.any(|(_, port)| port.flags & Port::EXTERNAL == Port::EXTERNAL)
    }
}
