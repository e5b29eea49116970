//! The fixed IP headers: read, validated, and turned into what the decision needs.

use crate::checksum;
use crate::class::Address;
use crate::verdict::{DropReason, PuntReason, Refusal};
use crate::view::{Ingress, PacketView};
use crate::vlan::{self, TAG, TOO_DEEP, VID};

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// Length of the shortest frame, without its check sequence (IEEE 802.3; `ETH_ZLEN`).
pub const SHORTEST_FRAME: usize = 60;

/// Offset of the EtherType in an Ethernet header, and of the tag in a tagged one.
pub(crate) const TAG_OFFSET: usize = ETHERNET - 2;

/// EtherTypes (IEEE 802 numbers).
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
pub(crate) const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IP protocol numbers the forwarding decision knows.
const HOP_BY_HOP: u8 = 0;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv6.
    V6,
    /// IPv4.
    V4,
}

impl Family {
    /// The EtherType.
    #[must_use]
    pub const fn ethertype(self) -> u16 {
        match self {
            Self::V6 => ETHERTYPE_IPV6,
            Self::V4 => ETHERTYPE_IPV4,
        }
    }

    /// Offset of the hop limit or TTL in the IP header.
    #[must_use]
    pub const fn hop_limit_offset(self) -> usize {
        match self {
            Self::V6 => 7,
            Self::V4 => 8,
        }
    }
}

/// What the decision needs of an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// IP version.
    pub family: Family,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Hop limit or TTL as received.
    pub hop_limit: u8,
    /// Why the packet is the kernel's, once its source is believed.
    pub oddity: Oddity,
    /// Length of the IP packet in bytes, header included.
    pub length: u32,
    /// What the packet is on the wire.
    pub wire: Wire,
    /// IPv4: the checksum after the TTL went down by one.
    pub next_checksum: u16,
}

/// What makes a packet the kernel's although it may be forwarded: its source has to be believed
/// like any other's, and only its addresses are sure. A number, not an enum: the verifier refuses
/// what compilers make of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oddity(u8);

impl Oddity {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A hop-by-hop header or IPv4 options.
    pub const OPTIONS: Self = Self(1);
    /// A GSO packet whose length is not its own.
    pub const LENGTH: Self = Self(2);

    /// The reason to punt.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self, family: Family) -> Option<PuntReason> {
        match (self, family) {
            (Self::NONE, _) => None,
            (Self::OPTIONS, Family::V6) => Some(PuntReason::HopByHop),
            (Self::OPTIONS, Family::V4) => Some(PuntReason::Ipv4Options),
            _ => Some(PuntReason::Malformed),
        }
    }
}

/// What a packet is on the wire: itself, or the segments of a GSO packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Packets.
    pub packets: u32,
    /// IP bytes of all of them: the headers count once per segment.
    pub bytes: u64,
    /// IP length of the largest.
    pub largest: u32,
}

impl Wire {
    /// A packet that is sent as it is.
    const fn one(length: usize) -> Self {
        Self {
            packets: 1,
            bytes: length as u64,
            largest: length as u32,
        }
    }

    /// No packet at all is one whose length is not its own.
    #[inline(always)]
    const fn oddity(&self) -> Oddity {
        if self.packets == 0 {
            Oddity::LENGTH
        } else {
            Oddity::NONE
        }
    }
}

/// Reads the Ethernet header, behind the tag of the port if it has one: where the IP header
/// begins, and its family.
///
/// Where sources are checked it looks behind priority tags too, which the kernel takes off
/// whatever their number (`__netif_receive_skb_core`): see [`is_hidden`].
///
/// # Errors
/// The reason why the frame is the kernel's, or nobody's.
#[inline(always)]
pub fn ethernet<P: PacketView>(packet: &P, ingress: &Ingress) -> Result<(usize, Family), Refusal> {
    // Before the address: the port it was for is not known.
    if ingress.port.vlan == TOO_DEEP {
        return Err(DropReason::SourceInvalid.into());
    }
    let mut ethertype = packet.pair(TAG_OFFSET).ok_or(PuntReason::Malformed)?;
    let [first] = packet.words(0).ok_or(PuntReason::Malformed)?;
    if first >> 16 != ingress.port.station() {
        return Err(PuntReason::NotForUs.into());
    }
    if let Some((_, control)) = packet.tag_beside()
        && (!ingress.port.is_checked() || control & VID != 0)
    {
        return Err(PuntReason::Vlan.into());
    }
    let mut offset = ETHERNET;
    if P::TAG_IN_DATA && ingress.tagged {
        ethertype = packet.pair(ETHERNET + 2).ok_or(PuntReason::Malformed)?;
        offset += TAG;
    }
    match ethertype {
        ETHERTYPE_IPV6 => Ok((offset, Family::V6)),
        ETHERTYPE_IPV4 => Ok((offset, Family::V4)),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ if ingress.port.is_checked() => {
            behind(packet.walk(P::TAG_IN_DATA && ingress.tagged))
        }
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Err(PuntReason::Vlan.into()),
        _ => Err(PuntReason::NotIp.into()),
    }
}

/// What [`vlan::walk`] has found.
#[inline(always)]
fn behind(walked: u32) -> Result<(usize, Family), Refusal> {
    // Bounds that a verifier can see, and that tell it this from a frame that is not hidden.
    let offset = vlan::BEHIND_FIRST + ((walked >> 16) as usize & 0x1f);
    match walked as u16 {
        ETHERTYPE_IPV6 => Ok((offset, Family::V6)),
        ETHERTYPE_IPV4 => Ok((offset, Family::V4)),
        // The kernel would look on, and believe what it finds.
        vlan::MORE_TAGS => Err(DropReason::SourceInvalid.into()),
        vlan::TOO_SHORT => Err(PuntReason::Malformed.into()),
        vlan::OTHER_VLAN => Err(PuntReason::Vlan.into()),
        _ => Err(PuntReason::NotIp.into()),
    }
}

/// A packet whose IP header begins there stands behind priority tags.
#[inline(always)]
pub fn is_hidden<P: PacketView>(packet: &P, ingress: &Ingress, offset: usize) -> bool {
    let own = if P::TAG_IN_DATA && ingress.tagged {
        TAG
    } else {
        0
    };
    offset > ETHERNET + own || packet.tag_beside().is_some()
}

/// The family of a packet that starts with its IP header.
///
/// # Errors
/// The reason why the packet is the kernel's.
pub fn version<P: PacketView>(packet: &P) -> Result<Family, PuntReason> {
    // The shortest IP header at once: the verifier learns nothing from a check of one byte.
    let [first, ..]: [u8; 20] = packet.load(0).ok_or(PuntReason::Malformed)?;
    match first >> 4 {
        6 => Ok(Family::V6),
        4 => Ok(Family::V4),
        _ => Err(PuntReason::NotIp),
    }
}

/// Reads and validates the IPv6 header at `offset` (RFC 8200 section 3) as the kernel's
/// `ip6_rcv_core` does.
///
/// # Errors
/// The reason why the packet is the kernel's.
#[inline(always)]
pub fn ipv6<P: PacketView>(packet: &P, offset: usize) -> Result<Header, PuntReason> {
    let [first, s0, s1, d0, d1] = packet.words(offset).ok_or(PuntReason::Malformed)?;
    if first >> 60 != 6 {
        return Err(PuntReason::Malformed);
    }
    let (next_header, hop_limit) = ((first >> 8) as u8, first as u8);
    // Router alert, jumbo payload and the temporary header of BIG TCP all live here: then the
    // payload length need not be what it seems.
    let options = next_header == HOP_BY_HOP;
    let length = usize::from((first >> 16) as u16) + 40;
    let available = packet.length().wrapping_sub(offset);
    if !options && length > available {
        return Err(PuntReason::Malformed);
    }
    let wire = on_the_wire(packet, offset, length, 40, next_header);
    Ok(Header {
        family: Family::V6,
        source: Address::V6(s0, s1),
        destination: Address::V6(d0, d1),
        hop_limit,
        oddity: if options {
            Oddity::OPTIONS
        } else {
            wire.oddity()
        },
        length: length as u32,
        wire,
        next_checksum: 0,
    })
}

/// Reads and validates the IPv4 header at `offset` (RFC 791 section 3.1) as the kernel's
/// `ip_rcv_core` does.
///
/// # Errors
/// The reason why the packet is the kernel's.
#[inline(always)]
pub fn ipv4<P: PacketView>(packet: &P, offset: usize) -> Result<Header, PuntReason> {
    let fixed: [u32; 5] = packet.halves(offset).ok_or(PuntReason::Malformed)?;
    let [first, _, third, source, destination] = fixed;
    let header_length = first >> 24 & 0x0f;
    if first >> 28 != 4 || header_length < 5 {
        return Err(PuntReason::Malformed);
    }
    let options = header_length != 5;
    let length = first as u16;
    let (ttl, protocol) = ((third >> 24) as u8, (third >> 16) as u8);
    let available = packet.length().wrapping_sub(offset);
    let is_valid = options || checksum::is_valid(&fixed);
    if (length as usize) < 20 || length as usize > available || !is_valid {
        return Err(PuntReason::Malformed);
    }
    let wire = on_the_wire(packet, offset, length as usize, 20, protocol);
    let old = (third >> 16) as u16;
    let new = old.wrapping_sub(1 << 8);
    Ok(Header {
        family: Family::V4,
        source: Address::V4(source),
        destination: Address::V4(destination),
        hop_limit: ttl,
        oddity: if options {
            Oddity::OPTIONS
        } else {
            wire.oddity()
        },
        length: u32::from(length),
        wire,
        next_checksum: checksum::update(third as u16, old, new),
    })
}

/// Every segment of a GSO packet repeats the IP header of `fixed` bytes and the transport header
/// behind it. GRO sets the length to the packet's own, or to zero where it has no room for it
/// (BIG TCP): a packet with another length is told by no packets.
#[inline(always)]
fn on_the_wire<P: PacketView>(
    packet: &P,
    offset: usize,
    length: usize,
    fixed: u32,
    protocol: u8,
) -> Wire {
    let size = packet.segment_size();
    if size == 0 {
        return Wire::one(length);
    }
    if length != packet.length().wrapping_sub(offset) {
        return Wire {
            packets: 0,
            bytes: 0,
            largest: 0,
        };
    }
    let behind = offset.wrapping_add(fixed as usize);
    let transport = match protocol {
        TCP => packet
            .load::<1>(behind + 12)
            .map_or(0, |[data_offset]| u32::from(data_offset >> 4) * 4),
        UDP => 8,
        _ => 0,
    };
    let repeated = fixed + transport;
    let packets = match packet.segments() {
        0 => (length as u32)
            .saturating_sub(repeated)
            .div_ceil(size)
            .max(1),
        counted => counted,
    };
    let repetitions = u64::from(packets.wrapping_sub(1));
    Wire {
        packets,
        bytes: length as u64 + repetitions * u64::from(repeated),
        largest: repeated.saturating_add(size).min(length as u32),
    }
}
