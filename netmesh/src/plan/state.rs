//! What a node looks like: the one type for desired and observed state.
//!
//! The plan computes a [`State`] from the objects, the kernel rooms read one
//! from the machine, and [`diff`](super::diff) turns the difference into steps.
//! Everything is ordered, so that two equal states print and hash alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Serialize;

use super::foreign::Foreign;

/// Our own routing protocol number (`rtm_protocol`), set on every route we own.
pub const ROUTE_PROTOCOL: u8 = 110;

/// First word of the `ifalias` of every link we own.
pub const ALIAS_PREFIX: &str = "netmesh:";

/// Last word of the `ifalias` of a device that was moved into a namespace as it is: it goes back,
/// where one that we made goes away.
pub const MOVED_SUFFIX: &str = " moved";

/// The whole of what netmesh owns on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// Every namespace that holds something of ours.
    pub namespaces: BTreeMap<Namespace, NamespaceState>,
    /// Names of namespaces that look like ours and are somebody else's. Observed only.
    #[serde(skip)]
    pub foreign_namespaces: BTreeSet<String>,
}

/// A network namespace, seen from the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// The node's own.
    Node,
    /// A named one under `/run/netns`.
    Named(String),
}

/// An interface name, at most 15 bytes.
pub type LinkName = String;

/// What netmesh owns in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NamespaceState {
    /// Interfaces; in the node's namespace only ours, plus the foreign ones the plan relies on.
    pub links: BTreeMap<LinkName, Link>,
    /// Addresses.
    pub addresses: BTreeSet<Address>,
    /// Routes, by destination and metric.
    pub routes: BTreeMap<RouteKey, Route>,
    /// Neighbours the kernel is told to keep resolved (`NTF_MANAGED`).
    pub neighbours: BTreeSet<Neighbour>,
    /// Sysctls by path below `/proc/sys`, `/` separated: `net/ipv6/conf/all/forwarding`.
    pub sysctls: BTreeMap<String, String>,
    /// Configuration of the WireGuard devices among `links`.
    pub wireguard: BTreeMap<LinkName, WireguardDevice>,
    /// The data plane instance of this namespace.
    pub instance: Option<Instance>,
    /// What is not ours and could be in the way. Observed only.
    #[serde(skip)]
    pub foreign: Foreign,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// What it is.
    pub kind: LinkKind,
    /// `ifalias`: `netmesh:NETWORK/RESOURCE` or `netmesh:ROLE` on a link we made, `None` on a
    /// foreign one.
    pub alias: Option<String>,
    /// MTU in bytes; `None` leaves it as it is.
    pub mtu: Option<u32>,
    /// The bridge it is a port of.
    pub master: Option<LinkName>,
    /// Administratively up.
    pub up: bool,
}

/// What kind of interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// A bridge of ours.
    Bridge,
    /// One end of a veth pair; the pair is made by the end whose namespace is not the node's.
    Veth {
        /// Name of the other end.
        peer: LinkName,
        /// Namespace of the other end.
        peer_namespace: Namespace,
    },
    /// A macvlan (bridge mode) on a link of the node's namespace.
    Macvlan {
        /// The link in the node's namespace.
        parent: LinkName,
    },
    /// A WireGuard device, kernel or userspace, born in the node's namespace and moved here.
    Wireguard,
    /// A device of the node that was moved into this namespace as it is, and goes back when it
    /// is no longer wanted.
    Moved,
    /// Somebody else's link that must be there (router ports, bridge of the segment).
    Foreign,
}

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Address {
    /// The link.
    pub link: LinkName,
    /// Address and prefix length.
    pub address: IpNet,
}

/// What names a route in the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Destination prefix.
    pub destination: IpNet,
    /// The kernel prefers the lowest; `None` is the kernel's default for the family.
    pub metric: Option<u32>,
}

/// A route of the main table, always with [`ROUTE_PROTOCOL`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Route {
    /// What the kernel does with a match.
    pub action: RouteAction,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteAction {
    /// Send it out.
    Via {
        /// Next hop; `None` for a directly attached destination.
        gateway: Option<IpAddr>,
        /// Egress link.
        link: LinkName,
    },
    /// ICMP unreachable.
    Unreachable,
    /// ICMP administratively prohibited.
    Prohibit,
    /// Silent drop.
    Blackhole,
}

/// A neighbour the kernel keeps resolved for us.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Neighbour {
    /// The link.
    pub link: LinkName,
    /// The address.
    pub address: IpAddr,
}

/// A 32-byte Curve25519 public key in its usual base64 form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PublicKey(pub String);

/// Configuration of one WireGuard device. The private key is named by its public half;
/// the key itself stays in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WireguardDevice {
    /// Public half of the device's key; `None` when observed without a key.
    pub public_key: Option<PublicKey>,
    /// The object whose key file holds the private half (`NETWORK/RESOURCE`); `None` when observed.
    #[serde(skip)]
    pub key_of: Option<(String, String)>,
    /// UDP port; `None` lets the system choose.
    pub listen_port: Option<u16>,
    /// Peers.
    pub peers: BTreeMap<PublicKey, WireguardPeer>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WireguardPeer {
    /// Where it is reached; `None` for a hidden one, or one not yet heard of.
    pub endpoint: Option<SocketAddr>,
    /// Prefixes accepted from it and sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Persistent keepalive in seconds.
    pub keepalive: Option<u16>,
    /// A handshake within the last 180 s: the endpoint in use is alive. Observed only.
    #[serde(skip)]
    pub alive: bool,
}

/// The programs and maps that serve one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Instance {
    /// Name of the pin folder.
    pub name: String,
    /// Ports by interface.
    pub ports: BTreeMap<LinkName, Port>,
    /// Routes of origin `object`.
    pub fib: BTreeMap<IpNet, FibRoute>,
}

/// How a port is attached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Port {
    /// Where the program sits.
    pub hook: Hook,
    /// Which sources are believed.
    pub sources: Sources,
    /// What it says itself of prefixes that could be martians.
    #[serde(skip_serializing_if = "Martians::is_empty")]
    pub martians: Martians,
}

/// Prefixes that are martians to a port that faces the outside (`true`), or are none (`false`). The
/// longest match counts, and comes before the registries (RFC 6890).
pub type Martians = BTreeMap<IpNet, bool>;

impl Port {
    /// A port that leaves martians to the registries.
    #[must_use]
    pub const fn new(hook: Hook, sources: Sources) -> Self {
        Self {
            hook,
            sources,
            martians: Martians::new(),
        }
    }
}

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// XDP in the driver.
    Xdp,
    /// Generic XDP: only when asked for.
    XdpGeneric,
    /// TC ingress (TCX link, or clsact on kernels before 6.6).
    Tc,
}

/// Which source addresses a port believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sources {
    /// All of them.
    Any,
    /// Only those inside prefixes that live behind the port.
    Behind,
    /// All but our own prefixes and martians: the port faces the outside.
    External,
}

/// A route of the data plane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FibRoute {
    /// Forward.
    Via {
        /// Next hop; `None` when the device has no neighbours (WireGuard).
        gateway: Option<IpAddr>,
        /// Egress link.
        link: LinkName,
    },
    /// Forward each flow through one of several next hops, in order; see [`FibRoute::through`].
    Paths(Vec<Path>),
    /// Directly connected through this link: the kernel delivers.
    Connected {
        /// The link.
        link: LinkName,
    },
    /// An address of this node.
    Local,
    /// The kernel answers unreachable.
    Unreachable,
    /// The kernel answers prohibited.
    Prohibit,
    /// Dropped.
    Blackhole,
    /// Left to the kernel.
    Punt,
}

/// One of a route's next hops.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Path {
    /// Next hop; `None` when the device has no neighbours.
    pub gateway: Option<IpAddr>,
    /// Egress link.
    pub link: LinkName,
    /// Its share of the flows, relative to the others': 1 to 256.
    pub weight: u16,
}

impl FibRoute {
    /// Every neighbour that it leads to.
    #[must_use]
    pub fn neighbours(&self) -> BTreeSet<Neighbour> {
        let one = |gateway: Option<IpAddr>, link: &LinkName| {
            gateway.map(|address| Neighbour {
                link: link.clone(),
                address,
            })
        };
        match self {
            Self::Via { gateway, link } => one(*gateway, link).into_iter().collect(),
            Self::Paths(paths) => paths
                .iter()
                .filter_map(|path| one(path.gateway, &path.link))
                .collect(),
            Self::Connected { .. }
            | Self::Local
            | Self::Unreachable
            | Self::Prohibit
            | Self::Blackhole
            | Self::Punt => BTreeSet::new(),
        }
    }

    /// The route through these next hops, in the one form in which they are compared; without
    /// any there is no way.
    #[must_use]
    pub fn through(mut paths: Vec<Path>) -> Self {
        paths.sort();
        match paths.as_slice() {
            [] => Self::Unreachable,
            [Path { gateway, link, .. }] => Self::Via {
                gateway: *gateway,
                link: link.clone(),
            },
            _ => Self::Paths(paths),
        }
    }
}

impl RouteKey {
    /// A route with the kernel's default metric.
    #[must_use]
    pub const fn new(destination: IpNet) -> Self {
        Self {
            destination,
            metric: None,
        }
    }

    /// A route that answers only when no other route to the destination is left: it keeps
    /// traffic for a prefix from following the default route when its device is gone.
    #[must_use]
    pub const fn guard(destination: IpNet) -> Self {
        Self {
            destination,
            metric: Some(u32::MAX - 1),
        }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.metric {
            None => write!(f, "{}", self.destination),
            Some(metric) => write!(f, "{} metric {metric}", self.destination),
        }
    }
}

impl Serialize for RouteKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl State {
    /// The state of a namespace, made on first use.
    pub fn namespace(&mut self, namespace: &Namespace) -> &mut NamespaceState {
        self.namespaces.entry(namespace.clone()).or_default()
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl Serialize for Namespace {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
