//! The rewrite on any bytes, told anything.

use netmesh_common::header::{ETHERNET, Family};
use netmesh_common::rewrite::{self, PacketEdit};
use netmesh_common::verdict::Forward;

use crate::grammar::Dice;

struct Packet {
    bytes: Vec<u8>,
    trims: bool,
    has_room: bool,
}

impl PacketEdit for Packet {
    fn trim(&mut self, length: usize) -> Option<()> {
        if self.trims {
            self.bytes.truncate(length);
        }
        Some(())
    }

    fn push_ethernet(&mut self) -> Option<()> {
        self.has_room.then(|| {
            self.bytes.splice(0..0, [0; ETHERNET]);
        })
    }

    fn store_ethernet(&mut self, header: [u8; ETHERNET]) -> Option<()> {
        self.store_ip(0, header)
    }

    fn store_ip<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let place = self.bytes.get_mut(offset..offset.checked_add(N)?)?;
        place.copy_from_slice(&bytes);
        Some(())
    }
}

/// Thirty-two bytes of choices, and a packet.
pub fn rewrite(data: &[u8]) {
    let Some((choices, bytes)) = data.split_at_checked(32) else {
        return;
    };
    let mut dice = Dice::Bytes(choices);
    let family = if dice.one_in(2) {
        Family::V4
    } else {
        Family::V6
    };
    let forward = Forward {
        layer3: dice.one_in(2),
        family,
        offset: if dice.one_in(2) { 0 } else { 14 },
        length: match dice.below(3) {
            0 => dice.word(),
            1 => u32::from(dice.byte()),
            _ => bytes.len() as u32,
        },
        hop_limit: dice.byte(),
        checksum: dice.word() as u16,
        destination_mac: [(); 6].map(|()| dice.byte()),
        source_mac: [(); 6].map(|()| dice.byte()),
        ..Forward::EMPTY
    };
    let mut packet = Packet {
        bytes: bytes.to_vec(),
        trims: dice.one_in(2),
        has_room: !dice.one_in(4),
    };
    let done = rewrite::prepare(&mut packet, &forward)
        .and_then(|()| rewrite::rewrite(&mut packet, &forward));
    let wanted = wanted(bytes, &forward, &packet);
    assert_eq!(done.is_some(), wanted.is_some(), "{forward:?}");
    if let Some(wanted) = wanted {
        assert_eq!(packet.bytes, wanted, "{forward:?}");
    }
}

/// Nothing is written behind the packet's end: then there is no packet.
fn wanted(bytes: &[u8], forward: &Forward, host: &Packet) -> Option<Vec<u8>> {
    let start = forward.offset as usize;
    let end = match host.trims {
        true => bytes.len().min(start + forward.length as usize),
        false => bytes.len(),
    };
    let front = bytes[..end].get(..start)?;
    let mut ip = bytes[start..end].to_vec();
    match forward.family {
        Family::V6 => *ip.get_mut(7)? = forward.hop_limit,
        Family::V4 => {
            *ip.get_mut(8)? = forward.hop_limit;
            ip.get_mut(10..12)?
                .copy_from_slice(&forward.checksum.to_be_bytes());
        }
    }
    let front = match (forward.layer3, start) {
        (true, _) => front.to_vec(),
        (false, 0) if !host.has_room => return None,
        (false, _) => {
            let ethertype = match forward.family {
                Family::V6 => [0x86, 0xdd],
                Family::V4 => [0x08, 0x00],
            };
            [
                &forward.destination_mac[..],
                &forward.source_mac[..],
                &ethertype[..],
            ]
            .concat()
        }
    };
    Some([front, ip].concat())
}
