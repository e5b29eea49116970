//! The fixed IP headers: read, validated, and turned into what the decision needs.

use crate::checksum;
use crate::class::Address;
use crate::verdict::PuntReason;
use crate::view::PacketView;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// EtherTypes (IEEE 802 numbers).
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// IP protocol numbers the forwarding decision knows.
const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const NO_NEXT_HEADER: u8 = 59;

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
    /// Length of the IP packet in bytes, header included.
    pub length: u32,
    /// Length of the IP header plus that of a TCP or UDP header behind it, where there is one:
    /// what every segment of a GSO packet repeats.
    pub repeated: u32,
    /// IPv4: the checksum after the TTL went down by one.
    pub next_checksum: u16,
}

/// Reads the Ethernet header: the family of what follows it.
///
/// # Errors
/// The reason why the frame is the kernel's.
pub fn ethernet<P: PacketView>(packet: &P, mac: [u8; 6]) -> Result<Family, PuntReason> {
    let header: [u8; ETHERNET] = packet.load(0).ok_or(PuntReason::Malformed)?;
    let [d0, d1, d2, d3, d4, d5, _, _, _, _, _, _, t0, t1] = header;
    if [d0, d1, d2, d3, d4, d5] != mac {
        return Err(PuntReason::NotForUs);
    }
    if packet.has_vlan_tag() {
        return Err(PuntReason::Vlan);
    }
    match u16::from_be_bytes([t0, t1]) {
        ETHERTYPE_IPV6 => Ok(Family::V6),
        ETHERTYPE_IPV4 => Ok(Family::V4),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Err(PuntReason::Vlan),
        _ => Err(PuntReason::NotIp),
    }
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

/// Reads and validates the IP header at `offset`.
///
/// # Errors
/// The reason why the packet is the kernel's.
pub fn ip<P: PacketView>(packet: &P, offset: usize, family: Family) -> Result<Header, PuntReason> {
    match family {
        Family::V6 => ipv6(packet, offset),
        Family::V4 => ipv4(packet, offset),
    }
}

/// RFC 8200 section 3; the checks of the kernel's `ip6_rcv_core`.
fn ipv6<P: PacketView>(packet: &P, offset: usize) -> Result<Header, PuntReason> {
    let fixed: [u8; 40] = packet.load(offset).ok_or(PuntReason::Malformed)?;
    let [
        version,
        _,
        _,
        _,
        l0,
        l1,
        next_header,
        hop_limit,
        s0,
        s1,
        s2,
        s3,
        s4,
        s5,
        s6,
        s7,
        s8,
        s9,
        s10,
        s11,
        s12,
        s13,
        s14,
        s15,
        d0,
        d1,
        d2,
        d3,
        d4,
        d5,
        d6,
        d7,
        d8,
        d9,
        d10,
        d11,
        d12,
        d13,
        d14,
        d15,
    ] = fixed;
    if version >> 4 != 6 {
        return Err(PuntReason::Malformed);
    }
    // Router alert, jumbo payload and the temporary header of BIG TCP all live here.
    if next_header == HOP_BY_HOP {
        return Err(PuntReason::HopByHop);
    }
    let payload = u16::from_be_bytes([l0, l1]);
    let length = payload as usize + 40;
    let available = packet.length().wrapping_sub(offset);
    if length > available || (payload == 0 && next_header != NO_NEXT_HEADER) {
        return Err(PuntReason::Malformed);
    }
    Ok(Header {
        family: Family::V6,
        source: Address::V6([
            s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15,
        ]),
        destination: Address::V6([
            d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13, d14, d15,
        ]),
        hop_limit,
        length: length as u32,
        repeated: 40 + transport(packet, offset + 40, next_header),
        next_checksum: 0,
    })
}

/// RFC 791 section 3.1; the checks of the kernel's `ip_rcv_core`.
fn ipv4<P: PacketView>(packet: &P, offset: usize) -> Result<Header, PuntReason> {
    let fixed: [u8; 20] = packet.load(offset).ok_or(PuntReason::Malformed)?;
    let [
        version,
        _,
        l0,
        l1,
        _,
        _,
        _,
        _,
        ttl,
        protocol,
        c0,
        c1,
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
    ] = fixed;
    if version >> 4 != 4 || version & 0x0f < 5 {
        return Err(PuntReason::Malformed);
    }
    if version & 0x0f != 5 {
        return Err(PuntReason::Ipv4Options);
    }
    let length = u16::from_be_bytes([l0, l1]);
    let available = packet.length().wrapping_sub(offset);
    if (length as usize) < 20 || length as usize > available || !checksum::is_valid(&fixed) {
        return Err(PuntReason::Malformed);
    }
    let old = u16::from_be_bytes([ttl, protocol]);
    let new = u16::from_be_bytes([ttl.wrapping_sub(1), protocol]);
    Ok(Header {
        family: Family::V4,
        source: Address::V4([s0, s1, s2, s3]),
        destination: Address::V4([d0, d1, d2, d3]),
        hop_limit: ttl,
        length: u32::from(length),
        repeated: 20 + transport(packet, offset + 20, protocol),
        next_checksum: checksum::update(u16::from_be_bytes([c0, c1]), old, new),
    })
}

/// Length of the transport header, only looked for where a GSO packet makes it count.
fn transport<P: PacketView>(packet: &P, offset: usize, protocol: u8) -> u32 {
    if packet.segments() <= 1 {
        return 0;
    }
    match protocol {
        TCP => packet
            .load::<1>(offset + 12)
            .map_or(0, |[data_offset]| u32::from(data_offset >> 4) * 4),
        UDP => 8,
        _ => 0,
    }
}
