//! Which flow a packet belongs to, as a number.
//!
//! | packet | hashed |
//! |---|---|
//! | TCP or UDP right behind the fixed header, not a fragment | addresses, protocol, ports |
//! | ICMP error | the flow of the packet it quotes, the other way round (RFC 7690) |
//! | everything else, every fragment too | addresses, IPv6 flow label (RFC 6438) |
//!
//! So an error reaches whoever gets the packets it is about, and all fragments of a datagram, and
//! of all datagrams between two addresses, go one way: later ones have no ports, and no first one
//! is looked at for them. Where ports are read the flow label is not: it is not the same in the
//! other direction, and Linux draws another when a connection times out (`sk_rethink_txhash`).
//!
//! The hash is not symmetric, and not secret: who can choose ports can choose a bucket.

use crate::header::{Family, TCP, UDP};
use crate::view::PacketView;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Length of an ICMP header in front of a quoted packet (RFC 792, RFC 4443 section 2.1).
const ICMP_HEADER: usize = 8;

/// The hash of the packet's flow. `offset` is where its IP header is, which has been read before.
///
/// A function of its own in the programs too, and sparing: its stack and its caller's together
/// are no more than 512 bytes.
#[inline(never)]
#[must_use]
pub fn hash<P: PacketView>(packet: &P, offset: usize, family: Family) -> u64 {
    match family {
        Family::V6 => ipv6(packet, offset),
        Family::V4 => ipv4(packet, offset),
    }
}

/// The hash with a start of one's own: routers in a row must not draw the same lots.
#[inline(always)]
#[must_use]
pub const fn seeded(hash: u64, seed: u64) -> u64 {
    finish(mix(hash, seed))
}

#[inline(always)]
fn ipv6<P: PacketView>(packet: &P, mut offset: usize) -> u64 {
    let mut reversed = false;
    let quote = offset + 40 + ICMP_HEADER;
    if byte(packet, offset + 6) == ICMPV6
        // Errors are types 0 to 127 (RFC 4443 section 2.1).
        && byte(packet, offset + 40) < 128
        // There up to its ports.
        && packet.load_deep::<4>(quote + 40).is_some()
        && byte(packet, quote) >> 4 == 6
    {
        offset = quote;
        reversed = true;
    }
    let (first, second) = if reversed { (24, 8) } else { (8, 24) };
    let mut hash = mix(0, eight(packet, offset + first));
    hash = mix(hash, eight(packet, offset + first + 8));
    hash = mix(hash, eight(packet, offset + second));
    hash = mix(hash, eight(packet, offset + second + 8));
    let protocol = byte(packet, offset + 6);
    let rest = if protocol == TCP || protocol == UDP {
        transport(packet, offset + 40, protocol, reversed)
    } else {
        // The flow label: the lower 20 bits of the first word (RFC 8200 section 3).
        four(packet, offset) & 0xf_ffff
    };
    mix(hash, rest)
}

#[inline(always)]
fn ipv4<P: PacketView>(packet: &P, mut offset: usize) -> u64 {
    let mut reversed = false;
    let quote = offset + 20 + ICMP_HEADER;
    if byte(packet, offset + 9) == ICMP
        && !is_fragment(packet, offset)
        && is_error(byte(packet, offset + 20))
        && packet.load_deep::<4>(quote + 20).is_some()
        && byte(packet, quote) >> 4 == 4
    {
        offset = quote;
        reversed = true;
    }
    let addresses = eight(packet, offset + 12);
    let addresses = addresses.rotate_left(if reversed { 32 } else { 0 });
    let protocol = byte(packet, offset + 9);
    // A quoted packet with options has no ports here: the kernel forwards those, and hashes them
    // as it likes.
    let plain = byte(packet, offset) == 0x45 && !is_fragment(packet, offset);
    let rest = if plain && (protocol == TCP || protocol == UDP) {
        transport(packet, offset + 20, protocol, reversed)
    } else {
        0
    };
    mix(mix(0, addresses), rest)
}

/// Protocol and ports; those of a quote the other way round.
#[inline(always)]
fn transport<P: PacketView>(packet: &P, offset: usize, protocol: u8, reversed: bool) -> u64 {
    let ports = four(packet, offset) as u32;
    let ports = ports.rotate_left(if reversed { 16 } else { 0 });
    u64::from(protocol) << 32 | u64::from(ports)
}

/// More fragments, or an offset: not the whole packet (RFC 791 section 3.1).
#[inline(always)]
fn is_fragment<P: PacketView>(packet: &P, offset: usize) -> bool {
    four(packet, offset + 4) & 0x3fff != 0
}

/// Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792).
#[inline(always)]
const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

// What is not there is nothing; the headers are, they have been read.

#[inline(always)]
fn byte<P: PacketView>(packet: &P, offset: usize) -> u8 {
    packet.load::<1>(offset).map_or(0, |[byte]| byte)
}

#[inline(always)]
fn four<P: PacketView>(packet: &P, offset: usize) -> u64 {
    let word = packet.load::<4>(offset).map_or(0, u32::from_be_bytes);
    u64::from(word)
}

#[inline(always)]
fn eight<P: PacketView>(packet: &P, offset: usize) -> u64 {
    packet.load::<8>(offset).map_or(0, u64::from_be_bytes)
}

/// One word more. Multiplication by an odd number carries low bits up, the shift carries them
/// back down; both can be undone, so no two words collide.
#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

/// Every bit of the state reaches every bit of the result: the finalizer of MurmurHash3.
#[inline(always)]
const fn finish(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}
