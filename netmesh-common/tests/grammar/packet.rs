//! Random packets: each field as it should be, mostly.

use super::Dice;
use super::World;
use super::address::{V4, V6, address};
use crate::cases::Input;
use crate::cases::lab::INGRESS_MAC;
use netmesh_common::table::Port;

/// Next headers and protocols: what is usual, every extension header (RFC 8200 section 4, AH, ESP,
/// mobility, HIP, SHIM6), tunnels, experiments.
const PROTOCOLS: [u8; 20] = [
    17, 6, 58, 1, 59, 0, 43, 44, 60, 50, 51, 135, 139, 140, 4, 41, 47, 132, 253, 255,
];

const HOP_LIMITS: [u8; 8] = [64, 255, 0, 1, 2, 3, 128, 254];

/// Chances of something unusual. A packet with several faults shows the first only, so half of
/// them have none.
struct Faults(bool);

impl Faults {
    fn one_in(&self, many: usize, dice: &mut Dice) -> bool {
        self.0 && dice.one_in(many)
    }

    /// A number below `bound`, which is the last one where there is no fault.
    fn below(&self, bound: usize, dice: &mut Dice) -> usize {
        match self.0 {
            true => dice.below(bound),
            false => bound - 1,
        }
    }
}

/// A random packet for a router's ingress port, with what a socket buffer would know of it.
pub(crate) fn packet(dice: &mut Dice, world: &World) -> Input {
    let size = if dice.one_in(2) { V4 } else { V6 };
    let faults = &Faults(dice.one_in(2));
    let segment_size = match dice.one_in(8) {
        true => segment_size(dice, world),
        false => 0,
    };
    let mut ip = match size {
        V6 => ipv6(dice, world, faults, segment_size),
        _ => ipv4(dice, world, faults, segment_size),
    };
    if dice.one_in(8) {
        let padding = dice.below(47);
        ip.extend(dice.bytes(padding));
    }
    let mut bytes = match world.flags & Port::LAYER3 {
        0 => frame(dice, faults, size, ip),
        _ => ip,
    };
    if faults.one_in(12, dice) {
        bytes.truncate(dice.below(bytes.len().min(80) + 1));
    }
    if faults.one_in(6, dice) && !bytes.is_empty() {
        let at = dice.below(bytes.len().min(80));
        bytes[at] = dice.byte();
    }
    let segments = match (segment_size, dice.below(4)) {
        (0, _) | (_, 0) => 0,
        (size, 1 | 2) => (bytes.len() as u32).div_ceil(size),
        _ => dice.below(1000) as u32,
    };
    Input {
        tag: None,
        bytes,
        segment_size,
        segments,
    }
}

/// At the edge of an MTU, or any.
fn segment_size(dice: &mut Dice, world: &World) -> u32 {
    let mtu = dice.pick(&world.mtus);
    let headers = dice.pick(&[40, 60, 28, 48, 52, 72]);
    match dice.below(4) {
        0 => 1 + dice.below(3000) as u32,
        _ => (mtu.saturating_sub(headers) + dice.below(3) as u32).clamp(1, 65_000),
    }
}

/// Length of the IP packet: short, at the edge of an MTU, or any.
fn length(dice: &mut Dice, world: &World, header: usize, segment_size: u32) -> usize {
    if segment_size != 0 {
        let some = header + 20 + dice.below(3 * segment_size as usize);
        return some.min(9000);
    }
    match dice.below(8) {
        0..=3 => header + dice.below(64),
        4 => header + 8 + dice.below(1600),
        5 => header,
        _ => {
            let mtu = dice.pick(&world.mtus) as usize;
            (mtu + dice.below(3)).saturating_sub(1).clamp(header, 9002)
        }
    }
}

fn ipv6(dice: &mut Dice, world: &World, faults: &Faults, segment_size: u32) -> Vec<u8> {
    let payload = length(dice, world, 40, segment_size) - 40;
    let next_header = protocol(dice, faults);
    let mut ip = dice.bytes(4);
    ip[0] = 0x60 | (ip[0] & 0x0f);
    if faults.one_in(24, dice) {
        ip[0] = dice.byte();
    }
    ip.extend(said(dice, faults, payload).to_be_bytes());
    ip.extend([next_header, hop_limit(dice, faults)]);
    ip.extend(address(dice, world, &world.behind, V6));
    ip.extend(address(dice, world, &world.beyond, V6));
    let data = body(dice, next_header, payload, V6);
    ip.extend(data);
    ip
}

fn ipv4(dice: &mut Dice, world: &World, faults: &Faults, segment_size: u32) -> Vec<u8> {
    let words = match faults.below(16, dice) {
        0 => dice.below(16) as u8,
        1 => 6 + dice.below(10) as u8,
        _ => 5,
    };
    let header = usize::from(words.max(5)) * 4;
    let total = length(dice, world, header, segment_size);
    let protocol = protocol(dice, faults);
    let version = if faults.one_in(24, dice) {
        dice.byte() & 0xf0
    } else {
        0x40
    };
    let mut ip = vec![version | words, dice.byte()];
    ip.extend(said(dice, faults, total).to_be_bytes());
    ip.extend(dice.bytes(2));
    // None, do not fragment, more fragments, an offset, the reserved bit, any.
    let fragment = match dice.below(6) {
        0 | 1 => 0x4000,
        2 => 0x2000,
        3 => 1 + dice.below(0x1fff) as u16,
        4 => dice.word() as u16,
        _ => 0,
    };
    ip.extend(fragment.to_be_bytes());
    ip.extend([hop_limit(dice, faults), protocol, 0, 0]);
    ip.extend(address(dice, world, &world.behind, V4));
    ip.extend(address(dice, world, &world.beyond, V4));
    ip.extend(options(dice, header - 20));
    sum(dice, faults, &mut ip);
    let data = body(dice, protocol, total - header, V4);
    ip.extend(data);
    ip
}

/// Router alert, a record route, no-operations, anything.
fn options(dice: &mut Dice, length: usize) -> Vec<u8> {
    let mut options = match dice.below(4) {
        0 => vec![148, 4, 0, 0],
        1 => vec![7, 39, 4],
        2 => vec![1; length],
        _ => dice.bytes(length),
    };
    options.resize(length, 0);
    options
}

/// The IPv4 checksum: right, at a corner of one's complement arithmetic, or wrong.
fn sum(dice: &mut Dice, faults: &Faults, ip: &mut [u8]) {
    if dice.one_in(3) {
        // The identification makes up for what the others add up to: the checksum is `wanted`.
        let wanted = dice.pick(&[0x0000, 0xffff, 0xfeff, 0xff00, 0xfffe, 0x0100, 0x00ff, 1]);
        ip[4..6].fill(0);
        ip[10..12].copy_from_slice(&u16::to_be_bytes(wanted));
        let missing = !folded(ip);
        ip[4..6].copy_from_slice(&missing.to_be_bytes());
    } else {
        let checksum = !folded(ip);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    if faults.one_in(16, dice) {
        let at = 10 + dice.below(2);
        ip[at] = ip[at].wrapping_add(1);
    }
}

/// The one's complement sum of the header's 16-bit words (RFC 1071).
fn folded(header: &[u8]) -> u16 {
    let mut total = 0_u64;
    for pair in header.chunks_exact(2) {
        total += u64::from(pair[0]) << 8 | u64::from(pair[1]);
    }
    // Of a positive sum, the one of its representatives that end-around carries lead to.
    match total {
        0 => 0,
        _ => ((total - 1) % 0xffff + 1) as u16,
    }
}

fn hop_limit(dice: &mut Dice, faults: &Faults) -> u8 {
    match dice.below(4) {
        0 => 64,
        1 => dice.byte().max(2),
        2 if faults.0 => dice.pick(&HOP_LIMITS),
        _ => 2,
    }
}

fn protocol(dice: &mut Dice, faults: &Faults) -> u8 {
    match dice.below(if faults.0 { 4 } else { 2 }) {
        0 => 17,
        1 => 6,
        2 => dice.pick(&PROTOCOLS),
        _ => dice.byte(),
    }
}

/// A length field: what it should say, beside it, or anything.
fn said(dice: &mut Dice, faults: &Faults, length: usize) -> u16 {
    let right = length.min(0xffff) as u16;
    match faults.below(32, dice) {
        0 => right.wrapping_add(1),
        1 => right.wrapping_sub(1),
        2 => 0,
        3 => dice.word() as u16,
        4 => right.wrapping_sub(dice.below(40) as u16),
        _ => right,
    }
}

/// What follows the fixed header: extension headers, a transport header, data; exactly `length`.
fn body(dice: &mut Dice, protocol: u8, length: usize, family: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let mut next = protocol;
    while family == V6 && matches!(next, 0 | 43 | 44 | 60 | 135) && body.len() < length.min(96) {
        let following = dice.pick(&PROTOCOLS);
        let octets = if next == 44 { 0 } else { dice.below(3) as u8 };
        body.extend([following, octets]);
        body.extend(dice.bytes(6 + 8 * usize::from(octets)));
        next = following;
    }
    let ports = dice.word().to_be_bytes();
    body.extend(ports);
    if next == 6 {
        let data_offset = if dice.one_in(4) { dice.byte() } else { 5 << 4 };
        body.extend(dice.bytes(8));
        body.extend([data_offset, 0x10]);
    }
    let first = body.len();
    body.resize(length.max(first), first as u8);
    body.truncate(length);
    body
}

/// Behind an Ethernet header.
fn frame(dice: &mut Dice, faults: &Faults, size: usize, ip: Vec<u8>) -> Vec<u8> {
    let mut destination = INGRESS_MAC;
    match faults.below(48, dice) {
        0 => destination = [0xff; 6],
        1 => destination = [0x33, 0x33, 0, 0, 0, 1],
        2 | 3 => destination[dice.below(6)] ^= 1 << dice.below(8),
        _ => {}
    }
    let right = if size == V6 { 0x86dd } else { 0x0800 };
    let ethertype: u16 = match faults.below(48, dice) {
        0 => 0x8100,
        1 => 0x88a8,
        2 => 0x0806,
        3 => 0x86dd ^ 0x0800 ^ right,
        4 => dice.word() as u16,
        5 => right.swap_bytes(),
        _ => right,
    };
    let mut frame = destination.to_vec();
    frame.extend([2, 0, 0, 0, 0xcc, 1]);
    if faults.one_in(6, dice) {
        for _ in 0..=dice.below(6) {
            frame.extend(dice.pick(&[[0x81, 0], [0x88, 0xa8]]));
            frame.extend([dice.byte() & 0xf0, u8::from(dice.one_in(24))]);
        }
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(ip);
    frame
}
