//! What a router changes in a packet.

use super::read::{Read, checksum};
use super::table::Device;

/// The packet as it leaves through `egress`.
///
/// An Ethernet header that came in stays in front of a packet to a device without one: the kernel
/// takes it off. What follows the packet is cut off, but for the padding of a frame that would be
/// shorter than the `least`.
pub(crate) fn edited(
    packet: &[u8],
    start: usize,
    read: &Read,
    egress: &Device,
    least: usize,
) -> Vec<u8> {
    let (front, ip) = packet.split_at(start);
    let (ip, rest) = ip.split_at(read.length);
    let mut ip = ip.to_vec();
    match read.version {
        6 => ip[7] -= 1,
        _ => {
            ip[8] -= 1;
            ip[10..12].fill(0);
            let sum = checksum(&ip[..20]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
    let mut out = match egress.neighbour {
        Some(neighbour) if !egress.has_no_frames => {
            let ethertype = if read.version == 6 {
                [0x86, 0xdd]
            } else {
                [8, 0]
            };
            let tag = egress.vlan.map_or(vec![], |vid| {
                [&[0x81, 0][..], &vid.to_be_bytes()[..]].concat()
            });
            [&neighbour[..], &egress.own[..], &tag, &ethertype[..]].concat()
        }
        _ => front.to_vec(),
    };
    out.extend(ip);
    let missing = least.saturating_sub(out.len()).min(rest.len());
    out.extend(&rest[..missing]);
    out
}
