//! The library as a host: the slow, obvious longest-prefix table and a packet in a vector.

use netmesh_common::class::Address;
use netmesh_common::decide::decide;
use netmesh_common::group::Group;
use netmesh_common::header::ETHERNET;
use netmesh_common::rewrite::{PacketEdit, rewrite};
use netmesh_common::table::{FibEntry, NextHop, Port};
use netmesh_common::verdict::{DropReason, PuntReason, Verdict};
use netmesh_common::view::{Ingress, PacketView, TableView};

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
}

impl TableView for Router {
    fn lookup(&self, address: &Address) -> Option<FibEntry> {
        let address: &[u8] = match address {
            Address::V6(a) => a,
            Address::V4(a) => a,
        };
        self.fib
            .iter()
            .filter(|((network, length), _)| {
                network.len() == address.len()
                    && (0..usize::from(*length)).all(|n| bit(network, n) == bit(address, n))
            })
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
}

fn bit(bytes: &[u8], n: usize) -> bool {
    bytes[n / 8] & (0x80 >> (n % 8)) != 0
}

/// Which hook a host stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Frames only, to ports only, never trimmed.
    Xdp,
    /// Any packet to any device.
    Tc,
}

struct Packet {
    input: Input,
    hook: Hook,
}

impl PacketView for Packet {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let bytes = self.input.bytes.get(offset..offset + N)?;
        Some(bytes.try_into().unwrap())
    }

    fn length(&self) -> usize {
        self.input.bytes.len()
    }

    fn segment_size(&self) -> u32 {
        self.input.segment_size
    }

    fn segments(&self) -> u32 {
        self.input.segments
    }
}

impl PacketEdit for Packet {
    fn trim(&mut self, length: usize) -> Option<()> {
        if self.hook == Hook::Tc {
            self.input.bytes.truncate(length);
        }
        Some(())
    }

    fn push_ethernet(&mut self) -> Option<()> {
        self.input.bytes.splice(0..0, [0; ETHERNET]);
        Some(())
    }

    fn store_ethernet(&mut self, header: [u8; ETHERNET]) -> Option<()> {
        self.store_ip(0, header)
    }

    fn store_ip<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let place = self.input.bytes.get_mut(offset..offset + N)?;
        place.copy_from_slice(&bytes);
        Some(())
    }
}

/// What the library makes of a packet that comes in at the lab's ingress.
pub(crate) fn run(router: &Router, flags: u32, input: &Input, hook: Hook) -> Outcome {
    let mut packet = Packet {
        input: input.clone(),
        hook,
    };
    let ingress = Ingress {
        ifindex: lab::INGRESS,
        port: lab::ingress(flags),
        frames_only: hook == Hook::Xdp,
    };
    let before = input.bytes.clone();
    let verdict = decide(&packet, &ingress, router);
    assert_eq!(packet.input.bytes, before, "the decision reads only");
    match verdict {
        Verdict::Punt(reason) => Outcome::Punt(reason),
        Verdict::Drop(reason) => Outcome::Drop(reason),
        Verdict::Forward(forward) => {
            if hook == Hook::Xdp && !lab::TX.contains(&forward.ifindex) {
                return Outcome::Punt(PuntReason::EgressNotAPort);
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
                bytes: packet.input.bytes,
                to: count(forward.to_counter),
                from: counted.then(|| count(forward.from_counter)),
            }
        }
    }
}
