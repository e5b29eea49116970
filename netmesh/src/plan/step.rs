//! One change to the machine, as a value: printed by `plan`, executed by `apply`.

use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::state::{
    Address, FibRoute, Hook, Link, LinkKind, LinkName, Namespace, Neighbour, Port, PublicKey,
    Route, RouteAction, RouteKey, Sources, WireguardPeer,
};

/// One change. The executor of each kind is the room named in its section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the fields are named after the nouns of `state` they carry"
)]
pub enum Step {
    // ---- kernel ----
    /// Make a namespace and bring its loopback up.
    AddNamespace { namespace: Namespace },
    /// Remove a namespace (its links must be gone or of ours).
    DeleteNamespace { namespace: Namespace },
    /// Write a sysctl; `old` is what was seen.
    SetSysctl {
        namespace: Namespace,
        path: String,
        value: String,
        old: Option<String>,
    },
    /// Put a sysctl of the node's namespace back to the value it had before us.
    RestoreSysctl { namespace: Namespace, path: String },
    /// Make a link, name it, set its alias, MTU and master, bring it up. A veth is made with
    /// both ends. A `Moved` link is fetched from the node's namespace.
    AddLink {
        namespace: Namespace,
        name: LinkName,
        link: Link,
    },
    /// Change MTU, master or alias of a link and bring it up.
    SetLink {
        namespace: Namespace,
        name: LinkName,
        link: Link,
    },
    /// Remove a link; a `Moved` one goes back to the node's namespace.
    DeleteLink {
        namespace: Namespace,
        name: LinkName,
        link: Link,
    },
    /// Add an address (`nodad`).
    AddAddress {
        namespace: Namespace,
        address: Address,
    },
    /// Remove an address.
    DeleteAddress {
        namespace: Namespace,
        address: Address,
    },
    /// Add or replace a route.
    PutRoute {
        namespace: Namespace,
        key: RouteKey,
        route: Route,
        /// Ours that it replaces; without one, nothing may be there.
        old: Option<Route>,
    },
    /// Remove a route.
    DeleteRoute {
        namespace: Namespace,
        key: RouteKey,
        route: Route,
    },
    /// Tell the kernel to keep a neighbour resolved.
    AddNeighbour {
        namespace: Namespace,
        neighbour: Neighbour,
    },
    /// Stop keeping it resolved.
    DeleteNeighbour {
        namespace: Namespace,
        neighbour: Neighbour,
    },

    // ---- wireguard ----
    /// Make a WireGuard device in the node's namespace, move it here, set its alias and MTU,
    /// bring it up.
    AddWireguard {
        namespace: Namespace,
        name: LinkName,
        link: Link,
    },
    /// Remove a WireGuard device and, if userspace, its process.
    DeleteWireguard {
        namespace: Namespace,
        name: LinkName,
    },
    /// Set key and port of a device.
    SetDevice {
        namespace: Namespace,
        name: LinkName,
        key_of: (String, String),
        listen_port: Option<u16>,
    },
    /// Add a peer or bring it to this form; `endpoint` `None` leaves the one in use.
    PutPeer {
        namespace: Namespace,
        name: LinkName,
        peer: PublicKey,
        endpoint: Option<SocketAddr>,
        config: WireguardPeer,
    },
    /// Remove a peer.
    DeletePeer {
        namespace: Namespace,
        name: LinkName,
        peer: PublicKey,
    },

    // ---- dataplane ----
    /// Load programs and maps for a namespace and pin them.
    AddInstance {
        namespace: Namespace,
        instance: String,
    },
    /// Detach everything and remove the pins.
    DeleteInstance {
        namespace: Namespace,
        instance: String,
    },
    /// Attach to a port, or change how it is attached.
    PutPort {
        namespace: Namespace,
        instance: String,
        name: LinkName,
        port: Port,
    },
    /// Detach from a port.
    DeletePort {
        namespace: Namespace,
        instance: String,
        name: LinkName,
    },
    /// Add or replace a route of origin `object`.
    PutFib {
        namespace: Namespace,
        instance: String,
        destination: IpNet,
        route: FibRoute,
    },
    /// Remove a route of origin `object`.
    DeleteFib {
        namespace: Namespace,
        instance: String,
        destination: IpNet,
    },
}

impl Step {
    /// The namespace the step acts in.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        match self {
            Self::AddNamespace { namespace }
            | Self::DeleteNamespace { namespace }
            | Self::SetSysctl { namespace, .. }
            | Self::RestoreSysctl { namespace, .. }
            | Self::AddLink { namespace, .. }
            | Self::SetLink { namespace, .. }
            | Self::DeleteLink { namespace, .. }
            | Self::AddAddress { namespace, .. }
            | Self::DeleteAddress { namespace, .. }
            | Self::PutRoute { namespace, .. }
            | Self::DeleteRoute { namespace, .. }
            | Self::AddNeighbour { namespace, .. }
            | Self::DeleteNeighbour { namespace, .. }
            | Self::AddWireguard { namespace, .. }
            | Self::DeleteWireguard { namespace, .. }
            | Self::SetDevice { namespace, .. }
            | Self::PutPeer { namespace, .. }
            | Self::DeletePeer { namespace, .. }
            | Self::AddInstance { namespace, .. }
            | Self::DeleteInstance { namespace, .. }
            | Self::PutPort { namespace, .. }
            | Self::DeletePort { namespace, .. }
            | Self::PutFib { namespace, .. }
            | Self::DeleteFib { namespace, .. } => namespace,
        }
    }
}

/// Prints the step the way `ip`, `wg` and `netmesh` would be told to take it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] ", self.namespace())?;
        match self {
            Self::AddNamespace { namespace } => write!(f, "netns add {namespace}"),
            Self::DeleteNamespace { namespace } => write!(f, "netns del {namespace}"),
            Self::SetSysctl {
                path, value, old, ..
            } => {
                write!(f, "sysctl {path} = {value}")?;
                old.as_ref().map_or(Ok(()), |old| write!(f, " (was {old})"))
            }
            Self::RestoreSysctl { path, .. } => write!(f, "sysctl {path} back to what it was"),
            Self::AddLink { name, link, .. } => write!(f, "link add {name} {}", LinkText(link)),
            Self::SetLink { name, link, .. } => write!(f, "link set {name} {}", LinkText(link)),
            Self::DeleteLink { name, .. } => write!(f, "link del {name}"),
            Self::AddAddress { address, .. } => {
                write!(f, "addr add {} dev {}", address.address, address.link)
            }
            Self::DeleteAddress { address, .. } => {
                write!(f, "addr del {} dev {}", address.address, address.link)
            }
            Self::PutRoute {
                key, route, old, ..
            } => {
                let verb = if old.is_some() { "replace" } else { "add" };
                write!(f, "route {verb} {}", RouteText(key, route))
            }
            Self::DeleteRoute { key, route, .. } => {
                write!(f, "route del {}", RouteText(key, route))
            }
            Self::AddNeighbour { neighbour, .. } => {
                write!(
                    f,
                    "neigh add {} dev {} managed",
                    neighbour.address, neighbour.link
                )
            }
            Self::DeleteNeighbour { neighbour, .. } => {
                write!(f, "neigh del {} dev {}", neighbour.address, neighbour.link)
            }
            Self::AddWireguard { name, link, .. } => {
                write!(f, "link add {name} {} (born in the node)", LinkText(link))
            }
            Self::DeleteWireguard { name, .. } => write!(f, "link del {name} (wireguard)"),
            Self::SetDevice {
                name,
                key_of: (network, resource),
                listen_port,
                ..
            } => {
                write!(f, "wg set {name} private-key {network}/{resource}")?;
                listen_port.map_or(Ok(()), |port| write!(f, " listen-port {port}"))
            }
            Self::PutPeer {
                name,
                peer,
                endpoint,
                config,
                ..
            } => {
                write!(f, "wg set {name} peer {}", peer.0)?;
                if let Some(endpoint) = endpoint {
                    write!(f, " endpoint {endpoint}")?;
                }
                if let Some(keepalive) = config.keepalive {
                    write!(f, " persistent-keepalive {keepalive}")?;
                }
                f.write_str(" allowed-ips ")?;
                for (i, prefix) in config.allowed_ips.iter().enumerate() {
                    write!(f, "{}{prefix}", if i == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::DeletePeer { name, peer, .. } => {
                write!(f, "wg set {name} peer {} remove", peer.0)
            }
            Self::AddInstance { instance, .. } => write!(f, "dataplane load {instance}"),
            Self::DeleteInstance { instance, .. } => write!(f, "dataplane unload {instance}"),
            Self::PutPort {
                instance,
                name,
                port,
                ..
            } => {
                write!(f, "dataplane attach {name} hook {port} instance {instance}")
            }
            Self::DeletePort { instance, name, .. } => {
                write!(f, "dataplane detach {name} instance {instance}")
            }
            Self::PutFib {
                instance,
                destination,
                route,
                ..
            } => {
                write!(f, "fib replace {destination} {route} instance {instance}")
            }
            Self::DeleteFib {
                instance,
                destination,
                ..
            } => {
                write!(f, "fib del {destination} instance {instance}")
            }
        }
    }
}

struct LinkText<'a>(&'a Link);

impl fmt::Display for LinkText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            LinkKind::Bridge => f.write_str("type bridge"),
            LinkKind::Veth {
                peer,
                peer_namespace,
            } => {
                write!(f, "type veth peer {peer} netns {peer_namespace}")
            }
            LinkKind::Macvlan { parent } => write!(f, "type macvlan link {parent} mode bridge"),
            LinkKind::Wireguard => f.write_str("type wireguard"),
            LinkKind::Moved => f.write_str("moved from the node"),
            LinkKind::Foreign => f.write_str("(not ours)"),
        }?;
        if let Some(mtu) = self.0.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if let Some(master) = &self.0.master {
            write!(f, " master {master}")?;
        }
        self.0
            .alias
            .as_ref()
            .map_or(Ok(()), |alias| write!(f, " alias {alias}"))
    }
}

struct RouteText<'a>(&'a RouteKey, &'a Route);

impl fmt::Display for RouteText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.1.action {
            RouteAction::Via { gateway, link } => {
                write!(f, "{}", self.0)?;
                if let Some(gateway) = gateway {
                    write!(f, " via {gateway}")?;
                }
                write!(f, " dev {link}")?;
            }
            RouteAction::Unreachable => write!(f, "unreachable {}", self.0)?,
            RouteAction::Prohibit => write!(f, "prohibit {}", self.0)?,
            RouteAction::Blackhole => write!(f, "blackhole {}", self.0)?,
        }
        self.1
            .source
            .map_or(Ok(()), |source| write!(f, " src {source}"))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hook = match self.hook {
            Hook::Xdp => "xdp",
            Hook::XdpGeneric => "xdp-generic",
            Hook::Tc => "tc",
        };
        let sources = match self.sources {
            Sources::Any => "any",
            Sources::Behind => "behind",
            Sources::External => "external",
        };
        write!(f, "{hook} sources {sources}")?;
        for (prefix, is_martian) in &self.martians {
            let not = if *is_martian { "" } else { "not-" };
            write!(f, " {not}martian {prefix}")?;
        }
        Ok(())
    }
}

impl fmt::Display for FibRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Via {
                gateway: Some(gateway),
                link,
            } => write!(f, "via {gateway} dev {link}"),
            Self::Via {
                gateway: None,
                link,
            } => write!(f, "dev {link}"),
            Self::Paths(paths) => {
                for (i, path) in paths.iter().enumerate() {
                    let blank = if i == 0 { "" } else { " " };
                    write!(f, "{blank}nexthop ")?;
                    if let Some(gateway) = path.gateway {
                        write!(f, "via {gateway} ")?;
                    }
                    write!(f, "dev {} weight {}", path.link, path.weight)?;
                }
                Ok(())
            }
            Self::Connected { link } => write!(f, "connected dev {link}"),
            Self::Local => f.write_str("local"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Prohibit => f.write_str("prohibit"),
            Self::Blackhole => f.write_str("blackhole"),
            Self::Punt => f.write_str("punt"),
        }
    }
}
