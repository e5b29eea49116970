//! The border between the decision and its hosts: what a packet and a table must be able to do.

use crate::class::Address;
use crate::table::{FibEntry, NextHop, Port};

/// A packet as its host sees it.
pub trait PacketView {
    /// Copies `N` bytes from `offset`; `None` when the packet is shorter.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Length of the whole frame in bytes, from offset 0.
    fn length(&self) -> usize;

    /// A VLAN tag was taken off the frame and kept beside it (TC).
    fn has_vlan_tag(&self) -> bool {
        false
    }

    /// Payload bytes of each segment of a GSO packet; 0 for a packet that is sent as it is (TC).
    fn segment_size(&self) -> u32 {
        0
    }

    /// Segments of a GSO packet; 0 when its sender has not counted them (tun, virtio).
    fn segments(&self) -> u32 {
        0
    }

    /// The packet leaves `ifindex` without being too big: `length` is its IP length, or that of
    /// the largest segment, `mtu` the device's. A host may know better of a GSO packet.
    fn fits(&self, _ifindex: u32, length: u32, mtu: u32) -> bool {
        length <= mtu
    }
}

/// The tables as the host sees them.
pub trait TableView {
    /// Longest match for an address.
    fn lookup(&self, address: &Address) -> Option<FibEntry>;

    /// The same for the source of a packet: its other counters are wanted next.
    fn lookup_source(&self, address: &Address) -> Option<FibEntry> {
        self.lookup(address)
    }

    /// The next hop with this index.
    fn next_hop(&self, index: u32) -> Option<NextHop>;

    /// The port with this interface index.
    fn port(&self, ifindex: u32) -> Option<Port>;
}

/// Where a packet came in, and through which kind of hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Interface index.
    pub ifindex: u32,
    /// The port's entry.
    pub port: Port,
    /// The hook cannot hand a packet to a device without a link-layer header, nor to one that
    /// is not a port (XDP).
    pub frames_only: bool,
}
