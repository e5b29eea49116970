//! Tunnels of this node: what carries them, and whether their ports are free.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::Objects;
use super::super::judge::{Listener, Tunnel, Way};
use crate::kernel::{Kernel, sockets};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::{Namespace, State, WireguardDevice};

/// The UDP ports that the objects ask for. The sockets of tunnels stay in the node's namespace,
/// wherever their devices go.
pub(super) fn listeners(objects: &Objects) -> Vec<Listener> {
    // Without the list nothing is known to be taken.
    let used = sockets::udp_ports().unwrap_or_default();
    let port = |device: &WireguardDevice| device.listen_port;
    let own: BTreeSet<u16> = devices(&objects.observed)
        .filter_map(|(_, _, device)| port(device))
        .collect();
    devices(&objects.desired)
        .filter_map(|(_, name, device)| {
            let port = port(device)?;
            Some(Listener {
                name: name.to_owned(),
                port,
                taken: used.contains(&port) && !own.contains(&port),
            })
        })
        .collect()
}

/// Every WireGuard device of ours with the ways to its peers.
pub(super) async fn look(kernel: &mut Kernel, objects: &Objects) -> Vec<Tunnel> {
    let facts = kernel.facts(&Namespace::Node).await.unwrap_or_default();
    let mut tunnels = Vec::new();
    for (namespace, name, device) in devices(&objects.observed) {
        let link = objects.observed.namespaces.get(namespace);
        let Some(mtu) = link.and_then(|state| state.links.get(name)?.mtu) else {
            continue;
        };
        let endpoints = device.peers.values().filter_map(|peer| peer.endpoint);
        let endpoints: BTreeSet<IpAddr> = endpoints.map(|endpoint| endpoint.ip()).collect();
        let mut ways = Vec::new();
        for endpoint in endpoints {
            ways.extend(way(kernel, &facts, endpoint).await);
        }
        tunnels.push(Tunnel {
            namespace: match namespace {
                Namespace::Node => None,
                Namespace::Named(name) => Some(name.clone()),
            },
            name: name.to_owned(),
            mtu,
            ways,
        });
    }
    tunnels
}

async fn way(kernel: &mut Kernel, facts: &NamespaceFacts, endpoint: IpAddr) -> Option<Way> {
    let found = kernel.way(&Namespace::Node, endpoint).await.ok()??;
    let device = facts.name_of(found.ifindex)?;
    let whole = facts.devices.get(device)?.mtu;
    Some(Way {
        endpoint,
        device: device.clone(),
        mtu: found.mtu.map_or(whole, |mtu| mtu.min(whole)),
    })
}

fn devices(state: &State) -> impl Iterator<Item = (&Namespace, &str, &WireguardDevice)> {
    state.namespaces.iter().flat_map(|(namespace, state)| {
        let devices = state.wireguard.iter();
        devices.map(move |(name, device)| (namespace, name.as_str(), device))
    })
}
