//! Reading the counters: sums over CPUs, never accumulated here.

use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::PerCpuValues;
use ipnet::IpNet;
use netmesh_common::lines::tally;
use netmesh_common::lines::{Direction, GENERATIONS, prefix_of};
use netmesh_common::table::{PortCounters, PrefixCounters, PrefixKey, REASONS};
use netmesh_common::verdict::{DropReason, PuntReason};
use serde::Serialize;

use super::instance::View;
use super::route::decode_prefix;
use super::{Error, Instance};
use crate::plan::facts::NamespaceFacts;

/// Packets and bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Packets.
    pub packets: u64,
    /// IP bytes.
    pub bytes: u64,
}

/// Both directions of a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrefixRow {
    /// The prefix.
    pub prefix: IpNet,
    /// Forwarded towards it.
    pub to: Flow,
    /// Forwarded from it.
    pub from: Flow,
}

/// One reason and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ReasonRow {
    /// Its name.
    pub reason: &'static str,
    /// Packets.
    pub packets: u64,
    /// What it means.
    #[serde(skip)]
    pub sentence: &'static str,
}

/// The counters of a port. `received` is the sum of all others but the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortCountersRow {
    /// The device.
    pub port: String,
    /// Packets seen.
    pub received: u64,
    /// Handed to another device and taken by it; the bytes count what was handed over.
    pub forwarded: Flow,
    /// Handed over by XDP, but not taken: the other device's queue was full, it is down, or its veth
    /// peer does not run NAPI. What TC hands over is lost, and counted, like any packet of the
    /// kernel: `ip -s link` of the egress.
    pub redirect_failed: u64,
    /// Left to the kernel, by reason.
    pub punted: Vec<ReasonRow>,
    /// Dropped, by reason.
    pub dropped: Vec<ReasonRow>,
}

impl View {
    /// The counters of every prefix that has one, in order.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn prefix_counters(&self) -> Result<Vec<PrefixRow>, Error> {
        let mut counted = Vec::new();
        self.maps.each_counter(|key, id| counted.push((key, id)))?;
        let mut sums: Vec<(PrefixKey, PrefixCounters)> = Vec::with_capacity(counted.len());
        for (key, id) in counted {
            let values = self
                .maps
                .prefix_counters
                .get(&id, 0)
                .map_err(|source| Error::Map {
                    map: "PREFIX_CNT",
                    action: "read it",
                    source,
                })?;
            let mut sum = PrefixCounters::default();
            values.iter().for_each(|value| add(&mut sum, value));
            sums.push((key, sum));
        }
        self.slot_counters(&mut sums)?;
        // A prefix may have counted in several places.
        sums.sort_unstable_by_key(|(key, _)| *key);
        sums.dedup_by(|(key, more), (kept, sum)| {
            let same = key == kept;
            if same {
                add(sum, more);
            }
            same
        });
        let mut rows: Vec<PrefixRow> = sums
            .iter()
            .filter_map(|(key, sum)| Some(row(decode_prefix(key)?, sum)))
            .collect();
        rows.sort_unstable_by_key(|row| row.prefix);
        Ok(rows)
    }

    /// Adds what stage 1 has counted, and gives every prefix with a slot a row.
    fn slot_counters(&self, sums: &mut Vec<(PrefixKey, PrefixCounters)>) -> Result<(), Error> {
        for generation in 0..GENERATIONS {
            let Some(table) = self.lines.of(generation) else {
                continue;
            };
            for entry in table.entries() {
                let tally = |direction| {
                    let word = table.tally(entry.slot, direction);
                    tally::unpacked(word.map_or(0, settled))
                };
                let (to, from) = (tally(Direction::To), tally(Direction::From));
                let now = PrefixCounters {
                    to_packets: to.packets,
                    to_bytes: to.bytes,
                    from_packets: from.packets,
                    from_bytes: from.bytes,
                };
                sums.push((prefix_of(entry.key), now));
            }
        }
        self.maps
            .each_beyond(|key, sum| sums.push((prefix_of(key), sum)))
    }

    /// The counters of every attached port.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn port_counters(&self, facts: &NamespaceFacts) -> Result<Vec<PortCountersRow>, Error> {
        let mut rows = Vec::new();
        for row in self.ports(facts)? {
            let values = self
                .maps
                .port_counters
                .get(&row.slot, 0)
                .map_err(|source| Error::Map {
                    map: "PORT_CNT",
                    action: "read it",
                    source,
                })?;
            let sum = |field: &dyn Fn(&PortCounters) -> u64| values.iter().map(field).sum::<u64>();
            let lost = sum(&|value| value.redirect_failed);
            let reasons =
                |list: &[(usize, &'static str, &'static str)],
                 field: &dyn Fn(&PortCounters) -> [u64; REASONS]| {
                    list.iter()
                        .map(|&(index, reason, sentence)| ReasonRow {
                            reason,
                            sentence,
                            packets: values.iter().map(|value| field(value)[index]).sum(),
                        })
                        .filter(|row| row.packets > 0)
                        .collect::<Vec<_>>()
                };
            let punts: Vec<_> = PuntReason::ALL
                .iter()
                .map(|reason| (reason.index() as usize, reason.name(), reason.sentence()))
                .collect();
            let drops: Vec<_> = DropReason::ALL
                .iter()
                .map(|reason| (reason.index() as usize, reason.name(), reason.sentence()))
                .collect();
            rows.push(PortCountersRow {
                port: row.name.unwrap_or_else(|| format!("if{}", row.ifindex)),
                received: sum(&|value| value.received),
                forwarded: Flow {
                    packets: sum(&|value| value.forwarded).saturating_sub(lost),
                    bytes: sum(&|value| value.forwarded_bytes),
                },
                redirect_failed: lost,
                punted: reasons(&punts, &|value| value.punted),
                dropped: reasons(&drops, &|value| value.dropped),
            });
        }
        rows.sort_by(|a, b| a.port.cmp(&b.port));
        Ok(rows)
    }
}

/// The tally when nobody is carrying it away; whoever does is done within a packet.
fn settled(word: &AtomicU64) -> u64 {
    for _ in 0..1000 {
        let value = word.load(Ordering::Acquire);
        if !tally::is_carrying(value) {
            return value;
        }
        std::thread::yield_now();
    }
    word.load(Ordering::Acquire)
}

const fn add(sum: &mut PrefixCounters, more: &PrefixCounters) {
    sum.to_packets += more.to_packets;
    sum.to_bytes += more.to_bytes;
    sum.from_packets += more.from_packets;
    sum.from_bytes += more.from_bytes;
}

const fn row(prefix: IpNet, sum: &PrefixCounters) -> PrefixRow {
    PrefixRow {
        prefix,
        to: Flow {
            packets: sum.to_packets,
            bytes: sum.to_bytes,
        },
        from: Flow {
            packets: sum.from_packets,
            bytes: sum.from_bytes,
        },
    }
}

impl Instance {
    pub(super) fn set_port_counters(
        &mut self,
        slot: u32,
        value: PortCounters,
    ) -> Result<(), Error> {
        let fail = |source| Error::Map {
            map: "PORT_CNT",
            action: "clear it",
            source,
        };
        let values = self.maps.port_counters.get(&slot, 0).map_err(fail)?;
        let cleared = PerCpuValues::try_from(vec![value; values.len()])
            .map_err(|source| fail(aya::maps::MapError::IoError(source)))?;
        self.maps()
            .port_counters
            .set(slot, cleared, 0)
            .map_err(fail)
    }
}
