//! A user network and its resources.

use std::net::{IpAddr, SocketAddr};

use ipnet::Ipv4Net;
use serde::Serialize;

use super::address::{Allocation, Prefix};
use super::derive::Derived;
use super::fault::Faults;
use super::name::{Name, interface_name_fault, is_born};
use super::reader::{Places, Reader};
use super::tree;
use crate::plan::state::PublicKey;

/// Fields of the object.
pub(super) const NETWORK_FIELDS: [&str; 5] = [
    "network",
    "allocation",
    "wireguard_ipv4",
    "isolated",
    "resource",
];

/// Fields of a resource.
pub(super) const RESOURCE_FIELDS: [&str; 11] = [
    "name",
    "node",
    "prefix",
    "public_key",
    "endpoint",
    "listen_port",
    "keepalive",
    "mtu",
    "interface",
    "ipv4",
    "exit",
];

/// Fields of an exit.
pub(super) const EXIT_FIELDS: [&str; 4] = ["priority", "weight", "numbered", "ipv4"];

/// MTU of a WireGuard device on a 1500-byte underlay: 40 bytes IPv6, 8 UDP, 32 WireGuard.
const DEFAULT_MTU: u16 = 1420;

/// A named full mesh of resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Its name.
    pub name: Name,
    /// The block its prefixes are cut from.
    pub allocation: Allocation,
    /// The /16 of the WireGuard interfaces' IPv4 addresses.
    pub wireguard_ipv4: Ipv4Net,
    /// It has no exit, on purpose.
    pub isolated: bool,
    /// Its resources.
    pub resources: Vec<Resource>,
    /// Where it stands.
    #[serde(skip)]
    pub places: Places,
}

/// A namespace with one WireGuard interface and a prefix of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// Its name, unique in the network.
    pub name: Name,
    /// The node that hosts it.
    pub node: Name,
    /// Its /64.
    pub prefix: Prefix,
    /// Its WireGuard public key.
    pub public_key: PublicKey,
    /// Where its node is reached by the others; `None` when it is hidden behind a NAT.
    pub endpoint: Option<SocketAddr>,
    /// Its UDP port where that differs from the endpoint's.
    pub listen_port: Option<u16>,
    /// Seconds between keepalives to reachable peers; only a hidden resource sends them.
    pub keepalive: Option<u16>,
    /// MTU of its WireGuard interface.
    pub mtu: Option<u16>,
    /// Name of its WireGuard interface where the derived one is taken.
    pub interface: Option<String>,
    /// Its IPv4 /24 where the derived one collides.
    pub ipv4: Option<Ipv4Net>,
    /// It is an exit.
    pub exit: Option<Exit>,
    /// Where it stands.
    #[serde(skip)]
    pub places: Places,
}

/// What makes a resource an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Exit {
    /// Only those of the lowest are used.
    pub priority: u16,
    /// Its share of the resources, relative to the other exits of its priority.
    pub weight: u16,
    /// Return routes use the numbered address on the segment instead of the link-local one.
    pub numbered: bool,
    /// Members send their IPv4 default route here too.
    pub ipv4: bool,
}

impl Network {
    /// The resources a node hosts.
    pub fn resources_of<'a>(&'a self, node: &'a Name) -> impl Iterator<Item = &'a Resource> {
        self.resources
            .iter()
            .filter(move |resource| resource.node == *node)
    }

    /// All resources but one.
    pub fn peers_of<'a>(&'a self, resource: &'a Resource) -> impl Iterator<Item = &'a Resource> {
        self.resources
            .iter()
            .filter(move |peer| peer.name != resource.name)
    }

    /// Every name and address of a resource.
    #[must_use]
    pub fn derive(&self, resource: &Resource) -> Derived {
        Derived::of(self, resource)
    }
}

impl Resource {
    /// MTU of its WireGuard interface.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu.unwrap_or(DEFAULT_MTU)
    }

    /// The UDP port its WireGuard listens on; `None` lets the system choose.
    #[must_use]
    pub fn listen_port(&self) -> Option<u16> {
        self.listen_port
            .or(self.endpoint.map(|endpoint| endpoint.port()))
    }
}

/// Reads a user network; JSON when the file's name ends so, TOML otherwise.
///
/// # Errors
/// Every fault of the file.
pub fn parse_network(file: &str, text: &str) -> Result<Network, Faults> {
    let (source, root) = tree::parse(file, text)?;
    let mut faults = Faults::default();
    let network = Reader::new(
        &source,
        "network".into(),
        &root,
        &NETWORK_FIELDS,
        &mut faults,
    )
    .and_then(|mut reader| read(&mut reader));
    match network {
        Some(network) if faults.is_empty() => Ok(network),
        _ => Err(faults),
    }
}

fn read(reader: &mut Reader<'_>) -> Option<Network> {
    let name: Option<Name> =
        reader.required("network", "give the network a name: network = \"alice\"");
    if let Some(name) = &name {
        reader.rename(format!("network \"{name}\""));
    }
    let allocation: Option<Allocation> = reader.required(
        "allocation",
        "name the block: allocation = \"2a02:1802:5e::/48\"",
    );
    let wireguard_ipv4 = pool(reader);
    let isolated = reader.boolean("isolated").unwrap_or(false);
    let items = reader.array("resource");
    if reader.node("resource").is_none() {
        let remedy = "add at least one [[resource]] table".to_owned();
        reader.fault(
            "resource",
            "NM0004",
            "is missing: the network is empty".to_owned(),
            remedy,
        );
    }
    let mut resources = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let object = match name_of(item) {
            Some(name) => format!("resource \"{name}\""),
            None => format!("resource #{}", i + 1),
        };
        let read = reader
            .inner(object, item, &RESOURCE_FIELDS)
            .and_then(|mut reader| read_resource(&mut reader));
        resources.extend(read);
    }
    Some(Network {
        name: name?,
        allocation: allocation?,
        wireguard_ipv4: wireguard_ipv4?,
        isolated,
        resources,
        places: reader.places.clone(),
    })
}

/// What a resource calls itself, for messages; whether it may is checked elsewhere.
fn name_of(node: &tree::Node) -> Option<String> {
    let tree::Kind::Table(fields) = &node.kind else {
        return None;
    };
    match &fields.get("name")?.1.kind {
        tree::Kind::Text(name) => Some(name.chars().take(15).collect()),
        _ => None,
    }
}

fn pool(reader: &mut Reader<'_>) -> Option<Ipv4Net> {
    let default = Ipv4Net::new_assert([169, 254, 0, 0].into(), 16);
    if reader.node("wireguard_ipv4").is_none() {
        return Some(default);
    }
    let remedy = "write a /16 like 169.254.0.0/16 or 172.16.0.0/16";
    let net: Ipv4Net = reader.optional("wireguard_ipv4", remedy)?;
    if net.prefix_len() != 16 || net.trunc() != net {
        let cause = format!("{net} is no /16 network");
        reader.fault("wireguard_ipv4", "NM0005", cause, remedy.to_owned());
        return None;
    }
    Some(net)
}

fn read_resource(reader: &mut Reader<'_>) -> Option<Resource> {
    let name: Option<Name> = reader.required("name", "give the resource a name: name = \"web\"");
    let node: Option<Name> = reader.required("node", "name the node that hosts it");
    let prefix: Option<Prefix> = reader.required("prefix", "give it a /64 of the allocation");
    let public_key: Option<KeyText> = reader.required(
        "public_key",
        "put in the output of `netmesh key gen NETWORK/RESOURCE`, 44 characters of base64",
    );
    let endpoint = endpoint(reader);
    let listen_port = reader.number("listen_port", 1..=65535);
    let keepalive = reader.number("keepalive", 1..=65535);
    // IPv6 needs 1280 (RFC 8200 section 5); below it the kernel turns it off.
    let mtu = reader.number("mtu", 1280..=65455);
    let interface: Option<String> = reader.optional("interface", "");
    if let Some(fault) = interface.as_deref().and_then(interface_name_fault) {
        let cause = format!("is no interface name: {fault}");
        reader.fault(
            "interface",
            "NM0005",
            cause,
            "choose another name".to_owned(),
        );
    }
    if let Some(born) = interface.as_deref().filter(|name| is_born(name)) {
        reader.fault(
            "interface",
            "NM0005",
            format!("{born:?} is a device that network namespaces have by themselves"),
            "choose another name, or leave it out: it is derived".to_owned(),
        );
    }
    let ipv4: Option<Ipv4Net> = reader.optional("ipv4", "write a /24 like 10.1.10.0/24");
    if let Some(net) = ipv4.filter(|net| net.prefix_len() != 24 || net.trunc() != *net) {
        let cause = format!("{net} is no /24 network");
        reader.fault(
            "ipv4",
            "NM0005",
            cause,
            "write a /24 like 10.1.10.0/24".to_owned(),
        );
    }
    let exit = match reader.node("exit") {
        Some(node) => {
            let object = name
                .as_ref()
                .map_or("exit".to_owned(), |name| format!("exit of \"{name}\""));
            let exit = reader
                .inner(object, node, &EXIT_FIELDS)
                .map(|mut reader| Exit {
                    priority: reader.number("priority", 0..=65535).map_or(100, to_u16),
                    weight: reader.number("weight", 1..=256).map_or(1, to_u16),
                    numbered: reader.boolean("numbered").unwrap_or(false),
                    ipv4: reader.boolean("ipv4").unwrap_or(false),
                });
            Some(exit?)
        }
        None => None,
    };
    Some(Resource {
        name: name?,
        node: node?,
        prefix: prefix?,
        public_key: public_key?.0,
        endpoint: endpoint?,
        listen_port: listen_port.map(to_u16),
        keepalive: keepalive.map(to_u16),
        mtu: mtu.map(to_u16),
        interface,
        ipv4,
        exit,
        places: reader.places.clone(),
    })
}

/// `Some(None)` is a hidden resource, `None` a fault.
fn endpoint(reader: &mut Reader<'_>) -> Option<Option<SocketAddr>> {
    if reader.node("endpoint").is_none() {
        return Some(None);
    }
    let remedy = "write address and port: \"[2001:db8::10]:51820\" or \"192.0.2.10:51820\"";
    let EndpointText(endpoint) = reader.optional("endpoint", remedy)?;
    let address = endpoint.ip();
    let useless = match address {
        IpAddr::V6(a) => {
            a.is_unspecified() || a.is_multicast() || a.segments()[0] & 0xffc0 == 0xfe80
        }
        IpAddr::V4(a) => a.is_unspecified() || a.is_multicast() || a.is_broadcast(),
    };
    if useless {
        let cause = format!("{address} cannot be reached by other nodes");
        reader.fault(
            "endpoint",
            "NM0007",
            cause,
            "name a unicast address of the node".to_owned(),
        );
        return None;
    }
    if endpoint.port() == 0 {
        let cause = "port 0 is no port".to_owned();
        reader.fault("endpoint", "NM0007", cause, remedy.to_owned());
        return None;
    }
    Some(Some(endpoint))
}

struct EndpointText(SocketAddr);

impl std::str::FromStr for EndpointText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        text.parse().map(Self).map_err(|_| {
            if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
                "has no port"
            } else {
                "is not an address with a port"
            }
        })
    }
}

struct KeyText(PublicKey);

impl std::str::FromStr for KeyText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|_| "is not base64")?;
        if bytes.len() != 32 {
            return Err("does not hold 32 bytes");
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Err("is all zero");
        }
        Ok(Self(PublicKey(text.to_owned())))
    }
}

/// The readers have checked the range.
fn to_u16(number: i64) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
