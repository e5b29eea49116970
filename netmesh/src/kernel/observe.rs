//! The kernel as it is, in the plan's words: what is ours, and the facts the plan needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::link::{RawLink, UNFINISHED};
use super::{Error, Kernel, ethtool, netns, sysctl};
use crate::plan::facts::{self, Device, NamespaceFacts, Vlan};
use crate::plan::foreign::ForeignRoute;
use crate::plan::state::{
    ALIAS_PREFIX, Address, Link, LinkKind, LinkName, MOVED_SUFFIX, Namespace, NamespaceState,
    Neighbour, ROUTE_PROTOCOL, Route, RouteAction, RouteKey, State,
};

/// The metric the kernel gives an IPv6 route that names none (`IP6_RT_PRIO_USER`).
const DEFAULT_METRIC_V6: u32 = 1024;

/// What to look for beyond what carries our mark.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// The node's name: marks its namespaces.
    pub node: String,
    /// Sysctls of interest, by namespace.
    pub sysctls: BTreeMap<Namespace, BTreeSet<String>>,
    /// Foreign links of the node's namespace that the plan relies on.
    pub foreign: BTreeSet<LinkName>,
    /// Keys of the routes the plan wants, by namespace.
    pub routes: BTreeMap<Namespace, BTreeSet<RouteKey>>,
    /// Prefix of the names of namespaces we make.
    pub namespace_prefix: String,
}

/// The alias of a namespace's loopback that marks it as this node's: its name, and the cookie of
/// its own namespace, since several nodes may live on one machine and two of them may share a
/// name.
///
/// # Errors
/// When the node's own namespace cannot be identified.
pub fn mark(node: &str) -> Result<String, Error> {
    let (cookie, _) = netns::identity(&Namespace::Node)?;
    Ok(format!("{ALIAS_PREFIX}node={node}@{cookie:x}"))
}

impl Kernel {
    /// Everything of ours on the node, except what the WireGuard and data plane rooms know.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub async fn observe(&mut self, query: &Query) -> Result<State, Error> {
        let mut state = State::default();
        let mut raw = BTreeMap::new();
        raw.insert(Namespace::Node, self.links(&Namespace::Node).await?);
        let mark = mark(&query.node)?;
        for name in netns::list()? {
            let namespace = Namespace::Named(name.clone());
            if !name.starts_with(&query.namespace_prefix) || netns::is_stub(&namespace) {
                continue;
            }
            let links = match self.links(&namespace).await {
                Ok(links) => links,
                // Another node's may go, or be half made, while the list is read.
                Err(Error::NoNamespace { .. } | Error::Namespace { .. }) => continue,
                Err(error) => return Err(error),
            };
            if links
                .iter()
                .any(|link| link.name == "lo" && link.alias.as_ref() == Some(&mark))
            {
                raw.insert(namespace, links);
            } else if !is_virgin(&links) {
                state.foreign_namespaces.insert(name);
            }
        }
        for (namespace, links) in &raw {
            let seen = self.observe_one(namespace, links, &raw, query).await?;
            state.namespaces.insert(namespace.clone(), seen);
        }
        Ok(state)
    }

    async fn observe_one(
        &mut self,
        namespace: &Namespace,
        links: &[RawLink],
        all: &BTreeMap<Namespace, Vec<RawLink>>,
        query: &Query,
    ) -> Result<NamespaceState, Error> {
        let names: BTreeMap<u32, &str> = links
            .iter()
            .map(|link| (link.ifindex, link.name.as_str()))
            .collect();
        let mut state = NamespaceState::default();
        for link in links {
            let ours = link
                .alias
                .as_ref()
                .is_some_and(|alias| alias.starts_with(ALIAS_PREFIX));
            let foreign = *namespace == Namespace::Node && query.foreign.contains(&link.name);
            if !ours && link.name != "lo" && link.group != UNFINISHED {
                state.foreign.links.insert(link.name.clone());
            }
            if link.name == "lo" || !(ours || foreign) {
                continue;
            }
            state.links.insert(
                link.name.clone(),
                Link {
                    kind: if ours {
                        kind(namespace, link, all)
                    } else {
                        LinkKind::Foreign
                    },
                    alias: link.alias.clone().filter(|_| ours),
                    mtu: Some(link.mtu).filter(|_| ours),
                    master: link
                        .master
                        .and_then(|master| names.get(&master))
                        .filter(|_| ours)
                        .map(|name| (*name).to_owned()),
                    up: link.up,
                },
            );
        }
        self.observe_addresses(namespace, &names, &mut state)
            .await?;
        self.observe_routes(namespace, &names, query, &mut state)
            .await?;
        self.observe_neighbours(namespace, &names, &mut state)
            .await?;
        let mut paths = query.sysctls.get(namespace).cloned().unwrap_or_default();
        if *namespace == Namespace::Node {
            // Those we changed earlier, also when nothing asks for them any more.
            paths.extend(sysctl::record()?.into_keys());
        }
        for path in paths {
            if let Some(value) = sysctl::read(namespace, &path)? {
                state.sysctls.insert(path, value);
            }
        }
        Ok(state)
    }

    async fn observe_addresses(
        &mut self,
        namespace: &Namespace,
        names: &BTreeMap<u32, &str>,
        state: &mut NamespaceState,
    ) -> Result<(), Error> {
        for address in self.raw_addresses(namespace).await? {
            let Some(link) = names.get(&address.ifindex) else {
                continue;
            };
            let candidate = Address {
                link: (*link).to_owned(),
                address: address.net,
            };
            match state.links.get(*link).map(|link| &link.kind) {
                Some(LinkKind::Foreign) if !address.ours => {
                    state.foreign.addresses.insert(candidate);
                }
                // A link-local that the kernel made up by itself was not added without DAD.
                Some(_) if !address.link_local || address.nodad => {
                    state.addresses.insert(candidate);
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn observe_routes(
        &mut self,
        namespace: &Namespace,
        names: &BTreeMap<u32, &str>,
        query: &Query,
        state: &mut NamespaceState,
    ) -> Result<(), Error> {
        let nothing = BTreeSet::new();
        let wanted = query.routes.get(namespace).unwrap_or(&nothing);
        for family in [AddressFamily::Inet6, AddressFamily::Inet] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(request);
            for answer in self.dump(namespace, "routes", request).await? {
                let RouteNetlinkMessage::NewRoute(message) = answer else {
                    continue;
                };
                if message.header.table != RouteHeader::RT_TABLE_MAIN {
                    continue;
                }
                let Some(found) = parse_route(&message, names) else {
                    continue;
                };
                if found.protocol == ROUTE_PROTOCOL {
                    if let Some(route) = found.route {
                        state.routes.insert(found.key, route);
                    }
                } else if wanted.contains(&found.key) || found.is_advertised_default() {
                    let foreign = ForeignRoute {
                        protocol: found.protocol,
                        route: found.route,
                        link: found.link,
                    };
                    let same = state.foreign.routes.entry(found.key).or_default();
                    same.push(foreign);
                }
            }
        }
        let advertised = state.foreign.routes.values().flatten();
        for link in advertised.filter_map(|route| route.link.clone().filter(|_| route.advertised()))
        {
            let path = format!("net/ipv6/conf/{link}/accept_ra");
            if sysctl::read(namespace, &path)?.as_deref() == Some("2") {
                state.foreign.hears_advertisements.insert(link);
            }
        }
        Ok(())
    }

    async fn observe_neighbours(
        &mut self,
        namespace: &Namespace,
        names: &BTreeMap<u32, &str>,
        state: &mut NamespaceState,
    ) -> Result<(), Error> {
        for message in self.raw_neighbours(namespace).await? {
            let (Some(address), Some(link)) =
                (destination(&message), names.get(&message.header.ifindex))
            else {
                continue;
            };
            let ours = message.attributes.iter().any(|attribute| {
                matches!(attribute, NeighbourAttribute::Protocol(protocol)
                    if *protocol == RouteProtocol::from(ROUTE_PROTOCOL))
            });
            let neighbour = Neighbour {
                link: (*link).to_owned(),
                address,
            };
            if ours {
                state.neighbours.insert(neighbour);
            } else if message.header.state == NeighbourState::Permanent {
                state.foreign.neighbours.insert(neighbour);
            }
        }
        Ok(())
    }

    /// The neighbours of ours in a namespace: marked with our protocol number.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn own_neighbours(
        &mut self,
        namespace: &Namespace,
    ) -> Result<BTreeSet<Neighbour>, Error> {
        let devices = self.facts(namespace).await?.devices;
        let names = devices
            .iter()
            .map(|(name, device)| (device.ifindex, name.as_str()));
        let names = names.collect();
        let mut state = NamespaceState::default();
        self.observe_neighbours(namespace, &names, &mut state)
            .await?;
        Ok(state.neighbours)
    }

    /// Devices, usable neighbours and addresses of a namespace.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub async fn facts(&mut self, namespace: &Namespace) -> Result<NamespaceFacts, Error> {
        let mut facts = NamespaceFacts::default();
        let links = self.links(namespace).await?;
        let carriers: BTreeSet<u32> = links
            .iter()
            .filter(|link| link.kind == facts::VLAN && !link.lower_elsewhere)
            .filter_map(|link| link.lower)
            .collect();
        let ethernet = links.iter().filter(|link| link.mac.is_some());
        let ethernet: Vec<u32> = ethernet.map(|link| link.ifindex).collect();
        let several = self
            .sends_several_buffers(namespace, ethernet.into_iter())
            .await?;
        for link in links {
            let vlan = link.vid.zip(link.lower);
            let takes_tags_off =
                carriers.contains(&link.ifindex) && ethtool::takes_tags_off(namespace, &link.name);
            facts.devices.insert(
                link.name,
                Device {
                    ifindex: link.ifindex,
                    mac: link.mac,
                    mtu: link.mtu,
                    kind: link.kind,
                    up: link.up,
                    vlan: vlan
                        .filter(|_| !link.lower_elsewhere)
                        .map(|(vid, device)| Vlan { device, vid }),
                    takes_tags_off,
                    sends_several_buffers: several.contains(&link.ifindex),
                },
            );
        }
        for address in self.raw_addresses(namespace).await? {
            facts.addresses.insert((address.ifindex, address.net));
        }
        for message in self.raw_neighbours(namespace).await? {
            let usable = matches!(
                message.header.state,
                NeighbourState::Reachable
                    | NeighbourState::Stale
                    | NeighbourState::Delay
                    | NeighbourState::Probe
                    | NeighbourState::Permanent
            );
            let mac = message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
                    _ => None,
                });
            if let (true, Some(address), Some(mac)) = (usable, destination(&message), mac) {
                let key = (message.header.ifindex, address);
                facts.neighbours.insert(key, mac);
                if message.header.state == NeighbourState::Permanent {
                    facts.permanent.insert(key);
                }
            }
        }
        Ok(facts)
    }

    async fn raw_addresses(&mut self, namespace: &Namespace) -> Result<Vec<RawAddress>, Error> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.dump(namespace, "addresses", request).await?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) => parse_address(&message),
                _ => None,
            })
            .collect())
    }

    async fn raw_neighbours(
        &mut self,
        namespace: &Namespace,
    ) -> Result<Vec<NeighbourMessage>, Error> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet6, AddressFamily::Inet] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            let request = RouteNetlinkMessage::GetNeighbour(request);
            let answers = self.dump(namespace, "neighbours", request).await?;
            found.extend(answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => Some(message),
                _ => None,
            }));
        }
        Ok(found)
    }
}

struct RawAddress {
    ifindex: u32,
    net: IpNet,
    link_local: bool,
    nodad: bool,
    /// Put there by us (`IFA_PROTO`, Linux 5.18).
    ours: bool,
}

/// A route of the main table, whoever put it there.
struct RawRoute {
    key: RouteKey,
    protocol: u8,
    /// `None` for what no route of ours does.
    route: Option<Route>,
    link: Option<LinkName>,
}

impl RawRoute {
    fn is_advertised_default(&self) -> bool {
        self.protocol == u8::from(RouteProtocol::Ra) && self.key.destination.prefix_len() == 0
    }
}

/// Nothing but an unmarked loopback: what a crash leaves of a namespace in the making.
pub(super) fn is_virgin(links: &[RawLink]) -> bool {
    links
        .iter()
        .all(|link| link.name == "lo" && link.alias.is_none())
}

fn parse_address(message: &AddressMessage) -> Option<RawAddress> {
    let mut address = None;
    let mut local = None;
    let mut flags = AddressFlags::empty();
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(found) => address = Some(*found),
            AddressAttribute::Local(found) => local = Some(*found),
            AddressAttribute::Flags(found) => flags = *found,
            AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == ROUTE_PROTOCOL,
            _ => {}
        }
    }
    // Of a point-to-point address `Local` is ours and `Address` the other end's.
    let address = local.or(address)?;
    Some(RawAddress {
        ifindex: message.header.index,
        net: IpNet::new(address, message.header.prefix_len).ok()?,
        link_local: matches!(address, IpAddr::V6(a) if a.segments()[0] & 0xffc0 == 0xfe80),
        nodad: flags.contains(AddressFlags::Nodad),
        ours,
    })
}

fn parse_route(message: &RouteMessage, names: &BTreeMap<u32, &str>) -> Option<RawRoute> {
    let mut destination = None;
    let mut gateway = None;
    let mut link = None;
    let mut source = None;
    let mut metric = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(index) => link = names.get(index).map(|name| (*name).to_owned()),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Priority(priority) => metric = Some(*priority),
            _ => {}
        }
    }
    let v6 = message.header.address_family == AddressFamily::Inet6;
    let unspecified = if v6 {
        IpAddr::from([0; 16])
    } else {
        IpAddr::from([0; 4])
    };
    let length = message.header.destination_prefix_length;
    let destination = IpNet::new(destination.unwrap_or(unspecified), length).ok()?;
    let action = match message.header.kind {
        RouteType::Unicast => link.clone().map(|link| RouteAction::Via { gateway, link }),
        RouteType::Unreachable => Some(RouteAction::Unreachable),
        RouteType::Prohibit => Some(RouteAction::Prohibit),
        RouteType::BlackHole => Some(RouteAction::Blackhole),
        _ => None,
    };
    let metric = metric.filter(|metric| !v6 || *metric != DEFAULT_METRIC_V6);
    Some(RawRoute {
        key: RouteKey {
            destination,
            metric,
        },
        protocol: message.header.protocol.into(),
        route: action.map(|action| Route { action, source }),
        link,
    })
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        _ => None,
    }
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(IpAddr::V4(*a)),
            _ => None,
        })
}

/// The kind of a link of ours; what lies behind an index is looked up where it lives.
fn kind(
    namespace: &Namespace,
    link: &RawLink,
    all: &BTreeMap<Namespace, Vec<RawLink>>,
) -> LinkKind {
    if link
        .alias
        .as_ref()
        .is_some_and(|alias| alias.ends_with(MOVED_SUFFIX))
    {
        return LinkKind::Moved;
    }
    match link.kind.as_str() {
        "bridge" => LinkKind::Bridge,
        "wireguard" | "tun" => LinkKind::Wireguard,
        "macvlan" => LinkKind::Macvlan {
            parent: all
                .get(&Namespace::Node)
                .and_then(|links| links.iter().find(|other| Some(other.ifindex) == link.lower))
                .map_or_else(|| "?".to_owned(), |parent| parent.name.clone()),
        },
        "veth" => all
            .iter()
            .filter(|(other, _)| *other != namespace)
            .find_map(|(other, links)| {
                let peer = links.iter().find(|peer| {
                    peer.kind == "veth"
                        && Some(peer.ifindex) == link.lower
                        && peer.lower == Some(link.ifindex)
                })?;
                Some(LinkKind::Veth {
                    peer: peer.name.clone(),
                    peer_namespace: other.clone(),
                })
            })
            .unwrap_or(LinkKind::Veth {
                peer: "?".to_owned(),
                peer_namespace: Namespace::Node,
            }),
        _ => LinkKind::Moved,
    }
}
