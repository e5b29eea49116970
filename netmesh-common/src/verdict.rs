//! What can happen to a packet, and why: the only list of reasons in the project.
//!
//! Counter indexes, names in the CLI and in metrics, and the sentences in the
//! documentation are all generated from this file.

use crate::header::Family;
use crate::table::Link;

/// The outcome of [`decide`](crate::decide::decide()).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Rewrite the packet and hand it to a device.
    Forward(Forward),
    /// Leave the packet untouched to the kernel.
    Punt(PuntReason),
    /// Drop the packet.
    Drop(DropReason),
}

/// A [`Verdict`] whose [`Forward`] lies elsewhere, see
/// [`decide_into`](crate::decide::decide_into()).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Rewrite the packet and hand it to a device.
    Forward,
    /// Leave the packet untouched to the kernel.
    Punt(PuntReason),
    /// Drop the packet.
    Drop(DropReason),
}

/// Every way not to forward; lets `?` carry either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Leave the packet untouched to the kernel.
    Punt(PuntReason),
    /// Drop the packet.
    Drop(DropReason),
}

impl From<PuntReason> for Refusal {
    fn from(reason: PuntReason) -> Self {
        Self::Punt(reason)
    }
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// Everything a host needs to hand a packet over; nothing has been changed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Interface index of the egress device.
    pub ifindex: u32,
    /// The egress device has no link-layer header (WireGuard, tun).
    pub layer3: bool,
    /// Both link-layer addresses; meaningless when `layer3`.
    pub stations: Stations,
    /// VID of the tag that the frame must carry; 0 for none.
    pub vlan: u16,
    /// Offset of the IP header in the packet as it came in: 14, 18 behind a tag, or 0.
    pub offset: u32,
    /// Length of the IP packet in bytes; what follows is link-layer padding.
    pub length: u32,
    /// IP version.
    pub family: Family,
    /// Hop limit or TTL to write.
    pub hop_limit: u8,
    /// IPv4: header checksum to write.
    pub checksum: u16,
    /// Counter of the prefix the destination matched.
    pub to_counter: u32,
    /// Counter of the prefix the source matched; `u32::MAX` when it matched none.
    pub from_counter: u32,
    /// Packets on the wire this one stands for.
    pub packets: u32,
    /// IP bytes on the wire.
    pub bytes: u64,
}

/// Destination and source of an Ethernet header, as the two words that lie there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stations {
    /// The first eight bytes, in memory's order.
    pub first: u64,
    /// The next four.
    pub second: u32,
}

impl Stations {
    /// From a source to a destination.
    #[inline(always)]
    #[must_use]
    pub const fn new(destination: Link, source: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = source;
        let upper = u16::from_le_bytes([a, b]) as u64;
        Self {
            first: u64::from_le(destination.bytes() | upper << 48),
            second: u32::from_ne_bytes([c, d, e, f]),
        }
    }

    /// Their twelve bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 12] {
        let [a, b, c, d, e, f, g, h] = self.first.to_ne_bytes();
        let [i, j, k, l] = self.second.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }
}

impl Forward {
    /// Before a decision.
    pub const EMPTY: Self = Self {
        ifindex: 0,
        layer3: false,
        vlan: 0,
        stations: Stations {
            first: 0,
            second: 0,
        },
        offset: 0,
        length: 0,
        family: Family::V6,
        hop_limit: 0,
        checksum: 0,
        to_counter: 0,
        from_counter: 0,
        packets: 0,
        bytes: 0,
    };
}

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $text:literal])+ $variant:ident = $index:literal, $label:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[doc = $text])+ $variant = $index,)+ }

        impl $name {
            /// Every reason, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Index of the reason in [`PortCounters`](crate::table::PortCounters).
            #[must_use]
            pub const fn index(self) -> u32 { self as u32 }

            /// The reason's name in the CLI, JSON and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => concat!($($text),+),)+ }
            }
        }
    };
}

reasons! {
    /// Why a packet was left to the kernel.
    PuntReason {
        /// The frame is neither IPv6 nor IPv4.
        NotIp = 0, "not_ip";
        /// The frame carries a VLAN tag that leads to no port.
        Vlan = 1, "vlan";
        /// The frame is not addressed to this port's link-layer address.
        NotForUs = 2, "not_for_us";
        /// A header is cut short or contradicts itself.
        Malformed = 3, "malformed";
        /// The hop limit or TTL would reach zero.
        HopLimit = 4, "hop_limit";
        /// The packet is larger than the MTU of its egress.
        TooBig = 5, "too_big";
        /// The destination is an address of this node.
        Local = 6, "local";
        /// The destination is on a directly connected subnet.
        Connected = 7, "connected";
        /// No prefix of the table matches the destination.
        NoRoute = 8, "no_route";
        /// The next hop's link-layer address is not known.
        Unresolved = 9, "unresolved";
        /// A link-local, multicast, unspecified or loopback address, or this node's own as the source.
        Scope = 10, "scope";
        /// Hop-by-hop options need the kernel.
        HopByHop = 11, "hop_by_hop";
        /// IPv4 options need the kernel.
        Ipv4Options = 12, "ipv4_options";
        /// The egress is the ingress; the kernel may send a redirect.
        SamePort = 13, "same_port";
        /// The route's action is punt, or the kernel answers for it (unreachable, prohibit).
        Action = 14, "action";
        /// The ingress interface is not a port of this data plane.
        NotAPort = 15, "not_a_port";
        /// The egress device is not a port of this data plane, or does not take this frame from it.
        EgressNotAPort = 16, "egress_not_a_port";
    }
}

reasons! {
    /// Why a packet was dropped.
    DropReason {
        /// The source address does not live behind the port it came from (BCP 38).
        SourceInvalid = 0, "source_invalid";
        /// A martian source or destination (RFC 6890).
        Martian = 1, "martian";
        /// The route's action is blackhole.
        Blackhole = 2, "blackhole";
        /// The program could not change the packet; a bug or memory pressure.
        RewriteFailed = 3, "rewrite_failed";
    }
}
