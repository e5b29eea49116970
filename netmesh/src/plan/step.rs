//! One change to the machine, as a value: printed by `plan`, executed by `apply`.

use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::state::{
    Address, FibRoute, Link, LinkName, Namespace, Neighbour, Port, PublicKey, Route, WireguardPeer,
};

/// One change. The executor of each kind is the room named in its section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
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
        destination: IpNet,
        route: Route,
    },
    /// Remove a route.
    DeleteRoute {
        namespace: Namespace,
        destination: IpNet,
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

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("step")
    }
}
