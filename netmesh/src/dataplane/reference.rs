//! What a program must do with a frame: the library's decision upon the tables that are there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use netmesh_common::class::Address;
use netmesh_common::decide::decide_into;
use netmesh_common::flow;
use netmesh_common::group::Group;
use netmesh_common::rewrite::{PacketEdit, prepare, rewrite};
use netmesh_common::table::{FibEntry, NextHop, Port as PortEntry, martian_key, vlan_key};
use netmesh_common::verdict::{Forward, Outcome, PuntReason, Stations};
use netmesh_common::view::{Fit, Ingress, PacketView, TableView};
use netmesh_common::vlan;

use super::instance::View;
use super::next_hop;
use super::route::prefix_key;

/// What is to come of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) outcome: Outcome,
    pub(super) frame: Vec<u8>,
}

/// The tables, with the ports that the program on trial knows.
pub(super) struct Tables<'a> {
    pub(super) view: &'a View,
    pub(super) ports: &'a BTreeMap<u32, PortEntry>,
}

impl Tables<'_> {
    /// What a TC program, or an XDP program, does with a frame that comes in through a port; `None`
    /// where it would leave it without counting it.
    pub(super) fn expect(&self, ifindex: u32, frame: &[u8], is_tc: bool) -> Option<Expected> {
        if is_tc {
            self.carry_out::<false>(ifindex, frame)
        } else {
            self.carry_out::<true>(ifindex, frame)
        }
    }

    fn carry_out<const XDP: bool>(&self, ifindex: u32, frame: &[u8]) -> Option<Expected> {
        let mut frame = Frame::<XDP>(frame.to_vec());
        let mut ingress = Ingress::new(XDP);
        if !vlan::arrive(&frame, ifindex, self, &mut ingress) {
            return None;
        }
        let mut forward = Forward::EMPTY;
        let mut outcome = decide_into(&frame, &ingress, self, &mut forward);
        if outcome == Outcome::Forward {
            if XDP && !self.sends(forward.ifindex) {
                outcome = Outcome::Punt(PuntReason::EgressNotAPort);
            } else {
                prepare(&mut frame, &forward).and_then(|()| rewrite(&mut frame, &forward))?;
            }
        }
        Some(Expected {
            outcome,
            frame: frame.0,
        })
    }

    /// XDP may send through this port.
    fn sends(&self, ifindex: u32) -> bool {
        let mut keys = self.view.maps.tx.keys();
        keys.any(|key| key.is_ok_and(|key| key == ifindex))
    }

    fn group(&self, id: u32) -> Option<Group> {
        self.view.maps.groups.get(&id, 0).ok()
    }
}

/// What cannot be read is not there, and what comes of that is no more than a trial that fails.
impl TableView for Tables<'_> {
    fn lookup(&self, address: &Address) -> Option<FibEntry> {
        let whole = IpNet::from(IpAddr::from(*address));
        self.view.read_fib(&prefix_key(whole)).ok().flatten()
    }

    fn next_hop(&self, index: u32) -> Option<NextHop> {
        next_hop::get(&self.view.maps, index).ok()
    }

    fn leads_to(&self, group: u32, ifindex: u32) -> bool {
        Tables::group(self, group).is_some_and(|group| group.leads_to(ifindex))
    }

    fn choose(&self, group: u32, hash: u64) -> Option<u32> {
        let group = Tables::group(self, group)?;
        Some(group.choose(flow::seeded(hash, group.seed), self))
    }

    fn port(&self, ifindex: u32) -> Option<PortEntry> {
        self.ports.get(&ifindex).copied()
    }

    fn martian(&self, ifindex: u32, address: &Address) -> Option<bool> {
        let key = Key::new(u32::BITS * 6, martian_key(ifindex, address));
        let said = self.view.maps.martians.get(&key, 0).ok()?;
        Some(said != 0)
    }

    fn sub_interface(&self, device: u32, vid: u16) -> Option<u32> {
        let port = self.view.maps.vlans.get(vlan_key(device, vid)?, 0).ok()?;
        Some(port.if_index)
    }
}

/// A frame in this process's memory.
struct Frame<const XDP: bool>(Vec<u8>);

impl<const XDP: bool> PacketView for Frame<XDP> {
    const TAG_IN_DATA: bool = XDP;

    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let end = offset.checked_add(N)?;
        self.0.get(offset..end)?.try_into().ok()
    }

    fn length(&self) -> usize {
        self.0.len()
    }

    fn fits(&self, ifindex: u32, length: u32, mtu: u32) -> Fit {
        if length > mtu {
            Fit::TooBig
        } else if !XDP && nix::net::if_::if_indextoname(ifindex).is_err() {
            Fit::Gone
        } else {
            Fit::Fits
        }
    }
}

impl<const XDP: bool> PacketEdit for Frame<XDP> {
    const FRAMES_ONLY: bool = XDP;

    fn trim(&mut self, length: usize, least: usize) -> Option<()> {
        let least = if XDP { least } else { 0 };
        self.0.truncate(length.max(least));
        Some(())
    }

    fn resize_header(&mut self, from: usize, to: usize) -> Option<()> {
        let header = self.0.get(..from).map(|_| vec![0; to])?;
        self.0.splice(..from, header);
        Some(())
    }

    fn store_ethernet(&mut self, stations: Stations, ethertype: u16) -> Option<()> {
        self.store_ip(0, stations.bytes())?;
        self.store_ip(12, ethertype.to_be_bytes())
    }

    fn store_ip<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let end = offset.checked_add(N)?;
        self.0.get_mut(offset..end)?.copy_from_slice(&bytes);
        Some(())
    }
}
