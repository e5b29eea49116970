//! What an operator, or another daemon, has put on the machine is theirs: it is used where it
//! serves, refused by name where it is in the way, and still there afterwards.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use netmesh::kernel::netns;
use netmesh_tests::{Lab, eventually};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt,
    socket, sockopt,
};
use serde_json::Value;

/// A router with a link beside the mesh, over which it is managed.
fn lab() -> Lab {
    let mut lab = Lab::mesh();
    lab.machine("office");
    lab.wire(("router", "mgmt"), ("office", "eth0"));
    lab.ip("office", "addr add fe80::99/64 dev eth0 nodad");
    // Who says it is no router loses the routes it advertised (RFC 4861 section 7.2.5).
    set_sysctl(&lab, "office", "ipv6/conf/all/forwarding", "1");
    lab
}

fn defaults(lab: &Lab) -> Vec<String> {
    let output = std::process::Command::new("ip")
        .args([
            "-n",
            &lab.name("router"),
            "-6",
            "-j",
            "route",
            "show",
            "default",
        ])
        .output()
        .expect("ip starts");
    let routes: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |route: &Value, field: &str| route[field].as_str().unwrap_or_default().to_owned();
    let mut found: Vec<String> = routes
        .iter()
        .map(|route| {
            format!(
                "{} {} {} {}",
                text(route, "gateway"),
                text(route, "dev"),
                text(route, "protocol"),
                route["metric"]
            )
        })
        .collect();
    found.sort();
    found
}

fn sysctl(lab: &Lab, machine: &str, path: &str) -> String {
    netns::run_in(&lab.at(machine), || {
        std::fs::read_to_string(format!("/proc/sys/net/{path}"))
    })
    .expect("the machine")
    .expect("the sysctl")
    .trim()
    .to_owned()
}

fn set_sysctl(lab: &Lab, machine: &str, path: &str, value: &str) {
    netns::run_in(&lab.at(machine), || {
        std::fs::write(format!("/proc/sys/net/{path}"), value)
    })
    .expect("the machine")
    .expect("the sysctl");
}

/// Everything a machine holds, a line a fact.
fn everything(lab: &Lab, machine: &str) -> BTreeSet<String> {
    let mut lines: BTreeSet<String> = lab
        .residue(machine)
        .into_iter()
        .map(|(name, value)| format!("{name}: {}", value.trim()))
        .collect();
    if let Value::Object(tables) = lab.dump(machine, &[]) {
        for (table, rows) in tables {
            match rows {
                Value::Array(rows) => {
                    lines.extend(rows.iter().map(|row| format!("{table}: {row}")))
                }
                other => {
                    lines.insert(format!("{table}: {other}"));
                }
            }
        }
    }
    lines
}

#[track_caller]
fn assert_same(after: &BTreeSet<String>, before: &BTreeSet<String>) {
    let differs: Vec<_> = after.symmetric_difference(before).collect();
    assert!(differs.is_empty(), "{differs:#?}");
}

/// Refused as input, naming all of `words`, and nothing is changed.
fn refused(lab: &Lab, machine: &str, words: &[&str]) {
    let before = everything(lab, machine);
    for command in [&["plan"][..], &["apply"]] {
        let output = lab.try_netmesh(machine, command);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{command:?}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{command:?}, {word}: {stderr}");
        }
        assert!(stderr.contains("nothing was changed"), "{stderr}");
    }
    assert_same(&everything(lab, machine), &before);
}

#[test]
fn a_default_route_of_the_operator_is_never_replaced() {
    let lab = lab();
    lab.ip(
        "router",
        "route add default via fe80::99 dev mgmt proto static",
    );
    let theirs = "fe80::99 mgmt static 1024";
    refused(
        &lab,
        "router",
        &["::/0", "via fe80::99 dev mgmt proto static"],
    );
    assert_eq!(defaults(&lab), [theirs]);

    // With a metric of its own it is a fallback that stays one.
    lab.ip("router", "-6 route del default");
    lab.ip(
        "router",
        "route add default via fe80::99 dev mgmt proto static metric 2000",
    );
    let theirs = "fe80::99 mgmt static 2000";
    lab.apply_all();
    lab.assert_settled();
    assert_eq!(
        defaults(&lab),
        ["2a02:1800:10:1052::4 eth0 110 1024", theirs]
    );
    let _ = lab.netmesh("router", &["destroy", "--yes"]);
    assert_eq!(defaults(&lab), [theirs]);
}

#[test]
fn routes_and_addresses_that_are_there_already_serve_and_stay() {
    let lab = lab();
    // As an operator sets up a router by hand: just what the objects ask for.
    lab.ip("router", "addr add 2a02:1800:10:1052::5/127 dev eth0 nodad");
    lab.ip(
        "router",
        "route add default via 2a02:1800:10:1052::4 dev eth0 onlink proto static",
    );
    lab.ip(
        "router",
        "neigh add 2a02:1800:10:1052::4 dev eth0 lladdr 02:00:00:00:00:01",
    );
    lab.ip(
        "router",
        "neigh change 2a02:1800:10:1052::4 dev eth0 lladdr 02:00:00:00:00:01 nud permanent",
    );
    let neighbour = |lab: &Lab| {
        let output = std::process::Command::new("ip")
            .args(["-n", &lab.name("router"), "neigh", "show", "dev", "eth0"])
            .output()
            .expect("ip starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text
            .lines()
            .find(|line| line.starts_with("2a02:1800:10:1052::4 "));
        line.unwrap_or_default().to_owned()
    };
    let before = everything(&lab, "router");
    let entry = neighbour(&lab);
    assert!(entry.contains("PERMANENT"), "{entry}");
    let _ = lab.netmesh("router", &["apply"]);
    let _ = lab.netmesh("router", &["plan", "--exit-code"]);
    assert_eq!(defaults(&lab), ["2a02:1800:10:1052::4 eth0 static 1024"]);
    assert_eq!(neighbour(&lab), entry);
    let _ = lab.netmesh("router", &["destroy", "--yes"]);
    assert_same(&everything(&lab, "router"), &before);
    assert_eq!(neighbour(&lab), entry);
}

#[test]
fn an_address_with_another_length_is_refused() {
    let lab = lab();
    lab.ip("router", "addr add 2a02:1800:10:1052::5/64 dev eth0 nodad");
    refused(
        &lab,
        "router",
        &[
            "2a02:1800:10:1052::5/127",
            "2a02:1800:10:1052::5/64",
            "eth0",
        ],
    );
}

/// Sends a router advertisement with a lifetime of half an hour (RFC 4861 section 4.2).
fn advertise(lab: &Lab, to: Ipv6Addr) {
    let sent = netns::run_in(&lab.at("office"), || {
        let socket = socket(
            AddressFamily::Inet6,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::IcmpV6,
        )?;
        setsockopt(&socket, sockopt::Ipv6Ttl, &255)?;
        let scope = nix::net::if_::if_nametoindex("eth0")?;
        let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, scope));
        // Type, code, checksum (the kernel's), hop limit, flags, lifetime, two timers.
        let message = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
        sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty())
    });
    assert_eq!(sent.expect("the machine"), Ok(16));
}

#[test]
fn a_default_route_from_an_advertisement_is_not_lost() {
    let lab = lab();
    set_sysctl(&lab, "router", "ipv6/conf/mgmt/accept_ra", "1");
    lab.ip("router", "addr add fe80::5/64 dev mgmt nodad");
    let advertised = || {
        eventually("the route is learned", Duration::from_secs(10), || {
            advertise(&lab, "fe80::5".parse().expect("an address"));
            !defaults(&lab).is_empty()
        });
    };
    advertised();
    let theirs = "fe80::99 mgmt ra 1024";
    assert_eq!(defaults(&lab), [theirs]);
    // The kernel would drop it with the first packet it may forward.
    refused(
        &lab,
        "router",
        &["fe80::99", "net.ipv6.conf.mgmt.accept_ra=2"],
    );
    assert_eq!(defaults(&lab), [theirs]);
    // With the remedy it stays; and is then in the way of ours, unless it has its own metric.
    set_sysctl(&lab, "router", "ipv6/conf/mgmt/accept_ra", "2");
    refused(&lab, "router", &["::/0", "via fe80::99 dev mgmt proto ra"]);
    lab.ip("router", "-6 route del default");
    set_sysctl(&lab, "router", "ipv6/conf/mgmt/ra_defrtr_metric", "2000");
    advertised();
    let theirs = "fe80::99 mgmt ra 2000";
    lab.apply_all();
    lab.assert_settled();
    assert_eq!(
        defaults(&lab),
        ["2a02:1800:10:1052::4 eth0 110 1024", theirs]
    );
    let _ = lab.netmesh("router", &["destroy", "--yes"]);
    assert_eq!(defaults(&lab), [theirs]);
}

#[test]
fn an_advertised_route_that_comes_later_is_left_alone() {
    let lab = lab();
    lab.ip("router", "addr add fe80::5/64 dev mgmt nodad");
    set_sysctl(&lab, "router", "ipv6/conf/mgmt/accept_ra", "2");
    lab.apply_all();
    eventually("the route is learned", Duration::from_secs(10), || {
        advertise(&lab, "fe80::5".parse().expect("an address"));
        defaults(&lab).len() == 2
    });
    lab.assert_settled();
    let _ = lab.netmesh("router", &["apply"]);
    let _ = lab.netmesh("router", &["destroy", "--yes"]);
    assert_eq!(defaults(&lab), ["fe80::99 mgmt ra 1024"]);
}

#[test]
fn names_that_are_taken_are_refused() {
    let lab = lab();
    let resource = lab.resource("gw").to_string();
    let ip = |words: &[&str]| {
        let status = std::process::Command::new("ip").args(words).status();
        assert!(status.expect("ip starts").success(), "ip {words:?}");
    };
    ip(&["netns", "add", &resource]);
    ip(&["-n", &resource, "link", "add", "theirs", "type", "bridge"]);
    refused(
        &lab,
        "node-1",
        &[&format!("network namespace {resource}"), "ip netns del"],
    );
    let _ = lab.netmesh("node-1", &["destroy", "--yes"]);
    ip(&["-n", &resource, "link", "set", "theirs", "up"]);
    ip(&["netns", "del", &resource]);

    let plan = lab.json("node-1", &["plan"]).to_string();
    let at = plan.find("wg-").expect("a tunnel");
    let name: String = plan[at..]
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
        .collect();
    lab.ip("node-1", &format!("link add {name} type bridge"));
    refused(&lab, "node-1", &[&format!("link {name}"), "not ours"]);
    lab.ip("node-1", &format!("link del {name}"));
    lab.apply_all();

    // In a resource's namespace too: made while its own were away.
    for (kind, made) in [
        ("wg-", "type bridge"),
        ("br-", "type veth peer name theirs"),
    ] {
        let name = name.replace("wg-", kind);
        ip(&["-n", &resource, "link", "del", &name]);
        let mut add = vec!["-n", &resource, "link", "add", &name];
        add.extend(made.split(' '));
        ip(&add);
        let words = [&format!("link {name} in {resource}"), "not ours"];
        let before = everything(&lab, "node-1");
        let links = || {
            let output = std::process::Command::new("ip")
                .args(["-n", &resource, "-o", "link"])
                .output();
            String::from_utf8_lossy(&output.expect("ip starts").stdout).into_owned()
        };
        let theirs = links();
        refused(&lab, "node-1", &words);
        assert_same(&everything(&lab, "node-1"), &before);
        assert_eq!(links(), theirs);
        ip(&["-n", &resource, "link", "del", &name]);
        lab.apply_all();
    }
}

#[test]
fn forwarding_of_single_links_is_as_before() {
    let lab = lab();
    let paths = [
        ("ipv6/conf/mgmt/forwarding", "1"),
        ("ipv4/conf/mgmt/forwarding", "1"),
        ("ipv4/conf/all/accept_redirects", "1"),
    ];
    for (path, value) in paths {
        set_sysctl(&lab, "router", path, value);
    }
    let before = everything(&lab, "router");
    let _ = lab.netmesh("router", &["apply"]);
    assert_eq!(sysctl(&lab, "router", "ipv6/conf/eth0/forwarding"), "1");
    let _ = lab.netmesh("router", &["destroy", "--yes"]);
    assert_same(&everything(&lab, "router"), &before);
    for (path, value) in paths {
        assert_eq!(sysctl(&lab, "router", path), value, "{path}");
    }
}
