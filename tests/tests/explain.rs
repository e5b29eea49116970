//! `netmesh explain` and `netmesh trace`: what they say is what happens.

use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::Stdio;

use netmesh::demo::traffic::ping;
use netmesh::kernel::{ethtool, netns};
use netmesh_tests::Lab;
use serde_json::Value;

const LEFT: &str = "2a02:1810:1::2";
const RIGHT: &str = "2a02:1810:2::2";

/// `left` - `router` - `right`; the router's other port is smaller.
fn lab(hook: &str) -> Lab {
    let mut lab = Lab::new();
    for machine in ["left", "router", "right"] {
        lab.machine(machine);
    }
    lab.wire(("left", "eth0"), ("router", "port0"));
    lab.wire(("right", "eth0"), ("router", "port1"));
    for (host, port, network) in [("left", "port0", 1), ("right", "port1", 2)] {
        lab.ip(
            "router",
            &format!("addr add 2a02:1810:{network}::1/64 dev {port} nodad"),
        );
        lab.ip(
            host,
            &format!("addr add 2a02:1810:{network}::2/64 dev eth0 nodad"),
        );
        lab.ip(
            host,
            &format!("route add default via 2a02:1810:{network}::1"),
        );
        ethtool::set_tx_checksum(&lab.at(host), "eth0", false).unwrap();
        ethtool::set_gro(&lab.at(host), "eth0", true).unwrap();
    }
    lab.ip("router", "link set port1 mtu 1400");
    netns::run_in(&lab.at("router"), || {
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    })
    .unwrap();
    let attach = ["dataplane", "attach", "--hook", hook, "--port", "port0"];
    let _ = lab.netmesh("router", &[&attach[..], &["--sources", "behind"]].concat());
    let attach = ["dataplane", "attach", "--hook", hook, "--port", "port1"];
    let _ = lab.netmesh("router", &attach);
    for (host, port) in [(LEFT, "port0"), (RIGHT, "port1")] {
        let _ = lab.netmesh("router", &["route", "add", host, "via", host, "dev", port]);
    }
    let _ = lab.netmesh("router", &["route", "add", "blackhole", "2a02:1810:3::/48"]);
    lab.resolved("router");
    lab
}

/// What hosts that look for their neighbours do not move.
fn counters(lab: &Lab) -> Vec<Value> {
    let ports = lab.json("router", &["counters", "--drops"])["ports"].clone();
    let ports = ports.as_array().unwrap().iter();
    let moved = ports.flat_map(|port| [port["forwarded"].clone(), port["dropped"].clone()]);
    let prefixes = lab.json("router", &["counters"])["prefixes"].clone();
    moved.chain([prefixes]).collect()
}

fn explains(hook: &str) {
    let lab = lab(hook);
    let before = counters(&lab);
    let explain = |arguments: &[&str]| -> Value {
        let words = [&["explain"], arguments].concat();
        lab.json("router", &words)
    };

    let answer = explain(&[LEFT, RIGHT]);
    assert_eq!(answer["decision"], "forward", "{answer:#}");
    assert_eq!(answer["port"], "port0", "behind which the source lives");
    assert_eq!(answer["matched"]["source"]["prefix"], format!("{LEFT}/128"));
    assert_eq!(
        answer["matched"]["destination"]["prefix"],
        format!("{RIGHT}/128")
    );
    assert_eq!(answer["egress"]["device"], "port1");
    assert_eq!(answer["egress"]["gateway"], RIGHT);
    assert_eq!(answer["egress"]["mtu"], 1400);
    let shown = std::process::Command::new("ip")
        .args(["-n", &lab.name("right"), "-json", "link", "show", "eth0"])
        .output()
        .unwrap();
    let link: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(answer["egress"]["link_address"], link[0]["address"]);

    for (arguments, decision, reason) in [
        (&[LEFT, RIGHT, "--size", "1401"][..], "punt", "too_big"),
        (&[LEFT, RIGHT, "--size", "1400"], "forward", ""),
        (&[LEFT, RIGHT, "--hop-limit", "1"], "punt", "hop_limit"),
        (
            &[LEFT, "2a02:1810:3::7", "--proto", "tcp"],
            "drop",
            "blackhole",
        ),
        (
            &[LEFT, "2a02:1810:1::1", "--proto", "icmp"],
            "punt",
            "local",
        ),
        (&[RIGHT, LEFT, "--in", "port0"], "drop", "source_invalid"),
        (&[RIGHT, LEFT], "forward", ""),
        (&[LEFT, "2a02:1810:9::9"], "punt", "no_route"),
    ] {
        let answer = explain(arguments);
        assert_eq!(answer["decision"], decision, "{arguments:?}: {answer:#}");
        assert_eq!(
            answer["reason"].as_str().unwrap_or(""),
            reason,
            "{answer:#}"
        );
    }
    assert_eq!(counters(&lab), before, "nothing moved");

    let refused = lab.try_netmesh("router", &["explain", LEFT, "10.0.0.1"]);
    assert_eq!(refused.status.code(), Some(3));
    let refused = lab.try_netmesh("router", &["explain", LEFT, RIGHT, "--in", "eth9"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("port0, port1"));
}

#[test]
fn explain_asks_the_xdp_program() {
    explains("xdp");
}

#[test]
fn explain_asks_the_tc_program() {
    explains("tc");
}

/// Starts a trace, does something, and returns what the trace said.
fn traced(lab: &Lab, arguments: &[&str], traffic: impl FnOnce()) -> Vec<Value> {
    let words = [&["--json", "--verbose", "trace"], arguments].concat();
    let mut trace = lab
        .command("router", &words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(trace.stderr.take().unwrap()).lines();
    let stands = |line: std::io::Result<String>| line.unwrap().contains("the question stands");
    assert!(said.by_ref().any(stands));
    let second = lab.try_netmesh("router", &["trace", "--count", "1", "--seconds", "1"]);
    assert!(String::from_utf8_lossy(&second.stderr).contains("traced already"));
    traffic();
    let lines = BufReader::new(trace.stdout.take().unwrap()).lines();
    let lines = lines
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert!(trace.wait().unwrap().success());
    lines
}

fn traces(hook: &str) {
    let lab = lab(hook);
    let (left, right): (IpAddr, IpAddr) = (LEFT.parse().unwrap(), RIGHT.parse().unwrap());
    let four = ["--reason", "forward", "--prefix", RIGHT, "--count", "4"];
    let lines = traced(&lab, &four, || {
        assert_eq!(
            ping(&lab.at("left"), left, right, 100, 2).unwrap().received,
            2
        );
    });
    assert_eq!(lines.len(), 4, "two requests, two answers: {lines:#?}");
    for line in &lines {
        assert_eq!(line["decision"], "forward");
        let there = line["source"] == LEFT;
        let (port, egress) = if there {
            ("port0", "port1")
        } else {
            ("port1", "port0")
        };
        assert_eq!(
            (&line["port"], &line["egress"]),
            (&port.into(), &egress.into())
        );
        let what = line["what"].as_str().unwrap();
        assert!(what.starts_with("icmpv6 type 12"), "{what}");
        assert_eq!(line["length"], 114);
    }

    let drops = ["--reason", "drop", "--port", "port0", "--count", "1"];
    let lines = traced(&lab, &drops, || {
        let nowhere = "2a02:1810:3::7".parse().unwrap();
        assert_eq!(
            ping(&lab.at("left"), left, nowhere, 100, 1)
                .unwrap()
                .received,
            0
        );
    });
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["reason"], "blackhole");

    // More than the rate lets through: the rest is counted, not told.
    let few = ["--reason", "forward", "--rate", "3", "--seconds", "2"];
    let lines = traced(&lab, &few, || {
        assert_eq!(
            ping(&lab.at("left"), left, right, 100, 10)
                .unwrap()
                .received,
            10
        );
    });
    assert!((3..=9).contains(&lines.len()), "{} lines", lines.len());

    let refused = lab.try_netmesh("router", &["trace", "--reason", "nonsense"]);
    assert_eq!(refused.status.code(), Some(3));
}

#[test]
fn trace_shows_what_xdp_decides() {
    traces("xdp");
}

#[test]
fn trace_shows_what_tc_decides() {
    traces("tc");
}
