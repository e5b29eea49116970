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

use crate::class::Address;
use crate::header::{Header, TCP, UDP};
use crate::view::PacketView;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Length of an ICMP header in front of a quoted packet (RFC 792, RFC 4443 section 2.1).
const ICMP_HEADER: usize = 8;

/// What tells flows apart.
#[derive(Clone, Copy)]
struct Flow {
    source: [u64; 2],
    destination: [u64; 2],
    /// Protocol and ports, or the flow label.
    rest: u64,
}

/// The hash of the packet's flow. `offset` is where its IP header is, `ip` what that says.
#[inline(always)]
#[must_use]
pub fn hash<P: PacketView>(packet: &P, offset: usize, ip: &Header, seed: u64) -> u64 {
    let flow = match (ip.source, ip.destination) {
        (Address::V6(source), Address::V6(destination)) => {
            ipv6(packet, offset, &source, &destination)
        }
        (Address::V4(source), Address::V4(destination)) => {
            ipv4(packet, offset, source, destination)
        }
        _ => return seed,
    };
    let mut hash = seed;
    hash = mix(hash, flow.source[0]);
    hash = mix(hash, flow.source[1]);
    hash = mix(hash, flow.destination[0]);
    hash = mix(hash, flow.destination[1]);
    finish(mix(hash, flow.rest))
}

#[inline(always)]
fn ipv6<P: PacketView>(
    packet: &P,
    offset: usize,
    source: &[u8; 16],
    destination: &[u8; 16],
) -> Flow {
    let mut flow = Flow {
        source: words(source),
        destination: words(destination),
        rest: 0,
    };
    let Some([_, l0, l1, l2, _, _, protocol, _]) = packet.load::<8>(offset) else {
        return flow;
    };
    flow.rest = label(l0, l1, l2);
    let behind = offset + 40;
    if protocol == TCP || protocol == UDP {
        if let Some(ports) = packet.load::<4>(behind) {
            flow.rest = transport(protocol, ports);
        }
    } else if protocol == ICMPV6
        && let Some(quote) = packet.load_deep::<{ ICMP_HEADER + 44 }>(behind)
        // Errors are types 0 to 127 (RFC 4443 section 2.1).
        && quote[0] < 128
        && quote[8] >> 4 == 6
    {
        let [source, destination] = [half(&quote, 16), half(&quote, 32)];
        flow.source = words(&destination);
        flow.destination = words(&source);
        let protocol = quote[14];
        flow.rest = if protocol == TCP || protocol == UDP {
            transport(protocol, [quote[50], quote[51], quote[48], quote[49]])
        } else {
            label(quote[9], quote[10], quote[11])
        };
    }
    flow
}

#[inline(always)]
fn ipv4<P: PacketView>(packet: &P, offset: usize, source: [u8; 4], destination: [u8; 4]) -> Flow {
    let mut flow = Flow {
        source: [word(source), 0],
        destination: [word(destination), 0],
        rest: 0,
    };
    let Some([f0, f1, _, protocol]) = packet.load::<4>(offset + 6) else {
        return flow;
    };
    if is_fragment(f0, f1) {
        return flow;
    }
    let behind = offset + 20;
    if protocol == TCP || protocol == UDP {
        if let Some(ports) = packet.load::<4>(behind) {
            flow.rest = transport(protocol, ports);
        }
    } else if protocol == ICMP
        && let Some(quote) = packet.load_deep::<{ ICMP_HEADER + 24 }>(behind)
        && is_error(quote[0])
        && quote[8] >> 4 == 4
    {
        flow.source = [word([quote[24], quote[25], quote[26], quote[27]]), 0];
        flow.destination = [word([quote[20], quote[21], quote[22], quote[23]]), 0];
        let protocol = quote[17];
        // A packet with options is not hashed here but by the kernel.
        let plain = quote[8] == 0x45 && !is_fragment(quote[14], quote[15]);
        if plain && (protocol == TCP || protocol == UDP) {
            flow.rest = transport(protocol, [quote[30], quote[31], quote[28], quote[29]]);
        }
    }
    flow
}

/// More fragments, or an offset: not the whole packet (RFC 791 section 3.1).
#[inline(always)]
const fn is_fragment(high: u8, low: u8) -> bool {
    high & 0x3f != 0 || low != 0
}

/// Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792).
#[inline(always)]
const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

#[inline(always)]
const fn transport(protocol: u8, ports: [u8; 4]) -> u64 {
    (protocol as u64) << 32 | word(ports)
}

/// The lower 20 bits of the first word (RFC 8200 section 3).
#[inline(always)]
const fn label(l0: u8, l1: u8, l2: u8) -> u64 {
    word([0, l0 & 0x0f, l1, l2])
}

#[inline(always)]
const fn word(bytes: [u8; 4]) -> u64 {
    u32::from_be_bytes(bytes) as u64
}

#[inline(always)]
const fn words(a: &[u8; 16]) -> [u64; 2] {
    [
        u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    ]
}

/// The address at a constant offset of a quote.
#[inline(always)]
const fn half(quote: &[u8; ICMP_HEADER + 44], at: usize) -> [u8; 16] {
    let mut address = [0; 16];
    let mut i = 0;
    while i < 16 {
        address[i] = quote[at + i];
        i += 1;
    }
    address
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
