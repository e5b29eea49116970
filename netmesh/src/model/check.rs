//! What must hold between objects: everything derived is unique where it has to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::address::Index;
use super::derive::Derived;
use super::fault::{Fault, Faults, Severity};
use super::name::nearest;
use super::network::{Network, Resource};
use super::node::NodeConfig;

/// Checks all objects of a node together.
///
/// # Errors
/// Every fault; [`Faults::has_errors`] tells whether the objects are refused.
pub fn check(networks: &[Network], node: Option<&NodeConfig>) -> Result<(), Faults> {
    let mut faults = Faults::default();
    for network in networks {
        prefixes(network, &mut faults);
        meeting(network, &mut faults);
        collisions_in(network, &mut faults);
    }
    across(networks, &mut faults);
    if let Some(node) = node {
        on_node(networks, node, &mut faults);
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults)
    }
}

fn prefixes(network: &Network, faults: &mut Faults) {
    for resource in &network.resources {
        match network.allocation.index(&resource.prefix) {
            None => faults.push(of_resource(
                resource,
                "prefix",
                "NM0101",
                format!(
                    "{} lies outside the allocation {}",
                    resource.prefix, network.allocation
                ),
                "choose a /64 inside it",
            )),
            Some(Index::SEGMENT) => faults.push(of_resource(
                resource,
                "prefix",
                "NM0102",
                format!("{} is the segment (index 0)", resource.prefix),
                "choose another /64: the first one is where exits meet the router",
            )),
            Some(_) => {}
        }
        let [hi, lo] = resource.prefix.last_bytes();
        // RFC 3927 section 2.1 reserves the first and last 256 addresses of 169.254/16.
        if network.wireguard_ipv4.network().octets()[..2] == [169, 254] && (hi == 0 || hi == 255) {
            faults.push(Fault {
                severity: Severity::Warning,
                ..of_resource(
                    resource,
                    "prefix",
                    "NM0103",
                    format!("169.254.{hi}.{lo} is in a reserved part of 169.254.0.0/16"),
                    "it works between our own interfaces; another pool is \
                     wireguard_ipv4 = \"172.16.0.0/16\"",
                )
            });
        }
    }
}

/// Every pair of resources needs one side that can be reached.
fn meeting(network: &Network, faults: &mut Faults) {
    let exits = network
        .resources
        .iter()
        .filter(|resource| resource.exit.is_some())
        .count();
    if exits == 0 && !network.isolated && !network.resources.is_empty() {
        faults.push(of_network(
            network,
            "resource",
            "NM0104",
            "no resource is an exit".to_owned(),
            "add `exit = { }` to one of them, or say `isolated = true`",
        ));
    }
    if exits > 0 && network.isolated {
        faults.push(of_network(
            network,
            "isolated",
            "NM0105",
            "the network is isolated and has an exit".to_owned(),
            "take out one of the two",
        ));
    }
    for exit in network
        .resources
        .iter()
        .filter(|resource| resource.exit.is_some())
    {
        if exit.endpoint.is_none() && network.resources.len() > 1 {
            faults.push(of_resource(
                exit,
                "exit",
                "NM0106",
                "an exit must be reachable and has no endpoint".to_owned(),
                "give it an endpoint",
            ));
        }
    }
    let hidden: Vec<&Resource> = network
        .resources
        .iter()
        .filter(|resource| resource.endpoint.is_none())
        .collect();
    if hidden.len() > 1 && hidden.len() == network.resources.len() {
        faults.push(of_network(
            network,
            "resource",
            "NM0107",
            "every resource is hidden: nobody can meet".to_owned(),
            "give at least one of them an endpoint",
        ));
    }
}

fn collisions_in(network: &Network, faults: &mut Faults) {
    let all: Vec<Owned<'_>> = network
        .resources
        .iter()
        .map(|resource| owned(network, resource))
        .collect();
    unique(
        faults,
        "name",
        "NM0201",
        "choose another name",
        &all,
        |resource, _| resource.name.to_string(),
    );
    unique(
        faults,
        "prefix",
        "NM0202",
        "give each resource its own /64",
        &all,
        |resource, _| resource.prefix.to_string(),
    );
    unique(
        faults,
        "ipv4",
        "NM0203",
        "set `ipv4 = \"10.x.y.0/24\"` by hand in one of them",
        &all,
        |_, derived| derived.prefix_v4.to_string(),
    );
    unique(
        faults,
        "ipv4",
        "NM0204",
        "set `ipv4 = \"10.x.y.0/24\"` by hand in one of them",
        &all,
        |_, derived| derived.wireguard_v4.addr().to_string(),
    );
}

/// Across networks: names, keys, allocations, prefixes, namespaces.
fn across(networks: &[Network], faults: &mut Faults) {
    let mut names = BTreeMap::new();
    for network in networks {
        if names.insert(&network.name, network).is_some() {
            faults.push(of_network(
                network,
                "network",
                "NM0205",
                format!("another network is named {} too", network.name),
                "choose another name",
            ));
        }
    }
    for (i, one) in networks.iter().enumerate() {
        for two in &networks[i + 1..] {
            if one.allocation != two.allocation && one.allocation.overlaps(&two.allocation) {
                faults.push(of_network(
                    two,
                    "allocation",
                    "NM0206",
                    format!(
                        "{} overlaps {} of network {}",
                        two.allocation, one.allocation, one.name
                    ),
                    "networks share a whole allocation or none of it",
                ));
            }
        }
    }
    let all: Vec<Owned<'_>> = networks
        .iter()
        .flat_map(|network| network.resources.iter().map(|it| owned(network, it)))
        .collect();
    unique(
        faults,
        "public_key",
        "NM0207",
        "make a key pair for each: netmesh key gen NETWORK/RESOURCE",
        &all,
        |resource, _| resource.public_key.0.clone(),
    );
    // Within one network the prefix check has said so already.
    let mut owners: BTreeMap<String, &Network> = BTreeMap::new();
    for network in networks {
        for resource in &network.resources {
            let prefix = resource.prefix.to_string();
            let first = *owners.entry(prefix.clone()).or_insert(network);
            if first.name != network.name {
                faults.push(of_resource(
                    resource,
                    "prefix",
                    "NM0208",
                    format!("{prefix} belongs to network {} too", first.name),
                    "give each resource its own /64",
                ));
            }
        }
    }
    unique(
        faults,
        "name",
        "NM0209",
        "rename one of the two",
        &all,
        |_, derived| derived.netns.clone(),
    );
}

/// What must be unique on the node, and what the node must have.
fn on_node(networks: &[Network], node: &NodeConfig, faults: &mut Faults) {
    let hosted: Vec<Owned<'_>> = networks
        .iter()
        .flat_map(|network| {
            network
                .resources_of(&node.node)
                .map(|it| owned(network, it))
        })
        .collect();
    unique(
        faults,
        "interface",
        "NM0301",
        "set `interface = \"...\"` by hand in one of them",
        &hosted,
        |_, derived| derived.wireguard.clone(),
    );
    let with_port: Vec<Owned<'_>> = hosted
        .iter()
        .filter(|(_, resource, _)| resource.listen_port().is_some())
        .cloned()
        .collect();
    unique(
        faults,
        "endpoint",
        "NM0302",
        "give each resource of a node its own UDP port",
        &with_port,
        |resource, _| resource.listen_port().unwrap_or_default().to_string(),
    );
    let exits: Vec<Owned<'_>> = hosted
        .iter()
        .filter(|(_, resource, _)| resource.exit.is_some())
        .cloned()
        .collect();
    unique(
        faults,
        "prefix",
        "NM0303",
        "choose another /64 for one of them",
        &exits,
        |_, derived| derived.exit_peer.clone(),
    );
    if node.segment.is_none()
        && let Some((_, exit, _)) = exits.first()
    {
        faults.push(of_resource(
            exit,
            "exit",
            "NM0304",
            format!("node {} hosts this exit and has no [segment]", node.node),
            "say in node.toml how exits reach the segment: [segment] parent = \"br-seg\"",
        ));
    }
    if let Some(router) = &node.router {
        for (i, one) in router.allocations.iter().enumerate() {
            if router.allocations[..i]
                .iter()
                .any(|other| other.overlaps(one))
            {
                faults.push(Fault {
                    severity: Severity::Error,
                    code: "NM0305",
                    place: router.places.of("allocations"),
                    object: "router.allocations".to_owned(),
                    cause: format!("{one} overlaps another one"),
                    remedy: "list each block once".to_owned(),
                });
            }
        }
    }
}

/// Every value of `key` may be there once.
fn unique<K: Ord + Display>(
    faults: &mut Faults,
    field: &'static str,
    code: &'static str,
    remedy: &'static str,
    all: &[Owned<'_>],
    key: impl Fn(&Resource, &Derived) -> K,
) {
    let mut first: BTreeMap<K, (&Network, &Resource)> = BTreeMap::new();
    for (network, resource, derived) in all {
        let value = key(resource, derived);
        if let Some((of, other)) = first.get(&value) {
            let place = other.places.of(field);
            let (line, _) = place.line_column();
            let cause = format!(
                "{value} is that of resource \"{}\" of network {} too ({}:{line})",
                other.name, of.name, place.file.name
            );
            faults.push(of_resource(resource, field, code, cause, remedy));
        } else {
            first.insert(value, (network, resource));
        }
    }
}

/// A resource, whose it is, and what follows from it.
type Owned<'a> = (&'a Network, &'a Resource, Derived);

fn owned<'a>(network: &'a Network, resource: &'a Resource) -> Owned<'a> {
    (network, resource, network.derive(resource))
}

/// Nodes that are named in a remedy.
const NAMED: usize = 10;

/// A warning where no object knows a node that is no router: most likely its name is misspelt, here
/// or there. Means something only of all objects of a node.
#[must_use]
pub fn idle(networks: &[Network], node: &NodeConfig) -> Option<Fault> {
    let hosts = |network: &Network| network.resources_of(&node.node).next().is_some();
    if node.router.is_some() || networks.iter().any(hosts) {
        return None;
    }
    let resources = networks.iter().flat_map(|network| &network.resources);
    let nodes: BTreeSet<&str> = resources.map(|resource| resource.node.as_str()).collect();
    let shown: Vec<&str> = nodes.iter().copied().take(NAMED).collect();
    let more = if nodes.len() > NAMED { ", ..." } else { "" };
    let mut cause = format!("no network object has a resource on node {}", node.node);
    let mut remedy = "put the objects into networks/ beside node.toml".to_owned();
    if !nodes.is_empty() {
        cause.push_str(&format!("; nodes named there: {}{more}", shown.join(", ")));
        remedy = match nearest(nodes, node.node.as_str()) {
            Some(near) => format!("did you mean node = \"{near}\"?"),
            None => "name the node as the objects do".to_owned(),
        };
    }
    Some(Fault {
        severity: Severity::Warning,
        code: "NM0306",
        place: node.places.of("node"),
        object: "node.node".to_owned(),
        cause,
        remedy,
    })
}

fn of_resource(
    resource: &Resource,
    field: &'static str,
    code: &'static str,
    cause: String,
    remedy: &str,
) -> Fault {
    Fault {
        severity: Severity::Error,
        code,
        place: resource.places.of(field),
        object: format!("resource \"{}\".{field}", resource.name),
        cause,
        remedy: remedy.to_owned(),
    }
}

fn of_network(
    network: &Network,
    field: &'static str,
    code: &'static str,
    cause: String,
    remedy: &str,
) -> Fault {
    Fault {
        severity: Severity::Error,
        code,
        place: network.places.of(field),
        object: format!("network \"{}\".{field}", network.name),
        cause,
        remedy: remedy.to_owned(),
    }
}
