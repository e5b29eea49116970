//! Two states in, the ordered steps from one to the other out.
//!
//! The order, and why:
//!
//! 1. What the objects no longer hold goes first, from its users down to what it uses: FIB routes,
//!    ports, instances, neighbours, routes, addresses, links, namespaces. A port or an address is
//!    then free for whoever takes it over.
//! 2. Then creation, from what is used up to its users: namespaces, sysctls, links, addresses,
//!    keys, peers, routes, neighbours, and last the data plane: its table is complete before
//!    its first port is attached.
//! 3. Peers that are gone leave after the new ones have taken over their prefixes, so that a
//!    prefix that moves is never without an owner.
//!
//! What exists on both sides under one key is changed in place, never removed and made again,
//! except a link whose kind is another.

use std::collections::{BTreeMap, BTreeSet};

use super::state::{
    Instance, Link, LinkKind, LinkName, Namespace, NamespaceState, Route, RouteAction, State,
    WireguardDevice, WireguardPeer,
};
use super::step::Step;

/// The steps that lead from `observed` to `desired`.
#[must_use]
pub fn diff(observed: &State, desired: &State) -> Vec<Step> {
    let empty = NamespaceState::default();
    let names: BTreeSet<&Namespace> = observed
        .namespaces
        .keys()
        .chain(desired.namespaces.keys())
        .collect();
    let pairs: Vec<Pair<'_>> = names
        .into_iter()
        .map(|name| Pair {
            name,
            exists: *name == Namespace::Node || observed.namespaces.contains_key(name),
            wanted: *name == Namespace::Node || desired.namespaces.contains_key(name),
            seen: observed.namespaces.get(name).unwrap_or(&empty),
            want: desired.namespaces.get(name).unwrap_or(&empty),
        })
        .collect();

    let phases: &[fn(&Pair<'_>, &mut Vec<Step>)] = &[
        remove_dataplane,
        remove_neighbours_and_routes,
        remove_addresses,
        remove_links,
        remove_namespace,
        restore_sysctls,
        add_namespace,
        set_sysctls,
        add_links,
        set_links,
        add_addresses,
        set_devices,
        delete_peers,
        put_routes,
        add_neighbours,
        put_dataplane,
    ];
    let mut steps = Vec::new();
    for phase in phases {
        for pair in &pairs {
            phase(pair, &mut steps);
        }
    }
    steps
}

/// One namespace on both sides.
struct Pair<'a> {
    name: &'a Namespace,
    exists: bool,
    wanted: bool,
    seen: &'a NamespaceState,
    want: &'a NamespaceState,
}

impl Pair<'_> {
    fn namespace(&self) -> Namespace {
        self.name.clone()
    }

    /// The link goes away, or is made again as another kind.
    fn link_goes(&self, name: &LinkName) -> bool {
        match (self.seen.links.get(name), self.want.links.get(name)) {
            // What is not ours never goes: only what we put on it does.
            (Some(seen), _) if seen.kind == LinkKind::Foreign => false,
            (Some(seen), Some(want)) => seen.kind != want.kind,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

fn remove_dataplane(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    let Some(seen) = &pair.seen.instance else {
        return;
    };
    let namespace = pair.namespace();
    let instance = seen.name.clone();
    let Some(want) = pair
        .want
        .instance
        .as_ref()
        .filter(|want| want.name == seen.name)
    else {
        steps.push(Step::DeleteInstance {
            namespace,
            instance,
        });
        return;
    };
    for destination in seen.fib.keys().filter(|key| !want.fib.contains_key(key)) {
        steps.push(Step::DeleteFib {
            namespace: namespace.clone(),
            instance: instance.clone(),
            destination: *destination,
        });
    }
    for name in seen.ports.keys() {
        if !want.ports.contains_key(name) || pair.link_goes(name) {
            steps.push(Step::DeletePort {
                namespace: namespace.clone(),
                instance: instance.clone(),
                name: name.clone(),
            });
        }
    }
}

fn remove_neighbours_and_routes(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    if !pair.wanted {
        return; // They go with the namespace.
    }
    for neighbour in pair.seen.neighbours.difference(&pair.want.neighbours) {
        steps.push(Step::DeleteNeighbour {
            namespace: pair.namespace(),
            neighbour: neighbour.clone(),
        });
    }
    for (key, route) in &pair.seen.routes {
        if !pair.want.routes.contains_key(key) {
            steps.push(Step::DeleteRoute {
                namespace: pair.namespace(),
                key: *key,
                route: route.clone(),
            });
        }
    }
}

fn remove_addresses(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    if !pair.wanted {
        return;
    }
    for address in pair.seen.addresses.difference(&pair.want.addresses) {
        if !pair.link_goes(&address.link) {
            steps.push(Step::DeleteAddress {
                namespace: pair.namespace(),
                address: address.clone(),
            });
        }
    }
}

fn remove_links(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    for (name, link) in &pair.seen.links {
        if !pair.link_goes(name) {
            continue;
        }
        match &link.kind {
            LinkKind::Foreign => {}
            LinkKind::Wireguard => steps.push(Step::DeleteWireguard {
                namespace: pair.namespace(),
                name: name.clone(),
            }),
            // The pair goes with the end that made it.
            LinkKind::Veth { peer_namespace, .. }
                if *pair.name == Namespace::Node && *peer_namespace != Namespace::Node => {}
            LinkKind::Bridge
            | LinkKind::Veth { .. }
            | LinkKind::Macvlan { .. }
            | LinkKind::Moved => steps.push(Step::DeleteLink {
                namespace: pair.namespace(),
                name: name.clone(),
                link: link.clone(),
            }),
        }
    }
}

fn remove_namespace(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    if pair.exists && !pair.wanted {
        steps.push(Step::DeleteNamespace {
            namespace: pair.namespace(),
        });
    }
}

fn restore_sysctls(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    // Those of a named namespace die with it; only the node's have a value to go back to.
    if *pair.name != Namespace::Node {
        return;
    }
    for path in pair
        .seen
        .sysctls
        .keys()
        .filter(|path| !pair.want.sysctls.contains_key(*path))
    {
        steps.push(Step::RestoreSysctl {
            namespace: pair.namespace(),
            path: path.clone(),
        });
    }
}

fn add_namespace(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    if pair.wanted && !pair.exists {
        steps.push(Step::AddNamespace {
            namespace: pair.namespace(),
        });
    }
}

fn set_sysctls(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    for (path, value) in &pair.want.sysctls {
        let old = pair.seen.sysctls.get(path);
        if old != Some(value) {
            steps.push(Step::SetSysctl {
                namespace: pair.namespace(),
                path: path.clone(),
                value: value.clone(),
                old: old.cloned(),
            });
        }
    }
}

fn add_links(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    let missing = |name: &&LinkName| !pair.seen.links.contains_key(*name) || pair.link_goes(name);
    for name in pair.want.links.keys().filter(missing) {
        let Some(link) = pair.want.links.get(name) else {
            continue;
        };
        let (namespace, name, link) = (pair.namespace(), name.clone(), link.clone());
        match &link.kind {
            LinkKind::Foreign => {}
            LinkKind::Wireguard => steps.push(Step::AddWireguard {
                namespace,
                name,
                link,
            }),
            // Made together with its other end.
            LinkKind::Veth { peer_namespace, .. }
                if namespace == Namespace::Node && *peer_namespace != Namespace::Node => {}
            LinkKind::Bridge
            | LinkKind::Veth { .. }
            | LinkKind::Macvlan { .. }
            | LinkKind::Moved => steps.push(Step::AddLink {
                namespace,
                name,
                link,
            }),
        }
    }
}

fn set_links(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    for (name, want) in &pair.want.links {
        let fresh_outer_end = matches!(&want.kind, LinkKind::Veth { .. })
            && *pair.name == Namespace::Node
            && !pair.seen.links.contains_key(name);
        let changed = pair.seen.links.get(name).is_some_and(|seen| {
            seen.kind == want.kind && want.kind != LinkKind::Foreign && !same_settings(seen, want)
        });
        if changed || fresh_outer_end {
            steps.push(Step::SetLink {
                namespace: pair.namespace(),
                name: name.clone(),
                link: want.clone(),
            });
        }
    }
}

/// An MTU nobody asked for is as good as any.
fn same_settings(seen: &Link, want: &Link) -> bool {
    seen.alias == want.alias
        && seen.master == want.master
        && seen.up == want.up
        && (want.mtu.is_none() || seen.mtu == want.mtu)
}

fn add_addresses(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    for address in &pair.want.addresses {
        // What somebody else has put there already serves as well, and stays when we go.
        let there =
            pair.seen.addresses.contains(address) || pair.seen.foreign.addresses.contains(address);
        if !there || pair.link_goes(&address.link) {
            steps.push(Step::AddAddress {
                namespace: pair.namespace(),
                address: address.clone(),
            });
        }
    }
}

fn set_devices(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    for (name, want) in &pair.want.wireguard {
        let fresh = pair.link_goes(name);
        let seen = pair.seen.wireguard.get(name).filter(|_| !fresh);
        if let Some(key_of) = want.key_of.clone()
            && !same_device(seen, want)
        {
            steps.push(Step::SetDevice {
                namespace: pair.namespace(),
                name: name.clone(),
                key_of,
                listen_port: want.listen_port,
            });
        }
        for (peer, config) in &want.peers {
            let known = seen.and_then(|device| device.peers.get(peer));
            if known.is_some_and(|known| same_peer(known, config)) {
                continue;
            }
            steps.push(Step::PutPeer {
                namespace: pair.namespace(),
                name: name.clone(),
                peer: peer.clone(),
                endpoint: config
                    .endpoint
                    .filter(|_| !known.is_some_and(|known| known.alive)),
                config: config.clone(),
            });
        }
    }
}

fn same_device(seen: Option<&WireguardDevice>, want: &WireguardDevice) -> bool {
    seen.is_some_and(|seen| {
        seen.public_key == want.public_key
            && (want.listen_port.is_none() || seen.listen_port == want.listen_port)
    })
}

/// A living tunnel may have roamed: its endpoint is WireGuard's to know. A dead one is pointed
/// back to where the object says.
fn same_peer(seen: &WireguardPeer, want: &WireguardPeer) -> bool {
    seen.allowed_ips == want.allowed_ips
        && seen.keepalive == want.keepalive
        && (want.endpoint.is_none() || seen.alive || seen.endpoint == want.endpoint)
}

fn delete_peers(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    for (name, want) in &pair.want.wireguard {
        let Some(seen) = pair
            .seen
            .wireguard
            .get(name)
            .filter(|_| !pair.link_goes(name))
        else {
            continue;
        };
        for peer in seen
            .peers
            .keys()
            .filter(|peer| !want.peers.contains_key(*peer))
        {
            steps.push(Step::DeletePeer {
                namespace: pair.namespace(),
                name: name.clone(),
                peer: peer.clone(),
            });
        }
    }
}

fn put_routes(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    // A link that is made again takes its routes with it.
    let lost = |route: &Route| match &route.action {
        RouteAction::Via { link, .. } => pair.link_goes(link),
        RouteAction::Unreachable | RouteAction::Prohibit | RouteAction::Blackhole => false,
    };
    for (key, route) in &pair.want.routes {
        let old = pair.seen.routes.get(key).filter(|old| !lost(old));
        if old == Some(route) || old.is_none() && pair.seen.foreign.serves(key, route) {
            continue;
        }
        steps.push(Step::PutRoute {
            namespace: pair.namespace(),
            key: *key,
            route: route.clone(),
            old: old.cloned(),
        });
    }
}

fn add_neighbours(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    for neighbour in &pair.want.neighbours {
        // One that somebody entered for good needs no resolving.
        let there = pair.seen.neighbours.contains(neighbour)
            || pair.seen.foreign.neighbours.contains(neighbour);
        if !there || pair.link_goes(&neighbour.link) {
            steps.push(Step::AddNeighbour {
                namespace: pair.namespace(),
                neighbour: neighbour.clone(),
            });
        }
    }
}

fn put_dataplane(pair: &Pair<'_>, steps: &mut Vec<Step>) {
    let Some(want) = &pair.want.instance else {
        return;
    };
    let empty = Instance {
        name: want.name.clone(),
        ports: BTreeMap::new(),
        fib: BTreeMap::new(),
    };
    let seen = match pair
        .seen
        .instance
        .as_ref()
        .filter(|seen| seen.name == want.name)
    {
        Some(seen) => seen,
        None => {
            steps.push(Step::AddInstance {
                namespace: pair.namespace(),
                instance: want.name.clone(),
            });
            &empty
        }
    };
    for (destination, route) in &want.fib {
        let stale = match route {
            super::state::FibRoute::Via { link, .. }
            | super::state::FibRoute::Connected { link } => pair.link_goes(link),
            super::state::FibRoute::Paths(paths) => {
                paths.iter().any(|path| pair.link_goes(&path.link))
            }
            super::state::FibRoute::Local
            | super::state::FibRoute::Unreachable
            | super::state::FibRoute::Prohibit
            | super::state::FibRoute::Blackhole
            | super::state::FibRoute::Punt => false,
        };
        if stale || seen.fib.get(destination) != Some(route) {
            steps.push(Step::PutFib {
                namespace: pair.namespace(),
                instance: want.name.clone(),
                destination: *destination,
                route: route.clone(),
            });
        }
    }
    for (name, port) in &want.ports {
        if seen.ports.get(name) != Some(port) || pair.link_goes(name) {
            steps.push(Step::PutPort {
                namespace: pair.namespace(),
                instance: want.name.clone(),
                name: name.clone(),
                port: port.clone(),
            });
        }
    }
}
