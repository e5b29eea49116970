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
    // Opaque to the compiler, which would otherwise read the packet's bounds in the caller and hand
    // them over as numbers; the verifier knows them as pointers.
    let packet = core::hint::black_box(packet);
    let hash = match family {
        Family::V6 => ipv6(packet, offset),
        Family::V4 => ipv4(packet, offset),
    };
    hash.unwrap_or(0)
}

/// The hash with a start of one's own: routers in a row must not draw the same lots.
#[inline(always)]
#[must_use]
pub const fn seeded(hash: u64, seed: u64) -> u64 {
    finish(mix(hash, seed))
}

/// `None` when the packet ends before its ports, or before it says what ICMP message it is: all
/// such packets are one flow.
#[inline(always)]
fn ipv6<P: PacketView>(packet: &P, mut offset: usize) -> Option<u64> {
    let mut reversed = false;
    let [first] = packet.words(offset)?;
    if (first >> 8) as u8 == ICMPV6 {
        let quote = offset + 40 + ICMP_HEADER;
        // Never a single byte: the verifier learns nothing from such a check.
        let [kind, _] = packet.load::<2>(offset + 40)?;
        // Errors are types 0 to 127 (RFC 4443 section 2.1). The quote is there up to its ports; its
        // end is looked for last, or the compiler leaves out the look at its beginning.
        if kind < 128 && begins(packet, quote) == Some(6) && packet.load::<4>(quote + 40).is_some()
        {
            offset = quote;
            reversed = true;
        }
    }
    // Opaque again: what was looked at in the quote would spare the look here, of which the verifier
    // knows nothing.
    let offset = core::hint::black_box(offset);
    let [first, s0, s1, d0, d1] = packet.words(offset)?;
    let [w0, w1, w2, w3] = if reversed {
        [d0, d1, s0, s1]
    } else {
        [s0, s1, d0, d1]
    };
    let hash = mix(mix(mix(mix(0, w0), w1), w2), w3);
    let protocol = (first >> 8) as u8;
    let rest = if protocol == TCP || protocol == UDP {
        transport(packet.halves(offset + 40)?, protocol, reversed)
    } else {
        // The flow label: the lower 20 bits of the first word (RFC 8200 section 3).
        first >> 32 & 0x000f_ffff
    };
    Some(mix(hash, rest))
}

#[inline(always)]
fn ipv4<P: PacketView>(packet: &P, mut offset: usize) -> Option<u64> {
    let mut reversed = false;
    let [second, third] = packet.halves(offset + 4)?;
    if (third >> 16) as u8 == ICMP && !is_fragment(second) {
        let quote = offset + 20 + ICMP_HEADER;
        let [kind, _] = packet.load::<2>(offset + 20)?;
        if is_error(kind)
            && begins(packet, quote) == Some(4)
            && packet.load::<4>(quote + 20).is_some()
        {
            offset = quote;
            reversed = true;
        }
    }
    let offset = core::hint::black_box(offset);
    let [first, second, third, source, destination] = packet.halves(offset)?;
    let addresses = u64::from(source) << 32 | u64::from(destination);
    let hash = mix(0, addresses.rotate_left(if reversed { 32 } else { 0 }));
    let protocol = (third >> 16) as u8;
    // A quoted packet with options has no ports here: the kernel forwards those, and hashes them
    // as it likes.
    let plain = first >> 24 == 0x45 && !is_fragment(second);
    let rest = if plain && (protocol == TCP || protocol == UDP) {
        transport(packet.halves(offset + 20)?, protocol, reversed)
    } else {
        0
    };
    Some(mix(hash, rest))
}

/// The version a packet's first byte tells.
#[inline(always)]
fn begins<P: PacketView>(packet: &P, offset: usize) -> Option<u8> {
    packet.load::<2>(offset).map(|[first, _]| first >> 4)
}

/// Protocol and ports; those of a quote the other way round.
#[inline(always)]
const fn transport([ports]: [u32; 1], protocol: u8, reversed: bool) -> u64 {
    let ports = ports.rotate_left(if reversed { 16 } else { 0 });
    (protocol as u64) << 32 | ports as u64
}

/// More fragments, or an offset, in the second word of the header: not the whole packet (RFC 791
/// section 3.1).
#[inline(always)]
const fn is_fragment(second: u32) -> bool {
    second & 0x3fff != 0
}

/// Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792).
#[inline(always)]
const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
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
