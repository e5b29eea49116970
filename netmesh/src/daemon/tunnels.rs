//! WireGuard tells nobody when it is changed: it is asked from time to time.

use std::collections::BTreeMap;

use crate::kernel::netns;
use crate::plan::state::{LinkName, Namespace, State, WireguardDevice};
use crate::wireguard::device;

/// Every device the objects ask for, without what changes by itself.
pub(super) type Tunnels = BTreeMap<(Namespace, LinkName), Option<WireguardDevice>>;

/// The devices as they are now.
pub(super) fn look(desired: &State) -> Tunnels {
    let mut tunnels = Tunnels::new();
    for (namespace, wanted) in &desired.namespaces {
        for name in wanted.wireguard.keys() {
            let seen = netns::run_in(namespace, || device::observe(name));
            let mut seen = seen.ok().and_then(Result::ok).flatten();
            for peer in seen.iter_mut().flat_map(|seen| seen.peers.values_mut()) {
                // Peers roam, fall silent and speak again.
                peer.endpoint = None;
                peer.alive = false;
            }
            tunnels.insert((namespace.clone(), name.clone()), seen);
        }
    }
    tunnels
}
