//! The border between the decision and its hosts: what a packet and a table must be able to do.

use crate::class::Address;
use crate::flow;
use crate::group::Group;
use crate::table::{FibEntry, NextHop, Port};
use crate::vlan;

/// Whether a packet can leave through a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// As it is, or in its segments.
    Fits,
    /// Larger than the device's MTU.
    TooBig,
    /// There is no such device any more.
    Gone,
}

/// A packet as its host sees it.
pub trait PacketView {
    /// Copies `N` bytes from `offset`; `None` when the packet is shorter.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Words of 8 bytes from `offset`, network order; `None` when the packet is shorter. A host in the
    /// kernel has to say how to load them at once, wherever they lie, as the next two.
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        let mut words = [0; N];
        for (n, word) in words.iter_mut().enumerate() {
            *word = u64::from_be_bytes(self.load(offset + 8 * n)?);
        }
        Some(words)
    }

    /// Words of 4 bytes.
    #[inline(always)]
    fn halves<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let mut words = [0; N];
        for (n, word) in words.iter_mut().enumerate() {
            *word = u32::from_be_bytes(self.load(offset + 4 * n)?);
        }
        Some(words)
    }

    /// Two bytes.
    #[inline(always)]
    fn pair(&self, offset: usize) -> Option<u16> {
        self.load(offset).map(u16::from_be_bytes)
    }

    /// [`vlan::walk`], for a host to give it a stack of its own: that of a program is full.
    fn walk(&self, own: bool) -> u32
    where
        Self: Sized,
    {
        vlan::walk(self, own)
    }

    /// [`vlan::vid_behind`], likewise.
    fn vid_behind(&self) -> u16
    where
        Self: Sized,
    {
        vlan::vid_behind(self)
    }

    /// Length of the whole frame in bytes, from offset 0.
    fn length(&self) -> usize;

    /// The outermost VLAN tag lies in the frame (XDP); otherwise it is kept beside it (TC: the
    /// kernel has taken it off, `skb_vlan_untag`).
    const TAG_IN_DATA: bool = true;

    /// The tag that is kept beside the frame: EtherType, control information.
    fn tag_beside(&self) -> Option<(u16, u16)> {
        None
    }

    /// Payload bytes of each segment of a GSO packet; 0 for a packet that is sent as it is (TC).
    fn segment_size(&self) -> u32 {
        0
    }

    /// Segments of a GSO packet; 0 when its sender has not counted them (tun, virtio).
    fn segments(&self) -> u32 {
        0
    }

    /// Whether the packet can leave `ifindex`: `length` is its IP length, or that of the largest
    /// segment, `mtu` the device's as the table has it. A host may know better.
    fn fits(&self, _ifindex: u32, length: u32, mtu: u32) -> Fit {
        if length <= mtu {
            Fit::Fits
        } else {
            Fit::TooBig
        }
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

    /// The group of next hops with this index.
    fn group(&self, _index: u32) -> Option<&Group> {
        None
    }

    /// [`Group::leads_to`]; for a host to call it out of line, as the next four.
    fn leads_to(&self, group: u32, ifindex: u32) -> bool {
        self.group(group)
            .is_some_and(|group| group.leads_to(ifindex))
    }

    /// [`Group::choose`] for an unseeded hash; `None` where there is no such group.
    fn choose(&self, group: u32, hash: u64) -> Option<u32>
    where
        Self: Sized,
    {
        let group = self.group(group)?;
        Some(group.choose(flow::seeded(hash, group.seed), self))
    }

    /// [`Address::is_kernel_only`].
    fn is_kernel_only(&self, address: &Address) -> bool {
        address.is_kernel_only()
    }

    /// [`Address::is_nobodys`].
    fn is_nobodys(&self, address: &Address) -> bool {
        address.is_nobodys()
    }

    /// [`Address::is_martian`].
    fn is_martian(&self, address: &Address) -> bool {
        address.is_martian()
    }

    /// The port with this interface index.
    fn port(&self, ifindex: u32) -> Option<Port>;

    /// What a port itself says of an address: a martian, none, or nothing. Asked only where
    /// [`Port::LISTED`] is set.
    fn martian(&self, _ifindex: u32, _address: &Address) -> Option<bool> {
        None
    }

    /// Interface index of the VLAN sub-interface of a device.
    fn sub_interface(&self, device: u32, vid: u16) -> Option<u32>;
}

/// Where a packet came in, and through which kind of hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Interface index of the port.
    pub ifindex: u32,
    /// The port's entry.
    pub port: Port,
    /// The port is a VLAN sub-interface and the frame still carries its tag.
    pub tagged: bool,
    /// The hook cannot hand a packet to a device without a link-layer header, nor to one that
    /// is not a port (XDP).
    pub frames_only: bool,
}

impl Ingress {
    /// Before it is known which port it is.
    #[must_use]
    pub const fn new(frames_only: bool) -> Self {
        Self {
            ifindex: 0,
            port: Port::NONE,
            tagged: false,
            frames_only,
        }
    }
}
