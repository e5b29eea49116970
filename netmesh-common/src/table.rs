//! Keys and values of the maps that both sides of the kernel border share.
//!
//! ```text
//!  destination ──► FIB6/FIB4 (LPM) ──► FibEntry ──► NEXT_HOPS[id] ──► device, MACs, MTU
//!  source ───────► FIB6/FIB4 (LPM) ──► FibEntry      │ link: one 8-byte store
//!                                        │ counter    ▼
//!                                        ▼        NEIGHBOURS (ifindex, address) ──► id
//!                              PREFIX_COUNTERS[id]     ▲ read by the neighbour follower
//!
//!  FibEntry.next_hop ≥ MAX_NEXT_HOPS ──► GROUPS[id] ──► one of its NEXT_HOPS (see `group`)
//!
//!  device, VID ──► VLANS ──► interface index of the sub-interface ──► PORTS ──► Port
//!
//!  RIB (prefix, origin) ──► RibEntry     user space only: every origin's route; the
//!                                        preferred one of a prefix stands in the FIB
//!  COUNTER_IDS (prefix) ──► id           user space only: identity of a counter
//! ```
//!
//! A look-up asks stage 1 first (see [`lines`](crate::lines)), which answers for most /64s and /24s and
//! counts for them; the tries hold the others, with a tree in front of them (see
//! [`intervals`](crate::intervals)). What was asked for stands in RIB, all of it.
//!
//! A port with a list of its own asks MARTIANS (interface, prefix) for what is one to it.
//!
//! Every type is `repr(C)` without padding. Addresses are network-order byte arrays.

use crate::class::Address;

/// Layout version: part of the pin path. Change it whenever a type below changes, or what a table
/// holds: 5 has in the tries only what stage 1 does not answer, and in INSIDE what that is.
pub const LAYOUT: u32 = 5;

/// Most ports one data plane instance can hold.
pub const MAX_PORTS: u32 = 64;

/// Most prefixes that the ports of one instance can list as martians, or as none.
pub const MAX_MARTIANS: u32 = 4096;

/// Capacity of the next-hop table; id 0 is never used.
pub const MAX_NEXT_HOPS: u32 = 4096;

/// What is done with a packet that matches a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Action {
    /// Forward through the entry's next hop.
    Forward = 1,
    /// The prefix is an address of this node.
    Local = 2,
    /// The prefix is directly connected; the kernel resolves the neighbour.
    Connected = 3,
    /// The kernel answers with ICMP unreachable.
    Unreachable = 4,
    /// The kernel answers with ICMP administratively prohibited.
    Prohibit = 5,
    /// Drop without an answer.
    Blackhole = 6,
    /// Leave it to the kernel.
    Punt = 7,
}

impl Action {
    /// The action of a map value, `None` for a value no version has written.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Forward,
            2 => Self::Local,
            3 => Self::Connected,
            4 => Self::Unreachable,
            5 => Self::Prohibit,
            6 => Self::Blackhole,
            7 => Self::Punt,
            _ => return None,
        })
    }
}

/// Who put a route into the table. A lower number is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Origin {
    /// The node's own addresses and connected subnets, mirrored from the kernel.
    Connected = 1,
    /// A user-network object.
    Object = 2,
    /// `netmesh route add`.
    Static = 3,
    /// A route of the kernel's tables.
    Kernel = 4,
    /// A routing daemon through the forwarding plane manager.
    Fpm = 5,
}

impl Origin {
    /// Every origin, most preferred first.
    pub const ALL: &'static [Self] = &[
        Self::Connected,
        Self::Object,
        Self::Static,
        Self::Kernel,
        Self::Fpm,
    ];

    /// The origin of a map value, `None` for a value no version has written.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Connected,
            2 => Self::Object,
            3 => Self::Static,
            4 => Self::Kernel,
            5 => Self::Fpm,
            _ => return None,
        })
    }
}

/// Value of the FIB maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FibEntry {
    /// Index into the next-hop table, or from [`MAX_NEXT_HOPS`] on of a group; 0 when the action
    /// needs none.
    pub next_hop: u32,
    /// Index into the prefix counters, or a [`SlotCounter`](crate::lines::SlotCounter).
    pub counter: u32,
    /// [`Action`].
    pub action: u8,
    /// Length of the prefix that holds this entry.
    pub prefix_length: u8,
    /// [`Origin`].
    pub origin: u8,
    /// Reserved, zero.
    pub reserved: [u8; 5],
}

impl FibEntry {
    /// `counter` of a prefix that is not counted by itself.
    pub const UNCOUNTED: u32 = u32::MAX;

    /// What stands for no match: no action, no origin, nothing counted.
    pub const NONE: Self = Self {
        next_hop: 0,
        counter: Self::UNCOUNTED,
        action: 0,
        prefix_length: 0,
        origin: 0,
        reserved: [0; 5],
    };

    const NEXT_HOP: u32 = 13;
    const CODE: u64 = (1 << 5) - 1;

    /// As one word that is never 0, for functions of a program to hand over: they return no more.
    #[inline(always)]
    #[must_use]
    pub const fn word(&self) -> u64 {
        // What no version has written must not look like anything else.
        let next_hop = if self.next_hop >> Self::NEXT_HOP == 0 {
            self.next_hop as u64
        } else {
            (1 << Self::NEXT_HOP) - 1
        };
        Self::varying(self.counter, self.prefix_length)
            | next_hop << 32
            | Self::code(self.action) << 53
            | Self::code(self.origin) << 58
            | 1 << 63
    }

    /// The part of a word in which entries of one class differ.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn varying(counter: u32, prefix_length: u8) -> u64 {
        counter as u64 | (prefix_length as u64) << 45
    }

    #[inline(always)]
    const fn code(value: u8) -> u64 {
        if value as u64 > Self::CODE {
            Self::CODE
        } else {
            value as u64
        }
    }

    /// The entry behind a word; `None` for 0.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        if word == 0 {
            return None;
        }
        Some(Self {
            next_hop: (word >> 32) as u32 & ((1 << Self::NEXT_HOP) - 1),
            counter: word as u32,
            action: (word >> 53 & Self::CODE) as u8,
            prefix_length: (word >> 45) as u8,
            origin: (word >> 58 & Self::CODE) as u8,
            reserved: [0; 5],
        })
    }
}

/// Value of the next-hop table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NextHop {
    /// Destination link-layer address and its state, see [`Link`]. Changed by
    /// the neighbour follower with one aligned 8-byte store.
    pub link: u64,
    /// Interface index of the egress device; 0 marks a free slot.
    pub ifindex: u32,
    /// IP MTU of the egress device in bytes.
    pub mtu: u32,
    /// Source link-layer address: the egress device's own.
    pub source_mac: [u8; 6],
    /// `NextHop::LAYER3`, `NextHop::CONNECTED`, `NextHop::VLAN`, `NextHop::WITHDRAWN`.
    pub flags: u8,
    /// Address family of `address`: 0 (none), 4 or 6.
    pub family: u8,
    /// The next hop's address; IPv4 in the first four bytes.
    pub address: [u8; 16],
}

impl NextHop {
    /// The egress device has no link-layer header.
    pub const LAYER3: u8 = 1;
    /// Stands for a connected subnet: names the device, carries no neighbour.
    pub const CONNECTED: u8 = 2;
    /// The egress device is a VLAN sub-interface.
    pub const VLAN: u8 = 4;
    /// It failed and must prove itself: groups do without it as long as another member is there. Set
    /// and cleared by who watches over it; it names nothing.
    pub const WITHDRAWN: u8 = 8;

    /// Packets are sent to a neighbour, whose link-layer address must be known.
    #[must_use]
    pub const fn has_neighbour(&self) -> bool {
        self.flags & (Self::LAYER3 | Self::CONNECTED) == 0
    }
}

/// The word of a next hop that the neighbour follower owns: bytes 0..6 the
/// link-layer address, bit 63 "resolved".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link(pub u64);

impl Link {
    const RESOLVED: u64 = 1 << 63;

    /// A neighbour whose address is not known.
    pub const UNRESOLVED: Self = Self(0);

    /// A resolved neighbour.
    #[must_use]
    pub const fn resolved(mac: [u8; 6]) -> Self {
        let bytes = [mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0];
        Self(u64::from_le_bytes(bytes) | Self::RESOLVED)
    }

    /// The bytes of the address alone, the first one lowest.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 & ((1 << 48) - 1)
    }

    /// The neighbour's address is known.
    #[inline(always)]
    #[must_use]
    pub const fn is_resolved(self) -> bool {
        self.0 & Self::RESOLVED != 0
    }

    /// The link-layer address, if it is known.
    #[must_use]
    pub const fn mac(self) -> Option<[u8; 6]> {
        if self.0 & Self::RESOLVED == 0 {
            return None;
        }
        let b = self.0.to_le_bytes();
        Some([b[0], b[1], b[2], b[3], b[4], b[5]])
    }
}

/// Key of the map from neighbour to next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct NeighbourKey {
    /// Interface index.
    pub ifindex: u32,
    /// 4 or 6.
    pub family: u32,
    /// The neighbour's address; IPv4 in the first four bytes, the rest zero.
    pub address: [u8; 16],
}

/// Places in the table of ports.
pub const PORT_PLACES: u32 = 256;

/// Places a port may stand at: so few ports as there can be always find one, unless their interface
/// indexes were chosen to collide.
pub const PORT_TRIES: u32 = 4;

/// The places of the port with this interface index, by number of the attempt. An array of our own
/// rather than a hash map: to look into one is part of a program, not a call.
#[inline(always)]
#[must_use]
pub const fn port_place(ifindex: u32, attempt: u32) -> u32 {
    ifindex.wrapping_add(attempt) % PORT_PLACES
}

/// Value of the table of ports. Each of its three words changes by itself; the first one comes last
/// and goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct PortPlace {
    /// Interface index; 0 marks a free place.
    pub ifindex: u32,
    /// Reserved, zero.
    pub reserved: u32,
    /// The port.
    pub port: Port,
}

/// What a program must know of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Port {
    /// Index into the port counters, below [`MAX_PORTS`].
    pub slot: u32,
    /// `Port::LAYER3`, `Port::SOURCES_BEHIND`, `Port::EXTERNAL`, `Port::XDP`,
    /// `Port::SEVERAL_BUFFERS`, `Port::LISTED`.
    pub flags: u32,
    /// The port's own link-layer address.
    pub mac: [u8; 6],
    /// VID of a VLAN sub-interface whose frames XDP takes from, and puts on, the device below it;
    /// 0 for every other port.
    pub vlan: u16,
}

impl Port {
    /// What stands for no port.
    pub const NONE: Self = Self {
        slot: 0,
        flags: 0,
        mac: [0; 6],
        vlan: 0,
    };

    /// The port's own link-layer address as a number.
    #[inline(always)]
    #[must_use]
    pub const fn station(&self) -> u64 {
        let [a, b, c, d, e, f] = self.mac;
        (u32::from_be_bytes([a, b, c, d]) as u64) << 16 | u16::from_be_bytes([e, f]) as u64
    }

    /// Not every source is believed.
    #[inline(always)]
    #[must_use]
    pub const fn is_checked(&self) -> bool {
        self.flags & (Self::SOURCES_BEHIND | Self::EXTERNAL) != 0
    }

    /// Packets start with the IP header (WireGuard, tun).
    pub const LAYER3: u32 = 1;
    /// A source must match a prefix that lives behind this port (BCP 38).
    pub const SOURCES_BEHIND: u32 = 2;
    /// Faces the outside: a source inside a prefix of origin `object`, of this
    /// node, or on a connected subnet that does not face the outside is spoofed
    /// unless it lives behind this very port; martians (RFC 6890, or as the port says) are dropped.
    pub const EXTERNAL: u32 = 4;
    /// Attached by XDP: what passes an XDP program that is there for others is not its own.
    pub const XDP: u32 = 8;
    /// The device that sends for this port takes frames in several buffers from XDP.
    pub const SEVERAL_BUFFERS: u32 = 16;
    /// Some port of this instance, not necessarily this one, says itself what is a martian.
    pub const LISTED: u32 = 32;
}

/// Bits of a [`martian_key`] before the address.
pub const MARTIAN_SCOPE: u32 = 64;

/// Key of the map of what a port itself calls a martian, or does not: interface index, family,
/// address. Interface and family are part of every prefix, so one port's list, and one family's,
/// never answers for another. Words rather than bytes: a program fills them one by one.
#[inline(always)]
#[must_use]
pub const fn martian_key(ifindex: u32, address: &Address) -> [u32; 6] {
    let (upper, lower, family) = address.halves();
    [
        ifindex.to_be(),
        family.to_be(),
        ((upper >> 32) as u32).to_be(),
        (upper as u32).to_be(),
        ((lower >> 32) as u32).to_be(),
        (lower as u32).to_be(),
    ]
}

/// Interface index and address of a [`martian_key`].
#[must_use]
pub const fn martian_of(words: [u32; 6]) -> (u32, Address) {
    let [ifindex, family, one, two, three, four] = words;
    let upper = (u32::from_be(one) as u64) << 32 | u32::from_be(two) as u64;
    let lower = (u32::from_be(three) as u64) << 32 | u32::from_be(four) as u64;
    let address = Address::of_halves(upper, lower, u32::from_be(family));
    (u32::from_be(ifindex), address)
}

/// Key of the map from (device, VID) to the VLAN sub-interface, a device map: the kernel itself
/// removes an entry with its sub-interface. `None` for an interface index that leaves no room.
#[must_use]
pub const fn vlan_key(device: u32, vid: u16) -> Option<u32> {
    if device >= 1 << 20 || vid >= 1 << 12 {
        return None;
    }
    Some(device << 12 | vid as u32)
}

/// The device and the VID of a [`vlan_key`].
#[must_use]
pub const fn vlan_of(key: u32) -> (u32, u16) {
    (key >> 12, (key & 0x0fff) as u16)
}

/// Per-prefix counters; bytes are IP lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PrefixCounters {
    /// Packets forwarded towards the prefix.
    pub to_packets: u64,
    /// Bytes forwarded towards the prefix.
    pub to_bytes: u64,
    /// Packets forwarded whose source lies in the prefix.
    pub from_packets: u64,
    /// Bytes forwarded whose source lies in the prefix.
    pub from_bytes: u64,
}

/// Room for punt and drop reasons in [`PortCounters`].
pub const REASONS: usize = 32;

/// Per-port counters, packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortCounters {
    /// Packets the program saw on this port.
    pub received: u64,
    /// Packets handed to another device.
    pub forwarded: u64,
    /// IP bytes handed to another device.
    pub forwarded_bytes: u64,
    /// Packets of `forwarded` that the other device did not take.
    pub redirect_failed: u64,
    /// By [`PuntReason::index`](crate::verdict::PuntReason::index).
    pub punted: [u64; REASONS],
    /// By [`DropReason::index`](crate::verdict::DropReason::index).
    pub dropped: [u64; REASONS],
}

/// A prefix as a hash key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PrefixKey {
    /// Network address, host bits zero; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// 4 or 6.
    pub family: u8,
    /// Prefix length.
    pub length: u8,
    /// Reserved, zero.
    pub reserved: [u8; 2],
}

/// Key of the RIB: a prefix and who speaks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct RibKey {
    /// The prefix.
    pub prefix: PrefixKey,
    /// [`Origin`].
    pub origin: u8,
    /// Reserved, zero.
    pub reserved: [u8; 3],
}

/// Value of the RIB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RibEntry {
    /// As in [`FibEntry`].
    pub next_hop: u32,
    /// [`Action`].
    pub action: u8,
    /// Reserved, zero.
    pub reserved: [u8; 3],
}

/// What the neighbour follower must know of the running kernel's
/// `struct neighbour`: byte offsets, read from its BTF by the loader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NeighbourLayout {
    /// Inode number of the instance's network namespace (`ns.inum`).
    pub netns: u32,
    /// `neighbour.dev`.
    pub dev: u32,
    /// `net_device.ifindex`.
    pub dev_ifindex: u32,
    /// `net_device.nd_net.net`.
    pub dev_net: u32,
    /// `net.ns.inum`.
    pub net_inum: u32,
    /// `neighbour.nud_state`.
    pub nud_state: u32,
    /// `neighbour.ha`.
    pub ha: u32,
    /// `neighbour.tbl`.
    pub tbl: u32,
    /// `neigh_table.family`.
    pub tbl_family: u32,
    /// `neighbour.primary_key`.
    pub primary_key: u32,
    /// `neighbour.dead`.
    pub dead: u32,
    /// Reserved, zero.
    pub reserved: u32,
}

const _: () = {
    assert!(MAX_NEXT_HOPS + crate::group::MAX_GROUPS < 1 << FibEntry::NEXT_HOP);
    assert!(size_of::<FibEntry>() == 16);
    assert!(size_of::<NextHop>() == 40);
    assert!(size_of::<NeighbourKey>() == 24);
    assert!(size_of::<Port>() == 16);
    assert!(size_of::<PortPlace>() == 24);
    assert!(size_of::<PrefixCounters>() == 32);
    assert!(size_of::<PortCounters>() == 32 + 16 * REASONS);
    assert!(size_of::<PrefixKey>() == 20);
    assert!(size_of::<RibKey>() == 24);
    assert!(size_of::<RibEntry>() == 8);
    assert!(size_of::<NeighbourLayout>() == 48);
};
