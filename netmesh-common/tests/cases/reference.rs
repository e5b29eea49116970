//! The library as a host: the slow, obvious longest-prefix table and a packet in a vector.

use std::net::IpAddr;

use netmesh_common::class::Address;
use netmesh_common::decide::decide;
use netmesh_common::group::Group;
use netmesh_common::header::ETHERNET;
use netmesh_common::rewrite::{PacketEdit, prepare, rewrite};
use netmesh_common::table::{FibEntry, MARTIAN_SCOPE, NextHop, Port, martian_key};
use netmesh_common::verdict::{DropReason, PuntReason, Stations, Verdict};
use netmesh_common::view::{Ingress, PacketView, TableView};
use netmesh_common::vlan;

use super::{Count, Input, Outcome, lab};

/// A prefix: network bytes and length.
pub(crate) type Prefix = (Vec<u8>, u8);

/// Tables as lists, searched from end to end.
#[derive(Default)]
pub(crate) struct Router {
    /// Both families; the length of the network bytes tells them apart.
    pub(crate) fib: Vec<(Prefix, FibEntry)>,
    /// By index.
    pub(crate) next_hops: Vec<(u32, NextHop)>,
    /// By index.
    pub(crate) groups: Vec<(u32, Group)>,
    /// By interface index.
    pub(crate) ports: Vec<(u32, Port)>,
    /// VLAN sub-interfaces by device and VID.
    pub(crate) vlans: Vec<((u32, u16), u32)>,
    /// What ports say themselves of prefixes, by interface index.
    pub(crate) martians: Vec<((u32, Prefix), bool)>,
}

impl TableView for Router {
    fn lookup(&self, address: &Address) -> Option<FibEntry> {
        self.fib
            .iter()
            .filter(|(prefix, _)| holds(prefix, address))
            .max_by_key(|((_, length), _)| *length)
            .map(|(_, entry)| *entry)
    }

    fn next_hop(&self, index: u32) -> Option<NextHop> {
        // The kernel's map is an array: a free slot is all zero.
        let found = self.next_hops.iter().find(|(id, _)| *id == index);
        Some(found.map_or_else(NextHop::default, |(_, hop)| *hop))
    }

    fn group(&self, index: u32) -> Option<&Group> {
        let found = self.groups.iter().find(|(id, _)| *id == index);
        found.map(|(_, group)| group)
    }

    fn port(&self, ifindex: u32) -> Option<Port> {
        let found = self.ports.iter().find(|(id, _)| *id == ifindex);
        found.map(|(_, port)| *port)
    }

    fn martian(&self, ifindex: u32, address: &Address) -> Option<bool> {
        self.martians
            .iter()
            .filter(|((port, prefix), _)| *port == ifindex && holds(prefix, address))
            .max_by_key(|((_, (_, length)), _)| *length)
            .map(|(_, said)| *said)
    }

    fn sub_interface(&self, device: u32, vid: u16) -> Option<u32> {
        let found = self.vlans.iter().find(|(key, _)| *key == (device, vid));
        found.map(|(_, ifindex)| *ifindex)
    }
}

fn holds((network, length): &Prefix, address: &Address) -> bool {
    let address = match IpAddr::from(*address) {
        IpAddr::V6(a) => a.octets().to_vec(),
        IpAddr::V4(a) => a.octets().to_vec(),
    };
    network.len() == address.len()
        && (0..usize::from(*length)).all(|n| bit(network, n) == bit(&address, n))
}

/// Length and data of a prefix in the kernel's map of what ports say of martians.
pub(crate) fn said_of(port: u32, (network, length): &Prefix) -> (u32, [u32; 6]) {
    let address = match *network.as_slice() {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(<[u8; 16]>::try_from(network.as_slice()).unwrap()),
    };
    let length = MARTIAN_SCOPE + u32::from(*length);
    (length, martian_key(port, &address.into()))
}

fn bit(bytes: &[u8], n: usize) -> bool {
    bytes[n / 8] & (0x80 >> (n % 8)) != 0
}

/// Which hook a host stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Frames only, to ports only, never shorter than Ethernet's least.
    Xdp,
    /// Any packet to any device.
    Tc,
}

/// The packet of either hook: where a tag is found is known when the host is compiled.
struct Packet<const XDP: bool>(Input);

impl<const XDP: bool> PacketView for Packet<XDP> {
    const TAG_IN_DATA: bool = XDP;

    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let bytes = self.0.bytes.get(offset..offset + N)?;
        Some(bytes.try_into().unwrap())
    }

    fn length(&self) -> usize {
        self.0.bytes.len()
    }

    fn tag_beside(&self) -> Option<(u16, u16)> {
        self.0.tag.filter(|_| !XDP)
    }

    fn segment_size(&self) -> u32 {
        self.0.segment_size
    }

    fn segments(&self) -> u32 {
        self.0.segments
    }
}

impl<const XDP: bool> PacketEdit for Packet<XDP> {
    const FRAMES_ONLY: bool = XDP;

    fn trim(&mut self, length: usize, least: usize) -> Option<()> {
        self.0
            .bytes
            .truncate(if XDP { length.max(least) } else { length });
        Some(())
    }

    fn resize_header(&mut self, from: usize, to: usize) -> Option<()> {
        // In TC a header is made where there is none, and no tag is ever in the data.
        assert!(XDP || from == to || (from, to) == (0, ETHERNET));
        self.0.bytes.splice(0..from, vec![0; to]);
        Some(())
    }

    fn store_ethernet(&mut self, stations: Stations, ethertype: u16) -> Option<()> {
        self.store_ip(0, stations.bytes())?;
        self.store_ip(12, ethertype.to_be_bytes())
    }

    fn store_ip<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let place = self.0.bytes.get_mut(offset..offset + N)?;
        place.copy_from_slice(&bytes);
        Some(())
    }
}

/// Bytes of a frame that lie in one buffer in a test run (`bpf_prog_test_run_xdp`): a page without
/// `XDP_PACKET_HEADROOM` and `skb_shared_info`.
const ONE_BUFFER: usize = 4096 - 256 - 320;

/// What the library makes of a packet that comes in at the lab's ingress.
pub(crate) fn run(router: &Router, flags: u32, input: &Input, hook: Hook) -> Outcome {
    match hook {
        Hook::Xdp => run_as::<true>(router, flags, input),
        Hook::Tc => run_as::<false>(router, flags, input),
    }
}

/// Slot of the port that such a packet is counted on.
pub(crate) fn slot(router: &Router, input: &Input, hook: Hook) -> Option<u32> {
    let mut ingress = Ingress::new(hook == Hook::Xdp);
    let input = input.clone();
    let ours = match hook {
        Hook::Xdp => vlan::arrive(&Packet::<true>(input), lab::INGRESS, router, &mut ingress),
        Hook::Tc => vlan::arrive(&Packet::<false>(input), lab::INGRESS, router, &mut ingress),
    };
    ours.then_some(ingress.port.slot)
}

fn run_as<const XDP: bool>(router: &Router, flags: u32, input: &Input) -> Outcome {
    let mut packet = Packet::<XDP>(input.clone());
    let mut ingress = Ingress::new(XDP);
    if !vlan::arrive(&packet, lab::INGRESS, router, &mut ingress) {
        return Outcome::NotOurs;
    }
    // A frame with more tags than are looked behind is told by the VID.
    let own = Port {
        vlan: 0,
        ..ingress.port
    };
    assert!(ingress.tagged || own == lab::ingress(flags));
    let before = input.bytes.clone();
    let verdict = decide(&packet, &ingress, router);
    assert_eq!(packet.0.bytes, before, "the decision reads only");
    match verdict {
        Verdict::Punt(reason) => Outcome::Punt(reason),
        Verdict::Drop(reason) => Outcome::Drop(reason),
        Verdict::Forward(forward) => {
            let is_taken = before.len() <= ONE_BUFFER
                || router
                    .port(forward.ifindex)
                    .is_some_and(|port| port.flags & Port::SEVERAL_BUFFERS != 0);
            let is_port = lab::TX.iter().any(|(port, _)| *port == forward.ifindex);
            if XDP && !(is_port && is_taken) {
                return Outcome::Punt(PuntReason::EgressNotAPort);
            }
            if prepare(&mut packet, &forward).is_none() {
                return Outcome::Punt(PuntReason::Malformed);
            }
            if rewrite(&mut packet, &forward).is_none() {
                return Outcome::Drop(DropReason::RewriteFailed);
            }
            let count = |counter| Count {
                counter,
                packets: u64::from(forward.packets),
                bytes: forward.bytes,
            };
            let counted = forward.from_counter != FibEntry::UNCOUNTED;
            Outcome::Forward {
                ifindex: Some(forward.ifindex),
                bytes: packet.0.bytes,
                to: count(forward.to_counter),
                from: counted.then(|| count(forward.from_counter)),
            }
        }
    }
}
