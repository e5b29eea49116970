//! A mesh from objects: it comes up, it stays, it shrinks, it goes.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use netmesh::demo::traffic::{ping, tcp};
use netmesh_tests::{INTERNET, Lab, RESOURCES, eventually};

/// Every resource reaches the host behind the provider, and is reached from there.
fn assert_everybody_meets(lab: &Lab) {
    for resource in &RESOURCES {
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
        let back = ping(&lab.at("provider"), INTERNET.into(), address, 1420, 3).unwrap();
        assert_eq!(back.received, 3, "from the internet to {}", resource.name);
    }
}

#[test]
fn a_mesh_comes_up_and_a_second_apply_does_nothing() {
    let lab = Lab::mesh();
    lab.apply_all();
    assert_everybody_meets(&lab);
    lab.assert_settled();

    // Inside the mesh, the hidden one included, at once and both ways.
    for from in &RESOURCES {
        for to in RESOURCES.iter().filter(|to| to.name != from.name) {
            let (here, one, two) = (lab.resource(from.name), lab.address(from), lab.address(to));
            let pings = ping(&here, one.into(), two.into(), 1420, 2).unwrap();
            assert_eq!(pings.received, 2, "{} to {}", from.name, to.name);
        }
    }
    // IPv4 between resources.
    let ipv4 = |i: usize| {
        let [_, _, _, _, _, _, hi, lo, ..] = lab.address(&RESOURCES[i]).octets();
        IpAddr::V4(Ipv4Addr::new(10, hi, lo, 254))
    };
    let pings = ping(&lab.resource("web"), ipv4(1), ipv4(2), 500, 3).unwrap();
    assert_eq!(pings.received, 3, "IPv4 inside the mesh");
    // TCP through tunnel, exit and router, both ways.
    let (web, host) = (lab.resource("web"), lab.at("provider"));
    // The address a connection from the provider has.
    let there = (&host, "2a02:1800:10:1052::4".parse().unwrap());
    let here = (&web, IpAddr::V6(lab.address(&RESOURCES[1])));
    tcp(here, there, 300_000).unwrap();
    tcp(there, here, 300_000).unwrap();
}

#[test]
fn taking_a_resource_out_removes_exactly_its_traces() {
    let lab = Lab::mesh();
    lab.apply_all();
    assert_everybody_meets(&lab);
    let prefix = lab.prefix(&RESOURCES[1]);
    let [_, _, _, _, _, _, hi, lo, ..] = lab.address(&RESOURCES[1]).octets();
    let key = lab.public_key(&RESOURCES[1]).to_owned();
    let dump = |lab: &Lab| {
        [
            lab.dump("node-1", &["gw"]),
            lab.dump("node-3", &["home"]),
            lab.dump("router", &[]),
        ]
        .map(|dump| dump.to_string())
    };
    for text in dump(&lab) {
        assert!(
            text.contains(prefix.trim_end_matches("/64")),
            "{prefix} is known before"
        );
    }
    // A member is its key, its IPv4 network and its tunnel's address to the other members.
    let traces = [key, format!("10.{hi}.{lo}."), format!("169.254.{hi}.{lo}")];
    for text in &dump(&lab)[..2] {
        for trace in &traces {
            assert!(text.contains(trace), "{trace} is known before: {text}");
        }
    }
    lab.write_network(&[RESOURCES[0], RESOURCES[2]]);
    // Nothing is left for node-2, which must be said.
    let refused = lab.try_netmesh("node-2", &["apply"]);
    assert_eq!(refused.status.code(), Some(3));
    let _ = lab.netmesh("node-2", &["apply", "--empty"]);
    lab.apply_all();
    lab.assert_settled();
    for text in dump(&lab) {
        for trace in &traces {
            assert!(!text.contains(trace), "a trace, {trace}: {text}");
        }
        assert!(
            !text.contains(prefix.trim_end_matches("/64")),
            "a trace of {prefix}: {text}"
        );
    }
    assert!(!netmesh::kernel::netns::path(&lab.resource("web")).exists());
    // The others go on.
    let home = lab.address(&RESOURCES[2]);
    let pings = ping(&lab.resource("home"), home.into(), INTERNET.into(), 104, 3).unwrap();
    assert_eq!(pings.received, 3);
    // A packet to the prefix that is gone is answered by the router, not sent around.
    let gone = lab.address(&RESOURCES[1]);
    let lost = ping(&lab.at("provider"), INTERNET.into(), gone.into(), 104, 1).unwrap();
    assert_eq!(lost.received, 0);
}

#[test]
fn destroy_leaves_the_machine_as_found() {
    let lab = Lab::mesh();
    let snapshot = |lab: &Lab| {
        lab.nodes()
            .iter()
            .map(|node| (node.clone(), lab.dump(node, &[]), lab.residue(node)))
            .collect::<Vec<_>>()
    };
    let before = snapshot(&lab);
    lab.apply_all();
    assert_ne!(snapshot(&lab), before, "apply changes something");
    for node in lab.nodes() {
        let _ = lab.netmesh(&node, &["destroy", "--yes"]);
    }
    for (found, wanted) in snapshot(&lab).into_iter().zip(&before) {
        let node = &wanted.0;
        assert_eq!(found.1, wanted.1, "{node}");
        let (found, wanted) = (&found.2, &wanted.2);
        let differs = |name: &&String| found.get(*name) != wanted.get(*name);
        let names: Vec<_> = found.keys().chain(wanted.keys()).filter(differs).collect();
        assert!(names.is_empty(), "not as found on {node}: {names:?}");
    }
    for resource in RESOURCES {
        assert!(!netmesh::kernel::netns::path(&lab.resource(resource.name)).exists());
    }
    // And it comes up again.
    lab.apply_all();
    assert_everybody_meets(&lab);
}

#[test]
fn a_change_to_one_peer_keeps_the_sessions_of_the_others() {
    let lab = Lab::mesh();
    lab.apply_all();
    assert_everybody_meets(&lab);
    let age = |peer: &str| {
        let status = lab.json("node-1", &["status"]);
        let rows = status["tunnels"].as_array().unwrap().clone();
        let name = format!("{}/{peer}", lab.network());
        let row = rows
            .into_iter()
            .find(|row| row["peer"] == *name)
            .expect("the peer is there");
        row["handshake_seconds_ago"].as_u64().unwrap_or(0)
    };
    // Old enough to tell a new handshake from the old one.
    eventually("the handshake ages", Duration::from_secs(10), || {
        age("web") >= 2
    });
    lab.write_network(&[RESOURCES[0], RESOURCES[1]]);
    let _ = lab.netmesh("node-1", &["apply"]);
    assert!(age("web") >= 2, "the session with web went on");
    let web = lab.address(&RESOURCES[1]);
    let pings = ping(&lab.resource("web"), web.into(), INTERNET.into(), 104, 3).unwrap();
    assert_eq!(pings.received, 3);
}

#[test]
fn counters_say_exactly_what_was_sent() {
    let lab = Lab::mesh();
    lab.apply_all();
    assert_everybody_meets(&lab);
    let rows = |lab: &Lab| lab.json("router", &["counters"])["prefixes"].clone();
    let of = |rows: &serde_json::Value, prefix: &str| {
        let row = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["prefix"] == *prefix)
            .cloned();
        let row = row.expect("the prefix is counted");
        let number = |direction: &str, what: &str| row[direction][what].as_u64().unwrap();
        [
            number("to", "packets"),
            number("to", "bytes"),
            number("from", "packets"),
            number("from", "bytes"),
        ]
    };
    let before = rows(&lab);
    // All at once, two into each counter: those of all CPUs add up.
    std::thread::scope(|scope| {
        for resource in RESOURCES.iter().chain(&RESOURCES) {
            let lab = &lab;
            scope.spawn(move || {
                let (here, address) = (lab.resource(resource.name), lab.address(resource));
                let pings = ping(&here, address.into(), INTERNET.into(), 600, 50).unwrap();
                assert_eq!(pings.received, 50);
            });
        }
    });
    let after = rows(&lab);
    for resource in &RESOURCES {
        let prefix = lab.prefix(resource);
        let (before, after) = (of(&before, &prefix), of(&after, &prefix));
        let delta: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
        assert_eq!(delta, [100, 60_000, 100, 60_000], "{prefix}");
    }
}
