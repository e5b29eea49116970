//! What the daemon knows and the tables do not.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use crate::plan::state::{LinkName, Namespace, PublicKey};

/// Names for what the tables and tunnels hold numbers of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The network of each prefix.
    pub networks: BTreeMap<IpNet, String>,
    /// `network/resource` of each key.
    pub peers: BTreeMap<PublicKey, String>,
}

/// One of several next hops, as the daemon watches it.
#[derive(Clone, Debug)]
pub struct NextHop {
    /// Whose.
    pub namespace: Namespace,
    /// Its device.
    pub interface: LinkName,
    /// Its address; a device without neighbours has none.
    pub address: Option<IpAddr>,
    /// It is not withdrawn.
    pub usable: bool,
}

/// How the node does.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Its name.
    pub node: String,
    /// Names of prefixes and peers.
    pub names: Arc<Names>,
    /// Where data planes may be.
    pub namespaces: Vec<Namespace>,
    /// WireGuard devices.
    pub tunnels: Vec<(Namespace, LinkName)>,
    /// The last pass left nothing to do, and the objects are right.
    pub ready: bool,
    /// The objects are right.
    pub objects_good: bool,
    /// When they were read last and found right.
    pub objects_read: Option<SystemTime>,
    /// Next hops of groups.
    pub next_hops: Vec<NextHop>,
    /// How often one was withdrawn.
    pub withdrawals: u64,
    /// Passes that found nothing to do.
    pub unchanged: u64,
    /// Passes that changed something.
    pub changed: u64,
    /// Passes that failed.
    pub failed: u64,
    /// Steps taken.
    pub steps: u64,
    /// How long the last pass took.
    pub took: Duration,
}

/// The report, shared with whoever asks.
#[derive(Debug, Default)]
pub struct Told(Mutex<Report>);

impl Told {
    /// Changes it.
    pub fn update(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// As it is now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
