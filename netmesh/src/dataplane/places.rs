//! The table of ports: few places, each of which a program finds by a port's interface index.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use netmesh_common::table::{PORT_PLACES, PORT_TRIES, Port, PortPlace, port_place};

use super::sys::Mapping;

/// Words of a place.
const WORDS: usize = size_of::<PortPlace>() / size_of::<u64>();

/// The table in this process's memory. Only the holder of the lock writes it.
#[derive(Debug)]
pub(super) struct Places(Mapping);

impl Places {
    pub(super) fn open(map: BorrowedFd<'_>) -> io::Result<Self> {
        let bytes = PORT_PLACES as usize * size_of::<PortPlace>();
        Ok(Self(Mapping::new(map, bytes)?))
    }

    /// The port with this interface index.
    pub(super) fn get(&self, ifindex: u32) -> Option<Port> {
        self.iter()
            .find_map(|(known, port)| (known == ifindex).then_some(port))
    }

    /// Every port with its interface index, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, Port)> {
        self.0.words().chunks_exact(WORDS).filter_map(|place| {
            let [first, second, third] = place else {
                return None;
            };
            let words = [second, third].map(|word| word.load(Ordering::Acquire));
            match ifindex_of(first.load(Ordering::Acquire)) {
                0 => None,
                ifindex => Some((ifindex, port_of(words))),
            }
        })
    }

    /// Adds a port or changes it; `false` when all its places are others'.
    pub(super) fn put(&self, ifindex: u32, port: Port) -> bool {
        let known = |wanted| {
            (0..PORT_TRIES).find_map(|attempt| {
                let place = self.place(port_place(ifindex, attempt))?;
                let [first, ..] = place else { return None };
                (ifindex_of(first.load(Ordering::Acquire)) == wanted).then_some(place)
            })
        };
        let Some([first, second, third]) = known(ifindex).or_else(|| known(0)) else {
            return false;
        };
        let [flags, station] = words_of(&port);
        second.store(flags, Ordering::Release);
        third.store(station, Ordering::Release);
        first.store(first_word(ifindex), Ordering::Release);
        true
    }

    /// Removes a port; one that is not there is as good as removed.
    pub(super) fn remove(&self, ifindex: u32) {
        for attempt in 0..PORT_TRIES {
            if let Some([first, ..]) = self.place(port_place(ifindex, attempt))
                && ifindex_of(first.load(Ordering::Acquire)) == ifindex
            {
                first.store(0, Ordering::Release);
            }
        }
    }

    fn place(&self, index: u32) -> Option<&[AtomicU64]> {
        self.0.words().chunks_exact(WORDS).nth(index as usize)
    }
}

/// The words of a place as `PortPlace` lays them out on this machine.
fn first_word(ifindex: u32) -> u64 {
    join(ifindex.to_ne_bytes(), [0; 4])
}

fn ifindex_of(word: u64) -> u32 {
    split(word).0
}

fn words_of(port: &Port) -> [u64; 2] {
    let [a, b, c, d, e, f] = port.mac;
    let [g, h] = port.vlan.to_ne_bytes();
    [
        join(port.slot.to_ne_bytes(), port.flags.to_ne_bytes()),
        join([a, b, c, d], [e, f, g, h]),
    ]
}

fn port_of([flags, station]: [u64; 2]) -> Port {
    let (slot, flags) = split(flags);
    let [a, b, c, d, e, f, g, h] = station.to_ne_bytes();
    Port {
        slot,
        flags,
        mac: [a, b, c, d, e, f],
        vlan: u16::from_ne_bytes([g, h]),
    }
}

fn join([a, b, c, d]: [u8; 4], [e, f, g, h]: [u8; 4]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

fn split(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    (
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
    )
}

/// Arranges ports as [`Places::put`] does, for a table that is written place by place.
pub(super) fn arranged(
    ports: impl IntoIterator<Item = (u32, Port)>,
) -> Option<Vec<(u32, PortPlace)>> {
    let mut taken: Vec<(u32, PortPlace)> = Vec::new();
    for (ifindex, port) in ports {
        let is_free = |index: &u32| taken.iter().all(|(other, _)| other != index);
        let index = (0..PORT_TRIES)
            .map(|attempt| port_place(ifindex, attempt))
            .find(is_free)?;
        let reserved = 0;
        taken.push((
            index,
            PortPlace {
                ifindex,
                reserved,
                port,
            },
        ));
    }
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Port = Port {
        slot: 3,
        flags: Port::XDP | Port::EXTERNAL,
        mac: [2, 0, 0, 0, 0, 9],
        vlan: 77,
    };

    #[test]
    fn words_and_back() {
        assert_eq!(port_of(words_of(&PORT)), PORT);
        assert_eq!(ifindex_of(first_word(u32::MAX)), u32::MAX);
        // As the programs read it.
        let place = PortPlace {
            ifindex: 5,
            reserved: 0,
            port: PORT,
        };
        assert_eq!(std::mem::offset_of!(PortPlace, port), 8);
        assert_eq!(std::mem::offset_of!(Port, mac), 8);
        assert_eq!(place.port, PORT);
    }

    #[test]
    fn ports_that_collide_stand_behind_each_other() {
        let colliding = |count: u32| (0..count).map(|n| (7 + n * PORT_PLACES, PORT));
        let places: Vec<u32> = arranged(colliding(4))
            .unwrap()
            .iter()
            .map(|p| p.0)
            .collect();
        assert_eq!(places, [7, 8, 9, 10]);
        assert!(arranged(colliding(5)).is_none());
    }
}
