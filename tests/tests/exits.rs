//! Several exits of one network: every resource uses one of them, both ways.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use netmesh::demo::traffic::ping;
use netmesh::kernel::ethtool;
use netmesh_tests::{INTERNET, Lab, RESOURCES, Resource, eventually};

/// The usual network and a second exit beside the hidden resource.
const SECOND: Resource = Resource {
    name: "gw2",
    node: "node-3",
    index: 4,
    exit: true,
    hidden: false,
};

fn resources() -> Vec<Resource> {
    let mut all = RESOURCES.to_vec();
    all.push(SECOND);
    all
}

fn lab() -> Lab {
    let mut lab = Lab::mesh();
    lab.wire(("node-3", "eth1"), ("switch", "exit2"));
    lab.ip("switch", "link set exit2 master segment");
    for (machine, link) in [("switch", "exit2"), ("node-3", "eth1")] {
        ethtool::set_tx_checksum(&lab.at(machine), link, false).unwrap();
    }
    lab.configure(
        "node-3",
        "node = \"node-3\"\n[segment]\nparent = \"eth1\"\n",
    );
    lab.key(&SECOND);
    lab.write_network(&resources());
    lab
}

/// Writes what the first and the second exit say of themselves to every node, and applies it.
fn exits(lab: &Lab, first: &str, second: &str) {
    lab.write_network(&resources());
    for node in lab.nodes() {
        let path = lab.config(&node).join("networks/network.toml");
        let text = fs::read_to_string(&path).unwrap();
        let text = text
            .replacen("exit = { }", &format!("exit = {{ {first} }}"), 1)
            .replacen("exit = { }", &format!("exit = {{ {second} }}"), 1);
        fs::write(path, text).unwrap();
    }
    lab.apply_all();
    lab.assert_settled();
}

/// Which exit each resource uses, as every node derives it.
fn uses(lab: &Lab) -> BTreeMap<String, String> {
    let per_node = lab.nodes().into_iter().map(|node| {
        let report = lab.json(&node, &["check", "--print"]);
        let resources = report["networks"][0]["resources"].as_array().unwrap();
        let pairs = resources.iter().filter_map(|resource| {
            let exit = resource["uses"].as_str()?;
            Some((resource["name"].as_str()?.to_owned(), exit.to_owned()))
        });
        pairs.collect::<BTreeMap<_, _>>()
    });
    let all: BTreeSet<BTreeMap<String, String>> = per_node.collect();
    assert_eq!(all.len(), 1, "every node derives the same: {all:?}");
    all.into_iter().next().unwrap()
}

/// Every resource talks to the internet both ways, and packets come back through the exit it
/// uses, in the data plane's table and in the kernel's.
fn assert_everybody_is_connected(lab: &Lab) {
    let uses = uses(lab);
    let routes = lab.json("router", &["route", "list"]);
    let routes = routes["routes"].as_array().unwrap();
    for resource in &resources() {
        let exit = uses.get(resource.name).map_or(resource.name, |exit| exit);
        let exit = resources().into_iter().find(|other| other.name == exit);
        let [_, _, _, index, ..] = lab.address(&exit.unwrap()).segments();
        let gateway = format!("fe80::{index:x}:1");
        let prefix = lab.prefix(resource);
        let route = routes.iter().find(|row| row["prefix"] == prefix).unwrap();
        assert_eq!(route["route"]["via"]["gateway"], gateway, "{prefix}");
        let kernel = std::process::Command::new("ip")
            .args(["-n", &lab.name("router"), "-6", "route", "show", &prefix])
            .output()
            .unwrap();
        let kernel = String::from_utf8(kernel.stdout).unwrap();
        assert!(kernel.contains(&format!("via {gateway} ")), "{kernel}");

        let (here, address) = (
            lab.resource(resource.name),
            IpAddr::V6(lab.address(resource)),
        );
        eventually("the internet answers", Duration::from_secs(10), || {
            ping(&here, address, INTERNET.into(), 104, 1)
                .unwrap()
                .received
                == 1
        });
        let back = ping(&lab.at("provider"), INTERNET.into(), address, 1400, 3).unwrap();
        assert_eq!(back.received, 3, "from the internet to {}", resource.name);
    }
}

#[test]
fn resources_share_the_exits_of_the_best_priority() {
    let lab = lab();
    exits(&lab, "", "");
    assert_everybody_is_connected(&lab);
    let status = lab.json("node-2", &["status"]);
    let exits_in_use = &status["networks"][0]["exits"];
    assert_eq!(*exits_in_use, serde_json::json!(["gw", "gw2"]));

    // All but nothing for the first, and the other way round: both members change sides.
    exits(&lab, "weight = 256", "weight = 1");
    let first = uses(&lab);
    assert_everybody_is_connected(&lab);
    exits(&lab, "weight = 1", "weight = 256");
    assert_everybody_is_connected(&lab);
    let second = uses(&lab);
    assert!(
        second.iter().any(|(name, exit)| first[name] != *exit),
        "{first:?}"
    );

    // One is kept in reserve, then used alone.
    exits(&lab, "priority = 1", "priority = 2");
    assert!(uses(&lab).values().all(|exit| exit == "gw"));
    assert_everybody_is_connected(&lab);
    exits(&lab, "priority = 2", "priority = 1");
    assert!(uses(&lab).values().all(|exit| exit == "gw2"));
    assert_everybody_is_connected(&lab);
}
