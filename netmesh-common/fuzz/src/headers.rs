//! The frame parsers on any bytes at any offset.

use netmesh_common::class::Address;
use netmesh_common::header::{self, Family, Header};
use netmesh_common::table::Port;
use netmesh_common::verdict::{PuntReason, Refusal};
use netmesh_common::view::{Ingress, PacketView};

use crate::cases::lab::INGRESS_MAC;
use crate::model::{Read, Stop, read_ethernet, read_ip, read_version};

struct Bytes<'a>(&'a [u8]);

impl PacketView for Bytes<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let bytes = self.0.get(offset..offset.checked_add(N)?)?;
        bytes.try_into().ok()
    }

    fn length(&self) -> usize {
        self.0.len()
    }
}

/// An offset, and bytes to be parsed from there.
pub fn headers(data: &[u8]) {
    let Some((&offset, bytes)) = data.split_first() else {
        return;
    };
    let number = |family| match family {
        Family::V6 => 6,
        Family::V4 => 4,
    };
    for (tagged, flags) in [
        (false, 0),
        (true, 0),
        (false, Port::SOURCES_BEHIND),
        (true, Port::EXTERNAL),
    ] {
        // Who has a VLAN's port has found its tag.
        let names_vlan = matches!(
            bytes,
            [_, _, _, _, _, _, _, _, _, _, _, _, 0x81, 0, _, 1..=255, ..]
        );
        if tagged && !names_vlan {
            continue;
        }
        let mut ingress = Ingress::new(true);
        ingress.port.mac = INGRESS_MAC;
        ingress.port.flags = flags;
        ingress.tagged = tagged;
        let found = header::ethernet(&Bytes(bytes), &ingress).map(|(offset, family)| {
            let hidden = header::is_hidden(&Bytes(bytes), &ingress, offset);
            (offset, number(family), hidden)
        });
        let wanted = read_ethernet(bytes, INGRESS_MAC, tagged, flags != 0);
        let wanted = wanted.map(|front| (front.length, front.version, front.priorities > 0));
        match (found, wanted) {
            (Ok(found), Ok(wanted)) => assert_eq!(found, wanted),
            (Err(Refusal::Punt(found)), Err(Stop::Kernel(wanted))) => assert_eq!(found, wanted),
            (Err(Refusal::Drop(found)), Err(Stop::Nobody(wanted))) => assert_eq!(found, wanted),
            (found, wanted) => panic!("{found:?}, not {wanted:?}"),
        }
    }
    let found = header::version(&Bytes(bytes)).map(number);
    assert_eq!(found, punted(read_version(bytes)));

    let offset = usize::from(offset);
    let rest = bytes.get(offset..).unwrap_or_default();
    let found = header::ipv6(&Bytes(bytes), offset).map(|header| read(&header));
    assert_eq!(found, punted(read_ip(rest, 6)).map(|read| told(&read)));
    let found = header::ipv4(&Bytes(bytes), offset);
    if let Ok(header) = &found {
        // The checksum that goes out is right: the header with it sums up to nothing.
        let mut next = rest[..20].to_vec();
        next[8] = header.hop_limit.wrapping_sub(1);
        next[10..12].copy_from_slice(&header.next_checksum.to_be_bytes());
        assert!(read_ip(&[&next, &rest[20..]].concat(), 4).is_ok());
    }
    let found = found.map(|header| read(&header));
    assert_eq!(found, punted(read_ip(rest, 4)).map(|read| told(&read)));
}

/// Source, destination, hop limit, length.
type Facts = (u128, u128, u8, usize);

fn told(read: &Read) -> Facts {
    (read.source, read.destination, read.hop_limit, read.length)
}

fn read(header: &Header) -> Facts {
    let number = |address: &Address| match address {
        Address::V6(upper, lower) => u128::from(*upper) << 64 | u128::from(*lower),
        Address::V4(address) => u128::from(*address),
    };
    (
        number(&header.source),
        number(&header.destination),
        header.hop_limit,
        header.length as usize,
    )
}

fn punted<T>(result: Result<T, Stop>) -> Result<T, PuntReason> {
    result.map_err(|stop| match stop {
        Stop::Kernel(reason) => reason,
        Stop::Nobody(reason) => panic!("no header is a reason to drop: {reason:?}"),
    })
}
