//! Objects and a node in, the state that node must have out.
//!
//! One function per role a node can play: host of network resources, host of exits, upstream
//! router. Nothing here looks at the machine, except for the few [`Facts`] that only the machine
//! knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::state::{
    ALIAS_PREFIX, Address, FibRoute, Hook, Instance, Link, LinkKind, LinkName, MOVED_SUFFIX,
    Namespace, NamespaceState, Neighbour, Port, Route, RouteAction, RouteKey, Sources, State,
    WireguardDevice, WireguardPeer,
};
use crate::model::{Network, NodeConfig, Resource, Router, SegmentPort};

/// Seconds between keepalives from a resource that hides behind a NAT to its reachable peers.
const KEEPALIVE: u16 = 25;

/// What only the machine can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Bridges in the node's namespace: an exit reaches one of them through a veth, any other
    /// parent through a macvlan.
    pub bridges: BTreeSet<LinkName>,
}

/// The state of a node that holds exactly what the objects say.
#[must_use]
pub fn desired(networks: &[Network], node: &NodeConfig, facts: &Facts) -> State {
    let mut state = State::default();
    for network in networks {
        for resource in network.resources_of(&node.node) {
            host(&mut state, network, resource, node, facts);
        }
    }
    if let Some(router) = &node.router {
        route_upstream(&mut state, networks, router);
    }
    state
}

/// Everything of one network resource.
fn host(
    state: &mut State,
    network: &Network,
    resource: &Resource,
    node: &NodeConfig,
    facts: &Facts,
) {
    let derived = network.derive(resource);
    let namespace = Namespace::Named(derived.netns.clone());
    let alias = Some(format!("{ALIAS_PREFIX}{}/{}", network.name, resource.name));

    let nr = state.namespace(&namespace);
    forwarding(nr);
    nr.links.insert(
        derived.bridge.clone(),
        Link {
            kind: LinkKind::Bridge,
            alias: alias.clone(),
            mtu: None,
            master: None,
            up: true,
        },
    );
    nr.links.insert(
        derived.wireguard.clone(),
        Link {
            kind: LinkKind::Wireguard,
            alias: alias.clone(),
            mtu: Some(u32::from(resource.mtu())),
            master: None,
            up: true,
        },
    );
    add_address(nr, &derived.bridge, derived.bridge_v6);
    add_address(nr, &derived.bridge, derived.bridge_v4);
    add_address(nr, &derived.wireguard, derived.wireguard_v6);
    add_address(nr, &derived.wireguard, derived.wireguard_v4);

    let exit = network.exit_for(resource);
    nr.wireguard.insert(
        derived.wireguard.clone(),
        WireguardDevice {
            public_key: Some(resource.public_key.clone()),
            key_of: Some((network.name.to_string(), resource.name.to_string())),
            listen_port: resource.listen_port(),
            peers: network
                .peers_of(resource)
                .map(|peer| {
                    (
                        peer.public_key.clone(),
                        peer_of(network, resource, peer, exit),
                    )
                })
                .collect(),
        },
    );
    for peer in network.peers_of(resource) {
        for prefix in narrow_allowed_ips(network, peer) {
            put_route(
                nr,
                prefix,
                None,
                &derived.wireguard,
                source_for(prefix, network, resource),
            );
        }
    }

    if resource.exit.is_some() {
        exit_port(state, network, resource, node, facts);
    } else if let Some(exit) = exit {
        let gateway = network.derive(exit);
        let via = IpAddr::V6(gateway.wireguard_v6.addr());
        put_route(
            nr,
            IpNet::V6(Ipv6Net::default()),
            Some(via),
            &derived.wireguard,
            Some(IpAddr::V6(derived.bridge_v6.addr())),
        );
        if exit.exit.as_ref().is_some_and(|exit| exit.ipv4) {
            put_route(
                nr,
                IpNet::V4(Ipv4Net::default()),
                Some(IpAddr::V4(gateway.wireguard_v4.addr())),
                &derived.wireguard,
                Some(IpAddr::V4(derived.bridge_v4.addr())),
            );
        }
    }
}

/// The peer entry for `peer` on the device of `resource`.
fn peer_of(
    network: &Network,
    resource: &Resource,
    peer: &Resource,
    exit: Option<&Resource>,
) -> WireguardPeer {
    let mut allowed_ips: BTreeSet<IpNet> = narrow_allowed_ips(network, peer).into_iter().collect();
    // The chosen exit is where the default route leads. Inside an exit members stay narrow.
    if resource.exit.is_none() && exit.is_some_and(|exit| exit.name == peer.name) {
        allowed_ips.insert(IpNet::V6(Ipv6Net::default()));
        if peer.exit.as_ref().is_some_and(|exit| exit.ipv4) {
            allowed_ips.insert(IpNet::V4(Ipv4Net::default()));
        }
    }
    let hidden = resource.endpoint.is_none();
    WireguardPeer {
        endpoint: peer.endpoint,
        allowed_ips,
        keepalive: (hidden && peer.endpoint.is_some())
            .then(|| resource.keepalive.unwrap_or(KEEPALIVE)),
        alive: false,
    }
}

/// What a peer may send and be sent: its link-local, its prefix, its IPv4 twins. The routes
/// mirror these exactly.
fn narrow_allowed_ips(network: &Network, peer: &Resource) -> [IpNet; 4] {
    let derived = network.derive(peer);
    [
        host_net(IpAddr::V6(derived.wireguard_v6.addr())),
        IpNet::V6(derived.prefix_v6),
        IpNet::V4(derived.prefix_v4),
        host_net(IpAddr::V4(derived.wireguard_v4.addr())),
    ]
}

/// Traffic leaves with the bridge's addresses; the WireGuard ones are next hops only.
fn source_for(destination: IpNet, network: &Network, resource: &Resource) -> Option<IpAddr> {
    let derived = network.derive(resource);
    match destination {
        IpNet::V6(net) if net.addr().segments()[0] & 0xffc0 == 0xfe80 => None,
        IpNet::V4(net) if net.prefix_len() == 32 => None,
        IpNet::V6(_) => Some(IpAddr::V6(derived.bridge_v6.addr())),
        IpNet::V4(_) => Some(IpAddr::V4(derived.bridge_v4.addr())),
    }
}

/// The second leg of an exit: its port on the segment, the default route, the data plane.
fn exit_port(
    state: &mut State,
    network: &Network,
    resource: &Resource,
    node: &NodeConfig,
    facts: &Facts,
) {
    let derived = network.derive(resource);
    let namespace = Namespace::Named(derived.netns.clone());
    let alias = Some(format!("{ALIAS_PREFIX}{}/{}", network.name, resource.name));
    let Some(segment) = &node.segment else { return }; // `check` has said so.
    let (port, kind) = match segment {
        SegmentPort::Device(device) => (device.clone(), LinkKind::Moved),
        SegmentPort::Parent(parent) if facts.bridges.contains(parent) => {
            state.namespace(&Namespace::Node).links.insert(
                derived.exit_peer.clone(),
                Link {
                    kind: LinkKind::Veth {
                        peer: derived.exit_port.clone(),
                        peer_namespace: namespace.clone(),
                    },
                    alias: alias.clone(),
                    mtu: None,
                    master: Some(parent.clone()),
                    up: true,
                },
            );
            let kind = LinkKind::Veth {
                peer: derived.exit_peer.clone(),
                peer_namespace: Namespace::Node,
            };
            (derived.exit_port.clone(), kind)
        }
        SegmentPort::Parent(parent) => (
            derived.exit_port.clone(),
            LinkKind::Macvlan {
                parent: parent.clone(),
            },
        ),
    };

    let nr = state.namespace(&namespace);
    let alias = alias.map(|alias| match kind {
        LinkKind::Moved => alias + MOVED_SUFFIX,
        LinkKind::Bridge
        | LinkKind::Veth { .. }
        | LinkKind::Macvlan { .. }
        | LinkKind::Wireguard
        | LinkKind::Foreign => alias,
    });
    nr.links.insert(
        port.clone(),
        Link {
            kind,
            alias,
            mtu: None,
            master: None,
            up: true,
        },
    );
    add_address(nr, &port, derived.segment_link_local);
    add_address(nr, &port, derived.segment_address);

    let gateway = if resource.exit.as_ref().is_some_and(|exit| exit.numbered) {
        derived.router_segment_address.addr()
    } else {
        derived.router_link_local.addr()
    };
    let default = IpNet::V6(Ipv6Net::default());
    put_route(
        nr,
        default,
        Some(IpAddr::V6(gateway)),
        &port,
        Some(IpAddr::V6(derived.bridge_v6.addr())),
    );
    nr.neighbours.insert(Neighbour {
        link: port.clone(),
        address: IpAddr::V6(gateway),
    });

    let mut fib = BTreeMap::new();
    fib.insert(
        default,
        FibRoute::Via {
            gateway: Some(IpAddr::V6(gateway)),
            link: port.clone(),
        },
    );
    for peer in network.peers_of(resource) {
        for prefix in forwardable(narrow_allowed_ips(network, peer)) {
            fib.insert(
                prefix,
                FibRoute::Via {
                    gateway: None,
                    link: derived.wireguard.clone(),
                },
            );
            // Without its WireGuard device a prefix must not follow the default route in clear.
            nr.routes.insert(
                RouteKey::guard(prefix),
                Route {
                    action: RouteAction::Unreachable,
                    source: None,
                },
            );
        }
    }
    nr.instance = Some(Instance {
        name: derived.netns.clone(),
        ports: BTreeMap::from([
            (port, Port::new(Hook::Tc, Sources::Behind)),
            (derived.wireguard, Port::new(Hook::Tc, Sources::Behind)),
        ]),
        fib,
    });
}

/// The node's own namespace as the upstream router of its allocations.
fn route_upstream(state: &mut State, networks: &[Network], router: &Router) {
    let node = state.namespace(&Namespace::Node);
    forwarding(node);
    if router.gateway.is_none() {
        // Forwarding turns router advertisements off; without a pinned default they are needed.
        node.sysctls.insert(
            format!("net/ipv6/conf/{}/accept_ra", router.uplink),
            "2".into(),
        );
    }
    for link in [&router.uplink, &router.segment] {
        node.links.insert(
            link.clone(),
            Link {
                kind: LinkKind::Foreign,
                alias: None,
                mtu: None,
                master: None,
                up: true,
            },
        );
    }
    for address in &router.uplink_addresses {
        add_address(node, &router.uplink, *address);
    }

    let mut fib = BTreeMap::new();
    for allocation in &router.allocations {
        add_address(node, &router.segment, allocation.router_link_local());
        add_address(node, &router.segment, allocation.router_segment_address());
        // An unassigned /64 must not follow the default route back to the provider.
        let aggregate = IpNet::V6(allocation.net());
        node.routes.insert(
            RouteKey::new(aggregate),
            Route {
                action: RouteAction::Unreachable,
                source: None,
            },
        );
        fib.insert(aggregate, FibRoute::Unreachable);
    }
    for network in networks {
        if router
            .allocations
            .iter()
            .any(|allocation| allocation.contains(&network.allocation))
        {
            return_routes(node, &mut fib, network, router);
        }
    }
    if let Some(gateway) = router.gateway {
        let default = match gateway {
            IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
            IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        };
        put_route(node, default, Some(gateway), &router.uplink, None);
        node.neighbours.insert(Neighbour {
            link: router.uplink.clone(),
            address: gateway,
        });
        fib.insert(
            default,
            FibRoute::Via {
                gateway: Some(gateway),
                link: router.uplink.clone(),
            },
        );
    }
    node.instance = Some(Instance {
        name: "router".into(),
        ports: BTreeMap::from([
            (
                router.uplink.clone(),
                Port {
                    martians: router.martians.clone(),
                    ..Port::new(Hook::Xdp, Sources::External)
                },
            ),
            (
                router.segment.clone(),
                Port::new(Hook::Xdp, Sources::Behind),
            ),
        ]),
        fib,
    });
}

/// Every prefix of a network leads to the address on the segment of the exit its resource uses:
/// from any other one WireGuard would not take the packets.
fn return_routes(
    node: &mut NamespaceState,
    fib: &mut BTreeMap<IpNet, FibRoute>,
    network: &Network,
    router: &Router,
) {
    for resource in &network.resources {
        let Some(exit) = network.entrance_of(resource) else {
            continue;
        };
        let derived = network.derive(exit);
        let via = if exit.exit.as_ref().is_some_and(|exit| exit.numbered) {
            derived.segment_address.addr()
        } else {
            derived.segment_link_local.addr()
        };
        let via = IpAddr::V6(via);
        node.neighbours.insert(Neighbour {
            link: router.segment.clone(),
            address: via,
        });
        let prefix = IpNet::V6(network.derive(resource).prefix_v6);
        put_route(node, prefix, Some(via), &router.segment, None);
        fib.insert(
            prefix,
            FibRoute::Via {
                gateway: Some(via),
                link: router.segment.clone(),
            },
        );
    }
}

/// Link-local and next-hop-only addresses are never forwarded.
fn forwardable(prefixes: [IpNet; 4]) -> impl Iterator<Item = IpNet> {
    prefixes.into_iter().filter(|prefix| match prefix {
        IpNet::V6(net) => net.prefix_len() < 128,
        IpNet::V4(net) => net.prefix_len() < 32,
    })
}

fn forwarding(namespace: &mut NamespaceState) {
    namespace
        .sysctls
        .insert("net/ipv6/conf/all/forwarding".into(), "1".into());
    namespace
        .sysctls
        .insert("net/ipv4/ip_forward".into(), "1".into());
}

fn add_address(namespace: &mut NamespaceState, link: &str, address: impl Into<IpNet>) {
    namespace.addresses.insert(Address {
        link: link.to_owned(),
        address: address.into(),
    });
}

fn put_route(
    namespace: &mut NamespaceState,
    destination: IpNet,
    gateway: Option<IpAddr>,
    link: &str,
    source: Option<IpAddr>,
) {
    namespace.routes.insert(
        RouteKey::new(destination),
        Route {
            action: RouteAction::Via {
                gateway,
                link: link.to_owned(),
            },
            source,
        },
    );
}

fn host_net(address: IpAddr) -> IpNet {
    IpNet::from(address)
}
