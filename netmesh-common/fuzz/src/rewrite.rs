//! The rewrite on any bytes, told anything.

use netmesh_common::header::Family;
use netmesh_common::rewrite::{self, PacketEdit};
use netmesh_common::table::Link;
use netmesh_common::verdict::{Forward, Stations};

use crate::grammar::Dice;

struct Packet {
    bytes: Vec<u8>,
    pads: bool,
    has_room: bool,
}

impl PacketEdit for Packet {
    const FRAMES_ONLY: bool = false;

    fn trim(&mut self, length: usize, least: usize) -> Option<()> {
        let keep = if self.pads { length.max(least) } else { length };
        self.bytes.truncate(keep);
        Some(())
    }

    fn resize_header(&mut self, from: usize, to: usize) -> Option<()> {
        let fits = self.bytes.len() >= from && (to <= from || self.has_room);
        fits.then(|| {
            self.bytes.splice(0..from, vec![0; to]);
        })
    }

    fn store_ethernet(&mut self, stations: Stations, ethertype: u16) -> Option<()> {
        self.store_ip(0, stations.bytes())?;
        self.store_ip(12, ethertype.to_be_bytes())
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
        offset: dice.pick(&[14, 0, 18]),
        vlan: dice.pick(&[0, 0, 1, 0x0fff]),
        length: match dice.below(3) {
            0 => dice.word(),
            1 => u32::from(dice.byte()),
            _ => bytes.len() as u32,
        },
        hop_limit: dice.byte(),
        checksum: dice.word() as u16,
        stations: Stations::new(
            Link::resolved([(); 6].map(|()| dice.byte())),
            [(); 6].map(|()| dice.byte()),
        ),
        ..Forward::EMPTY
    };
    let mut packet = Packet {
        bytes: bytes.to_vec(),
        pads: dice.one_in(2),
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
    let tag = match forward.vlan {
        0 => vec![],
        vid => [&[0x81, 0x00], &vid.to_be_bytes()[..]].concat(),
    };
    let header = 14 + tag.len();
    // Of a frame that loses its tag sixty bytes must be left.
    let least = if host.pads {
        60 + start.saturating_sub(header)
    } else {
        0
    };
    let end = bytes.len().min(least.max(start + forward.length as usize));
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
    let ethertype = match forward.family {
        Family::V6 => [0x86, 0xdd],
        Family::V4 => [0x08, 0x00],
    };
    let front = match forward.layer3 {
        true => front.to_vec(),
        false if header > start && !host.has_room => return None,
        false => [
            &forward.stations.bytes()[..],
            &tag,
            &ethertype[..],
        ]
        .concat(),
    };
    Some([front, ip].concat())
}
