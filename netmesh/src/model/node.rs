//! A node's own configuration.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::address::Allocation;
use super::fault::Faults;
use super::name::{Name, interface_name_fault, is_born, nearest};
use super::reader::{Places, Reader};
use super::tree;

/// Fields of the file.
pub(super) const NODE_FIELDS: [&str; 4] = ["node", "wireguard", "router", "segment"];
/// Fields of `[router]`.
pub(super) const ROUTER_FIELDS: [&str; 7] = [
    "allocations",
    "uplink",
    "uplink_addresses",
    "gateway",
    "martians",
    "not_martians",
    "segment",
];
/// Fields of `[segment]`.
pub(super) const SEGMENT_FIELDS: [&str; 2] = ["parent", "device"];

/// `node.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeConfig {
    /// The node's name, as the objects use it.
    pub node: Name,
    /// Which WireGuard it runs.
    pub wireguard: Userspace,
    /// Its role as an upstream router.
    pub router: Option<Router>,
    /// How its exits reach the segment.
    pub segment: Option<SegmentPort>,
    /// Where it stands.
    #[serde(skip)]
    pub places: Places,
}

/// Which WireGuard implementation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Userspace {
    /// The kernel's where it is there, else the embedded one.
    #[default]
    Auto,
    /// The kernel's or none.
    Kernel,
    /// The embedded userspace one.
    Embedded,
    /// Another program, called with the interface's name.
    Program(String),
}

/// The upstream router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Router {
    /// The blocks it routes.
    pub allocations: Vec<Allocation>,
    /// Interface to the provider.
    pub uplink: String,
    /// Addresses to put on it; none leaves it to the operator.
    pub uplink_addresses: Vec<IpNet>,
    /// The provider's address.
    pub gateway: Option<IpAddr>,
    /// Prefixes that are martians on the uplink (`true`), or are none (`false`), whatever the
    /// registries (RFC 6890) say.
    pub martians: BTreeMap<IpNet, bool>,
    /// Interface to the segment.
    pub segment: String,
    /// Where it stands.
    #[serde(skip)]
    pub places: Places,
}

/// How an exit reaches the segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentPort {
    /// A bridge (by a veth) or a NIC (by a macvlan).
    Parent(String),
    /// A device that is moved into the exit's namespace.
    Device(String),
}

/// Reads `node.toml`.
///
/// # Errors
/// Every fault of the file.
pub fn parse_node(file: &str, text: &str) -> Result<NodeConfig, Faults> {
    let (source, root) = tree::parse(file, text)?;
    let mut faults = Faults::default();
    let node = Reader::new(&source, "node".into(), &root, &NODE_FIELDS, &mut faults)
        .and_then(|mut reader| read(&mut reader));
    match node {
        Some(node) if faults.is_empty() => Ok(node),
        _ => Err(faults),
    }
}

fn read(reader: &mut Reader<'_>) -> Option<NodeConfig> {
    let node: Option<Name> = reader.required("node", "give the node a name: node = \"node-1\"");
    let wireguard = read_wireguard(reader);
    let router = reader.node("router").map(|node| {
        reader
            .inner("router".into(), node, &ROUTER_FIELDS)
            .and_then(|mut reader| read_router(&mut reader))
    });
    let segment = reader.node("segment").map(|node| {
        reader
            .inner("segment".into(), node, &SEGMENT_FIELDS)
            .and_then(|mut reader| read_segment(&mut reader))
    });
    Some(NodeConfig {
        node: node?,
        wireguard,
        router: router.transpose_fault()?,
        segment: segment.transpose_fault()?,
        places: reader.places.clone(),
    })
}

/// A word, or a program.
fn read_wireguard(reader: &mut Reader<'_>) -> Userspace {
    let known = ["auto", "kernel", "embedded"];
    let text: Option<String> = reader.optional("wireguard", "");
    match text.as_deref() {
        None | Some("auto") => Userspace::Auto,
        Some("kernel") => Userspace::Kernel,
        Some("embedded") => Userspace::Embedded,
        Some(program) => {
            let near = nearest(known, program).filter(|_| !program.contains('/'));
            if program.is_empty() || near.is_some() {
                let cause = format!("{program:?} is none of {}", known.join(", "));
                let meant = near.map_or(String::new(), |near| format!("did you mean `{near}`? "));
                let remedy = format!("{meant}a program that is called so is named by its path");
                reader.fault("wireguard", "NM0005", cause, remedy);
            }
            Userspace::Program(program.to_owned())
        }
    }
}

/// `Some(None)` is a table with faults: the whole is `None` then.
trait TransposeFault<T> {
    fn transpose_fault(self) -> Option<Option<T>>;
}

impl<T> TransposeFault<T> for Option<Option<T>> {
    fn transpose_fault(self) -> Option<Option<T>> {
        match self {
            None => Some(None),
            Some(Some(value)) => Some(Some(value)),
            Some(None) => None,
        }
    }
}

fn read_router(reader: &mut Reader<'_>) -> Option<Router> {
    let remedy = "list the blocks: allocations = [\"2a02:1802:5e::/48\"]";
    let allocations: Vec<Allocation> = reader.texts("allocations", remedy);
    if reader.node("allocations").is_none() {
        reader.fault(
            "allocations",
            "NM0004",
            "is missing".to_owned(),
            remedy.to_owned(),
        );
    }
    let uplink = interface(reader, "uplink", true);
    let segment = interface(reader, "segment", true);
    let uplink_addresses = reader.texts(
        "uplink_addresses",
        "write addresses with their length: \"2001:db8::5/127\"",
    );
    let gateway: Option<IpAddr> =
        reader.optional("gateway", "write the provider's address: \"fe80::1\"");
    let martians = read_martians(reader);
    let (uplink, segment) = (uplink?, segment?);
    if uplink == segment {
        let cause = "is the uplink too".to_owned();
        reader.fault(
            "segment",
            "NM0008",
            cause,
            "a router needs two interfaces".to_owned(),
        );
    }
    Some(Router {
        allocations,
        uplink,
        uplink_addresses,
        gateway,
        martians,
        segment,
        places: reader.places.clone(),
    })
}

/// Both lists as one.
fn read_martians(reader: &mut Reader<'_>) -> BTreeMap<IpNet, bool> {
    let mut all = BTreeMap::new();
    for (field, is_martian) in [("martians", true), ("not_martians", false)] {
        let prefixes: Vec<IpNet> =
            reader.texts(field, "write prefixes: [\"100.64.0.0/10\", \"fd00::/8\"]");
        for prefix in prefixes {
            if prefix != prefix.trunc() {
                let cause = format!("{prefix} has bits set behind its length");
                let remedy = format!("write {}", prefix.trunc());
                reader.fault(field, "NM0005", cause, remedy);
            } else if all.insert(prefix, is_martian) == Some(!is_martian) {
                let cause = format!("{prefix} stands in `martians` too");
                let remedy = "take one out".to_owned();
                reader.fault(field, "NM0008", cause, remedy);
            }
        }
    }
    all
}

fn read_segment(reader: &mut Reader<'_>) -> Option<SegmentPort> {
    let parent = interface(reader, "parent", false);
    let device = interface(reader, "device", false);
    let remedy = "write `parent` (bridge or NIC) or `device` (moved into the exit)".to_owned();
    match (parent, device) {
        (Some(parent), None) => Some(SegmentPort::Parent(parent)),
        (None, Some(device)) => Some(SegmentPort::Device(device)),
        (Some(_), Some(_)) => {
            let cause = "stands beside `parent`: only one can be".to_owned();
            reader.fault("device", "NM0008", cause, remedy);
            None
        }
        (None, None) => {
            if reader.node("parent").is_none() && reader.node("device").is_none() {
                reader.fault("parent", "NM0004", "is missing".to_owned(), remedy);
            }
            None
        }
    }
}

fn interface(reader: &mut Reader<'_>, field: &'static str, required: bool) -> Option<String> {
    let remedy = "name a network interface of this node";
    let name: String = if required {
        reader.required(field, remedy)?
    } else {
        reader.optional(field, remedy)?
    };
    if let Some(fault) = interface_name_fault(&name) {
        let cause = format!("{name:?} is no interface name: {fault}");
        reader.fault(field, "NM0005", cause, remedy.to_owned());
        return None;
    }
    if is_born(&name) {
        let cause = format!("{name:?} is a device that network namespaces have by themselves");
        reader.fault(field, "NM0005", cause, remedy.to_owned());
        return None;
    }
    Some(name)
}
