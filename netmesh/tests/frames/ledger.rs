//! What the counters must show.

use netmesh_common::table::{PortCounters, PrefixCounters, REASONS};

use crate::cases::{Count, Input, Outcome};

/// Prefix counters a router may use.
pub(crate) const COUNTERS: u32 = 64;

/// The ingress port's counters, and every prefix's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// The ingress port's.
    pub(crate) port: PortCounters,
    /// By counter.
    pub(crate) prefixes: Vec<PrefixCounters>,
}

impl Ledger {
    /// Nothing has happened.
    pub(crate) fn new() -> Self {
        Self {
            port: PortCounters {
                received: 0,
                forwarded: 0,
                forwarded_bytes: 0,
                redirect_failed: 0,
                punted: [0; REASONS],
                dropped: [0; REASONS],
            },
            prefixes: vec![PrefixCounters::default(); COUNTERS as usize],
        }
    }

    /// Enters what became of a packet.
    pub(crate) fn enter(&mut self, input: &Input, outcome: &Outcome) {
        let packets = u64::from(input.segments.max(1));
        match outcome {
            Outcome::NotOurs => {}
            Outcome::Forward { to, from, .. } => {
                self.port.received += to.packets;
                self.port.forwarded += to.packets;
                self.port.forwarded_bytes += to.bytes;
                if let Some(prefix) = self.prefix(to) {
                    prefix.to_packets += to.packets;
                    prefix.to_bytes += to.bytes;
                }
                if let Some(from) = from
                    && let Some(prefix) = self.prefix(from)
                {
                    prefix.from_packets += from.packets;
                    prefix.from_bytes += from.bytes;
                }
            }
            Outcome::Punt(reason) => {
                self.port.received += packets;
                self.port.punted[reason.index() as usize] += packets;
            }
            Outcome::Drop(reason) => {
                self.port.received += packets;
                self.port.dropped[reason.index() as usize] += packets;
            }
        }
    }

    /// The counter of a prefix; none where the route is not counted.
    fn prefix(&mut self, count: &Count) -> Option<&mut PrefixCounters> {
        self.prefixes.get_mut(count.counter as usize)
    }
}
