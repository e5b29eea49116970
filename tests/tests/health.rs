//! One of two exits dies without a word, and comes back: how long a stream goes into the void, and
//! who carries it afterwards.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use netmesh::kernel::{ethtool, snmp};
use netmesh_tests::daemon::{Daemon, SOON};
use netmesh_tests::pair::{LEFT, RIGHT};
use netmesh_tests::stream::Stream;
use netmesh_tests::{Lab, OutputText as _, eventually, scrape, slowness};
use nix::sys::signal::Signal;

const PREFIX: &str = "2a02:1814:9::/64";
const THERE: Ipv6Addr = Ipv6Addr::new(0x2a02, 0x1814, 9, 0, 0, 0, 0, 9);
const HERE: Ipv6Addr = Ipv6Addr::new(0x2a02, 0x1814, 1, 0, 0, 0, 0, 2);
const EXITS: [&str; 2] = ["one", "two"];

/// `left` - `router` - a switch - `one`, `two` - `right`: an exit that goes down takes no carrier of
/// the router's along.
fn lab() -> Lab {
    let mut lab = Lab::new();
    for machine in ["left", "router", "switch", "one", "two", "right"] {
        lab.machine(machine);
    }
    lab.wire(("left", "eth0"), ("router", "port0"));
    lab.ip("router", "addr add 2a02:1814:1::1/64 dev port0 nodad");
    lab.ip("left", &format!("addr add {HERE}/64 dev eth0 nodad"));
    lab.ip("left", "route add default via 2a02:1814:1::1");
    lab.ip("switch", "link add segment type bridge");
    lab.ip("switch", "link set segment up");
    lab.wire(("router", "port1"), ("switch", "first"));
    lab.ip("switch", "link set first master segment");
    lab.ip("router", "addr add fe80::1/64 dev port1 nodad");
    lab.ip("right", &format!("addr add {THERE}/128 dev lo nodad"));
    for (n, exit) in (1..).zip(EXITS) {
        lab.wire((exit, "eth0"), ("switch", exit));
        lab.ip("switch", &format!("link set {exit} master segment"));
        lab.wire((exit, "eth1"), ("right", exit));
        lab.set(exit, "net/ipv6/conf/all/forwarding", "1");
        wake(&lab, n, exit);
        lab.ip(
            "right",
            &format!("addr add fe80::{n}:4/64 dev {exit} nodad"),
        );
        lab.ip(exit, &format!("addr add fe80::{n}:3/64 dev eth1 nodad"));
        lab.ip(
            exit,
            &format!("route add {PREFIX} via fe80::{n}:4 dev eth1"),
        );
    }
    for (machine, link) in [("left", "eth0"), ("switch", "first")] {
        ethtool::set_tx_checksum(&lab.at(machine), link, false).expect("checksums whole");
        ethtool::set_gro(&lab.at(machine), link, true).expect("GRO on");
    }
    let ports = ["dataplane", "attach", "--port", "port0", "--port", "port1"];
    let _ = lab.netmesh("router", &ports);
    lab.configure("router", "node = \"router\"\n");
    lab
}

/// Gives an exit its address: the kernel forgot it with the link.
fn wake(lab: &Lab, n: u32, exit: &str) {
    lab.ip(exit, &format!("addr replace fe80::{n}:2/64 dev eth0 nodad"));
}

fn route(lab: &Lab, verb: &str, exits: &[u32]) {
    let mut words = vec!["route".to_owned(), verb.to_owned(), PREFIX.to_owned()];
    for n in exits {
        words.extend(
            format!("nexthop via fe80::{n}:2 dev port1")
                .split(' ')
                .map(Into::into),
        );
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let _ = lab.netmesh("router", &words);
}

/// Which exit forwards now.
fn carrier(lab: &Lab) -> usize {
    let forwarded = || EXITS.map(|exit| snmp::forwarded(&lab.at(exit)).expect("a counter").ipv6);
    let before = forwarded();
    let mut found = None;
    eventually("an exit carries the stream", SOON, || {
        let after = forwarded();
        found = (0..2).find(|n| after[*n] > before[*n] + 20);
        found.is_some()
    });
    found.expect("one")
}

fn status(lab: &Lab) -> (String, String, serde_json::Value) {
    (
        lab.netmesh("router", &["route", "list"]).stdout_text(),
        lab.netmesh("router", &["dataplane", "status"])
            .stdout_text(),
        lab.json("router", &["dataplane", "status"])["instance"]["withdrawn"].clone(),
    )
}

#[test]
fn an_exit_that_dies_is_left_within_a_second_and_found_again() {
    let lab = lab();
    route(&lab, "add", &[1, 2]);
    lab.resolved("router");
    let daemon = Daemon::start(&lab, "router", &["--metrics", "0"]);
    daemon.until_told("READY=1");
    let (left, right) = (lab.at("left"), lab.at("right"));
    let period = Duration::from_millis(5);
    let ends = ((&left, IpAddr::from(HERE)), (&right, IpAddr::from(THERE)));
    let stream = Stream::start(ends.0, ends.1, period);
    let first = carrier(&lab);
    // Until it has been seen to answer it is not known to be silent.
    std::thread::sleep(Duration::from_secs(2));
    let (n, dead, other) = (first as u32 + 1, EXITS[first], EXITS[1 - first]);
    let gateway = format!("via fe80::{n}:2 dev port1");

    let died = Instant::now();
    lab.ip(dead, "link set eth0 down");
    eventually("it is withdrawn", SOON, || status(&lab).2[0] == *gateway);
    assert_eq!(EXITS[carrier(&lab)], other);
    let (list, text, _) = status(&lab);
    assert!(list.contains(&format!("withdrawn: {gateway}")), "{list}");
    assert!(
        text.contains(&format!("next hop {gateway} has failed")),
        "{text}"
    );
    assert!(daemon.says("a next hop has failed; the others of its groups take its flows"));
    let dark = stream.end();
    let last = dark.arrivals.iter().rfind(|(_, at)| *at < died + period);
    let lost = dark.lost.len();
    println!(
        "{dead} died: {lost} of {} packets lost, silence of {} ms",
        dark.sent,
        dark.silence.as_millis()
    );
    assert!(last.is_some(), "it ran before");
    assert!(
        dark.silence < Duration::from_secs(1) * slowness(),
        "{:?}",
        dark.silence
    );
    // All in one piece: once by the other exit it stays there.
    let window = dark.lost.last().unwrap_or(&0) + 1 - dark.lost.first().unwrap_or(&0);
    assert_eq!(window, lost as u64, "{:?}", dark.lost);

    // It comes back, and only then the flows do; nothing is lost by that.
    let stream = Stream::start(ends.0, ends.1, period);
    lab.ip(dead, "link set eth0 up");
    wake(&lab, n, dead);
    lab.ip(
        dead,
        &format!("route replace {PREFIX} via fe80::{n}:4 dev eth1"),
    );
    let back = Instant::now();
    eventually("it is used again", SOON * 3, || {
        status(&lab).2 == serde_json::json!([])
    });
    println!(
        "{dead} is used again {} ms after it came back",
        back.elapsed().as_millis()
    );
    assert!(
        back.elapsed() > Duration::from_secs(2),
        "it had to prove itself"
    );
    assert!(daemon.says("a next hop is back"));

    // A planned switch, both ways.
    for exits in [&[1][..], &[2], &[1, 2], &[2], &[1], &[1, 2]] {
        route(&lab, "replace", exits);
        std::thread::sleep(Duration::from_millis(300));
    }
    stream.end().assert_whole(200);
    assert!(!daemon.text().contains("panicked"));
}

/// The router's own carrier goes: the kernel forgets the neighbour and whom to keep resolved.
#[test]
fn a_neighbour_that_was_forgotten_with_the_carrier_is_asked_for_again() {
    let lab = lab();
    lab.wire(("router", "port2"), ("switch", "second"));
    lab.ip("switch", "link set second master segment");
    ethtool::set_gro(&lab.at("switch"), "second", true).expect("GRO on");
    lab.ip("router", "addr add fe80::5/64 dev port2 nodad");
    let _ = lab.netmesh("router", &["dataplane", "attach", "--port", "port2"]);
    let words = "route add 2a02:1814:9::/64 nexthop via fe80::1:2 dev port1 nexthop via fe80::2:2 dev port2";
    let words: Vec<&str> = words.split(' ').collect();
    let _ = lab.netmesh("router", &words);
    lab.resolved("router");
    let mut daemon = Daemon::start(&lab, "router", &[]);
    daemon.until_told("READY=1");
    std::thread::sleep(Duration::from_secs(1));
    lab.ip("switch", "link set second down");
    let gateway = "via fe80::2:2 dev port2";
    eventually("it is withdrawn", SOON, || status(&lab).2[0] == *gateway);
    lab.ip("switch", "link set second up");
    // Nobody sends a packet there, and nobody touches the route.
    eventually("it is resolved and used again", SOON * 3, || {
        let instance = lab.json("router", &["dataplane", "status"])["instance"].clone();
        instance["withdrawn"] == serde_json::json!([]) && instance["unresolved"] == 0
    });

    // Whoever stops watching withdraws nothing.
    lab.ip("switch", "link set second down");
    eventually("it is withdrawn", SOON, || status(&lab).2[0] == *gateway);
    assert_eq!(daemon.ends(nix::sys::signal::Signal::SIGTERM), Some(0));
    assert_eq!(status(&lab).2, serde_json::json!([]));
}

/// A daemon whose objects are wrong watches like any other: what answers stays, and what works is in its
/// metrics.
#[test]
fn objects_that_are_wrong_withdraw_no_next_hop() {
    let lab = Lab::pair();
    lab.attach_pair("xdp", "any");
    let (left, right) = (LEFT.to_string(), RIGHT.to_string());
    let several = [
        "nexthop", "via", &left, "dev", "port0", "nexthop", "via", &right, "dev", "port1",
    ];
    let route = ["route", "replace", "2a02:1899::/48"];
    let _ = lab.netmesh("router", &[&route[..], &several].concat());
    lab.resolved("router");
    std::fs::create_dir_all(lab.config("router")).expect("a folder");
    std::fs::write(lab.config("router").join("node.toml"), "nod = \"router\"\n").expect("a file");
    let mut daemon = Daemon::start(&lab, "router", &["--metrics", "0"]);
    daemon.until_told("READY=1");
    std::thread::sleep(Duration::from_secs(4));
    let shown = || lab.netmesh("router", &["route"]).stdout_text();
    assert!(!shown().contains("withdrawn"), "{}", shown());
    let (at, to) = (lab.at("router"), scrape::address(&daemon));
    let text = scrape::request(&at, to, "GET /metrics", "*/*").1;
    assert!(text.contains("netmesh_ready 0"), "{text}");
    assert!(text.contains("netmesh_next_hop_usable{"), "{text}");
    assert!(text.contains("port=\"port0\""), "{text}");
    std::fs::write(
        lab.config("router").join("node.toml"),
        "node = \"router\"\n",
    )
    .expect("a file");
    std::thread::sleep(Duration::from_secs(2));
    assert!(!shown().contains("withdrawn"), "{}", shown());
    assert_eq!(daemon.ends(Signal::SIGTERM), Some(0));
}
