//! `netmesh run --mirror`: what a routing daemon puts into the kernel is forwarded by the programs,
//! what it takes out is not, and the longest match stays the kernel's.

use std::process::Command;

use netmesh::demo::traffic::ping;
use netmesh_tests::daemon::{Daemon, SOON};
use netmesh_tests::{Lab, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

const HOST: &str = "2001:db8:77::1";
const SOURCE: &str = "2001:db8:1::1";

/// A host, a router, a far network; nothing of netmesh's but a data plane on the router's ports.
fn field() -> Lab {
    let mut lab = Lab::new();
    for machine in ["host", "router", "far"] {
        lab.machine(machine);
    }
    lab.wire(("host", "eth0"), ("router", "left"));
    lab.wire(("router", "right"), ("far", "eth0"));
    for (machine, words) in [
        ("host", "addr add 2001:db8:1::1/64 dev eth0 nodad"),
        ("router", "addr add 2001:db8:1::ff/64 dev left nodad"),
        ("router", "addr add 2001:db8:2::ff/64 dev right nodad"),
        ("far", "addr add 2001:db8:2::1/64 dev eth0 nodad"),
        ("far", "addr add 2001:db8:2::2/64 dev eth0 nodad"),
        ("far", "addr add 2001:db8:77::1/128 dev lo"),
        ("far", "addr add 2001:db8:78::1/128 dev lo"),
        ("host", "-6 route add default via 2001:db8:1::ff"),
        ("far", "-6 route add default via 2001:db8:2::ff"),
    ] {
        lab.ip(machine, words);
    }
    for (machine, device) in [("host", "eth0"), ("far", "eth0")] {
        let at = lab.at(machine);
        netmesh::kernel::ethtool::set_gro(&at, device, true).expect("GRO on");
        netmesh::kernel::ethtool::set_tx_checksum(&at, device, false).expect("checksums off");
    }
    let sysctl = Command::new("ip")
        .args(["netns", "exec", &lab.name("router"), "sysctl", "-qw"])
        .arg("net.ipv6.conf.all.forwarding=1")
        .status();
    assert!(sysctl.is_ok_and(|status| status.success()));
    lab.configure("router", "node = \"router\"\n");
    let attach = ["dataplane", "attach", "--port", "left", "--port", "right"];
    let _ = lab.netmesh("router", &attach);
    lab
}

/// The routes of one origin, as `PREFIX WORDS`.
fn routes(lab: &Lab, origin: &str) -> Vec<String> {
    let rows = lab.json("router", &["route"])["routes"].clone();
    let rows = rows.as_array().expect("rows").iter();
    rows.filter(|row| row["origin"] == origin)
        .map(|row| {
            let active = if row["active"] == true {
                ""
            } else {
                " not preferred"
            };
            format!("{}{active}", row["prefix"].as_str().expect("a prefix"))
        })
        .collect()
}

fn forwarded(lab: &Lab) -> u64 {
    let ports = lab.json("router", &["counters", "--drops"])["ports"].clone();
    let of = |row: &Value| row["forwarded"]["packets"].as_u64().expect("a number");
    ports.as_array().expect("rows").iter().map(of).sum()
}

/// Pings that cross; tells how many packets, there and back, the programs forwarded.
fn crosses(lab: &Lab, host: &str) -> u64 {
    let (from, to) = (SOURCE.parse().unwrap(), host.parse().unwrap());
    eventually("the network carries packets", SOON, || {
        ping(&lab.at("host"), from, to, 104, 1).is_ok_and(|pings| pings.received == 1)
    });
    // Next hops resolved: the kernel has just forwarded by them.
    let before = forwarded(lab);
    let pings = ping(&lab.at("host"), from, to, 200, 20).expect("a socket");
    assert_eq!(pings.received, 20);
    forwarded(lab) - before
}

#[test]
fn routes_of_the_kernel_are_forwarded_fast_as_long_as_they_are_there() {
    let lab = field();
    let ip = |words: &str| lab.ip("router", words);
    ip("-6 route add 2001:db8:77::/48 via 2001:db8:2::1 proto bird");
    ip("-6 route add 2001:db8:78::/48 via 2001:db8:2::1 proto static");
    // Without a route in the table only the answers may be forwarded by the programs.
    let slow = crosses(&lab, HOST);
    let fast = slow + 20;
    assert!(slow <= 20);
    let daemon = Daemon::start(&lab, "router", &["--mirror", "bird,186"]);
    daemon.until_told("READY=1");
    eventually("the route is mirrored", SOON, || {
        routes(&lab, "kernel") == ["2001:db8:77::/48"]
    });
    assert_eq!(crosses(&lab, HOST), fast, "by the programs");
    assert_eq!(
        crosses(&lab, "2001:db8:78::1"),
        slow,
        "not of a protocol that is mirrored"
    );

    // One that is more specific and not mirrored must not be hidden by one that is.
    ip("-6 route add 2001:db8:77::/64 via 2001:db8:2::2 proto static");
    eventually("the longer prefix is left to the kernel", SOON, || {
        routes(&lab, "kernel") == ["2001:db8:77::/48", "2001:db8:77::/64"]
    });
    assert_eq!(
        crosses(&lab, HOST),
        slow,
        "the kernel forwards by its longest match"
    );
    ip("-6 route del 2001:db8:77::/64");
    eventually("the longer prefix is gone", SOON, || {
        routes(&lab, "kernel") == ["2001:db8:77::/48"]
    });
    assert_eq!(crosses(&lab, HOST), fast, "by the programs");

    // Of two routes the kernel follows the one of the lower metric, and so do we.
    ip("-6 route add unreachable 2001:db8:77::/48 metric 10 proto bird");
    let shown = || lab.json("router", &["route", "get", HOST])["routes"][0]["route"].clone();
    eventually("the better route is mirrored", SOON, || {
        shown() == "unreachable"
    });
    ip("-6 route del unreachable 2001:db8:77::/48 metric 10");
    eventually("the other route is back", SOON, || shown() != "unreachable");

    // What an operator puts there goes before it, and leaves it in its place when it goes.
    let _ = lab.netmesh("router", &["route", "add", "blackhole", "2001:db8:77::/48"]);
    assert_eq!(routes(&lab, "kernel"), ["2001:db8:77::/48 not preferred"]);
    assert_eq!(shown(), "blackhole");
    let _ = lab.netmesh("router", &["route", "del", "2001:db8:77::/48"]);
    assert_eq!(routes(&lab, "kernel"), ["2001:db8:77::/48"]);
    assert_eq!(crosses(&lab, HOST), fast, "by the programs");

    // Several next hops are one route.
    ip("-6 route replace 2001:db8:77::/48 proto bird \
        nexthop via 2001:db8:2::1 dev right weight 3 nexthop via 2001:db8:2::2 dev right");
    let weights = || {
        let paths = shown()["paths"].clone();
        let paths = paths.as_array().cloned().unwrap_or_default();
        paths
            .iter()
            .map(|path| path["weight"].as_u64().unwrap_or(0))
            .collect::<Vec<_>>()
    };
    eventually("two next hops are mirrored", SOON, || weights() == [3, 1]);

    // More changes than the kernel can tell of: what is lost is made good.
    let many: String = (0..3000)
        .map(|n| {
            format!(
                "route add 2001:db8:a{:x}:{:x}::/64 via 2001:db8:2::1 proto bird\n",
                n >> 8,
                n & 255
            )
        })
        .collect();
    let file = lab.config("router").join("batch");
    std::fs::write(&file, many).expect("a file");
    ip(&format!("-6 -batch {}", file.display()));
    eventually("3000 routes are mirrored", SOON, || {
        routes(&lab, "kernel").len() == 3001
    });
    ip("-6 route flush proto bird");
    eventually("they are gone", SOON, || routes(&lab, "kernel").is_empty());

    // A daemon that goes takes them along: nobody would tell when one of them goes.
    ip("-6 route add 2001:db8:77::/48 via 2001:db8:2::1 proto bird");
    eventually("the route is mirrored", SOON, || {
        routes(&lab, "kernel") == ["2001:db8:77::/48"]
    });
    let mut daemon = daemon;
    assert_eq!(daemon.ends(Signal::SIGTERM), Some(0));
    assert!(routes(&lab, "kernel").is_empty());
    assert_eq!(crosses(&lab, HOST), slow, "the kernel forwards");
}
