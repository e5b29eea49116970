//! One reading of all counters.

use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Error;
use crate::dataplane::counters::{PortCountersRow, PrefixRow};
use crate::dataplane::{self, View};
use crate::kernel::{Kernel, netns};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::{Namespace, PublicKey};
use crate::reconcile::identity;
use crate::wireguard::device::{self, PeerStatus};

/// Namespaces are told by their place in the list of those that are looked at.
pub(super) type Place = u16;

/// A prefix.
pub(super) type PrefixId = (Place, IpNet);
/// A port.
pub(super) type PortId = (Place, String);
/// A port, whether it dropped (or left to the kernel, or lost), and why.
pub(super) type ReasonId = (Place, String, &'static str, &'static str);
/// Device and key of a peer.
pub(super) type PeerId = (Place, String, PublicKey);

/// Stands for the age of a handshake that never was.
pub(super) const NEVER: u64 = u64::MAX;

/// Everything that is shown, at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// How long reading it took.
    pub(super) took: Duration,
    /// Prefixes that ever counted something: packets and bytes to it, packets and bytes from it.
    pub(super) prefixes: Vec<(PrefixId, [u64; 4])>,
    /// How many prefixes there are.
    pub(super) counted: usize,
    /// Packets received and forwarded, bytes forwarded, packets left to the kernel, dropped, lost.
    pub(super) ports: Vec<(PortId, [u64; 6])>,
    /// Packets.
    pub(super) reasons: Vec<(ReasonId, [u64; 1])>,
    /// Bytes received and sent, and the age of the last handshake in seconds.
    pub(super) peers: Vec<(PeerId, [u64; 3])>,
    /// Data planes that were read.
    pub(super) planes: usize,
}

/// Reads everything that is in these namespaces. Nothing is locked: writers never wait for this.
pub(super) async fn read(namespaces: &[Namespace]) -> Result<Sample, Error> {
    // Opened for this reading only: a socket would keep a namespace alive that was removed.
    let mut kernel = Kernel::default();
    let mut sample = Sample {
        at: Instant::now(),
        took: Duration::ZERO,
        prefixes: Vec::new(),
        counted: 0,
        ports: Vec::new(),
        reasons: Vec::new(),
        peers: Vec::new(),
        planes: 0,
    };
    for (place, namespace) in (0..).zip(namespaces) {
        // One that the objects name and nobody has made yet, or that is gone, has nothing to show.
        if *namespace != Namespace::Node && !netns::path(namespace).exists() {
            continue;
        }
        let facts = kernel.facts(namespace).await?;
        let id = identity(namespace)?;
        netns::run_in(namespace, || -> Result<(), dataplane::Error> {
            if let Some(view) = View::open(id)? {
                sample.plane(place, &view, &facts)?;
            }
            sample.tunnels(place, &facts);
            Ok(())
        })??;
    }
    sample.took = sample.at.elapsed();
    Ok(sample)
}

impl Sample {
    fn plane(
        &mut self,
        place: Place,
        view: &View,
        facts: &NamespaceFacts,
    ) -> Result<(), dataplane::Error> {
        self.planes += 1;
        let rows = view.prefix_counters()?;
        self.counted += rows.len();
        // The node's own subnets are never forwarded to and are among those left out here.
        let busy = rows.iter().map(|row| prefix(place, row));
        self.prefixes
            .extend(busy.filter(|(_, counts)| *counts != [0; 4]));
        for row in view.port_counters(facts)? {
            self.port(place, row);
        }
        Ok(())
    }

    fn port(&mut self, place: Place, row: PortCountersRow) {
        let sum = |reasons: &[dataplane::counters::ReasonRow]| -> u64 {
            reasons.iter().map(|reason| reason.packets).sum()
        };
        let counts = [
            row.received,
            row.forwarded.packets,
            row.forwarded.bytes,
            sum(&row.punted),
            sum(&row.dropped),
            row.redirect_failed,
        ];
        for (outcome, reasons) in [("dropped", &row.dropped), ("to kernel", &row.punted)] {
            for reason in reasons {
                let id = (place, row.port.clone(), outcome, reason.reason);
                self.reasons.push((id, [reason.packets]));
            }
        }
        if row.redirect_failed > 0 {
            let id = (place, row.port.clone(), "lost", "redirect_failed");
            self.reasons.push((id, [row.redirect_failed]));
        }
        self.ports.push(((place, row.port), counts));
    }

    fn tunnels(&mut self, place: Place, facts: &NamespaceFacts) {
        for (name, link) in &facts.devices {
            // A userspace implementation's device is a tun like any other.
            if !["wireguard", "tun"].contains(&link.kind.as_str()) {
                continue;
            }
            let Ok(peers) = device::status(name) else {
                continue;
            };
            for (key, status) in peers {
                let id = (place, name.clone(), key);
                self.peers.push((id, peer(&status)));
            }
        }
    }
}

fn prefix(place: Place, row: &PrefixRow) -> (PrefixId, [u64; 4]) {
    let counts = [
        row.to.packets,
        row.to.bytes,
        row.from.packets,
        row.from.bytes,
    ];
    ((place, row.prefix), counts)
}

fn peer(status: &PeerStatus) -> [u64; 3] {
    let age = status.handshake_age.map_or(NEVER, |age| age.as_secs());
    [status.received, status.sent, age]
}
