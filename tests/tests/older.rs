//! `netmesh dataplane upgrade` from what an older netmesh has made, under traffic: routes, ports and
//! counters stay, nothing is lost.
//!
//! `NETMESH_OLDER` names the older binary, one of layout 4 (commit 74722b9):
//! `cargo test -p netmesh-tests --test older -- --ignored`. What needs no other binary is in
//! `dataplane::tests::older`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, Output};
use std::time::Duration;

use netmesh_tests::daemon::Daemon;
use netmesh_tests::pair::{HOOKS, LEFT, LEFT4, RIGHT, RIGHT4};
use netmesh_tests::stream::Stream;
use netmesh_tests::{Lab, OutputText as _};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Addresses behind the left and the right host.
const FAR: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2a02, 0x1812, 0xa, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2a02, 0x1812, 0xb, 0, 0, 0, 0, 1),
];
const FAR4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 82, 1, 1), Ipv4Addr::new(100, 82, 2, 1)];

/// Runs the older netmesh on the router.
fn older(lab: &Lab, arguments: &[&str]) -> Output {
    let binary = std::env::var_os("NETMESH_OLDER").expect("NETMESH_OLDER names an older netmesh");
    let command = lab.command("router", arguments);
    let output = Command::new(binary).args(command.get_args()).output();
    let output = output.expect("the older netmesh starts");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        output.stderr_text()
    );
    output
}

fn older_json(lab: &Lab, arguments: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(arguments);
    serde_json::from_slice(&older(lab, &all).stdout).expect("JSON")
}

/// Packets to each end, by prefix.
fn counted(report: &Value) -> Vec<(String, u64, u64)> {
    let rows = report["prefixes"].as_array().expect("rows");
    let row = |row: &Value| {
        let packets = |way: &str| row[way]["packets"].as_u64().expect("a number");
        let prefix = row["prefix"].as_str().expect("a prefix");
        (prefix.to_owned(), packets("to"), packets("from"))
    };
    rows.iter().map(row).collect()
}

fn taken_over(hook: &str) {
    let lab = Lab::pair();
    lab.whole_checksums(true);
    let attach = [
        "dataplane",
        "attach",
        "--hook",
        hook,
        "--port",
        "port0",
        "--port",
        "port1",
    ];
    let _ = older(&lab, &attach);
    // What stage 1 answers, what the tries do, and what lies inside another.
    let (left, right) = (LEFT.to_string(), RIGHT.to_string());
    let (left4, right4) = (LEFT4.to_string(), RIGHT4.to_string());
    for (host, address) in [("left", FAR[0]), ("right", FAR[1])] {
        lab.ip(host, &format!("addr add {address}/128 dev eth0 nodad"));
    }
    for (host, address) in [("left", FAR4[0]), ("right", FAR4[1])] {
        lab.ip(host, &format!("addr add {address}/32 dev eth0"));
    }
    for (prefix, via, port) in [
        ("2a02:1812:a::/64", &left, "port0"),
        ("2a02:1812:b::/64", &right, "port1"),
        ("2a02:1812:b::/48", &right, "port1"),
        ("100.82.1.0/24", &left4, "port0"),
        ("100.82.2.1/32", &right4, "port1"),
    ] {
        lab.ip("router", &format!("route add {prefix} via {via}"));
        let _ = older(&lab, &["route", "replace", prefix, "via", via, "dev", port]);
    }
    let several = [
        "nexthop", "via", &right, "dev", "port1", "nexthop", "via", &left, "dev", "port0",
    ];
    let group = ["route", "replace", "2a02:1812:b:ffff::/64"];
    let _ = older(&lab, &[&group[..], &several].concat());
    let routes = older_json(&lab, &["route"]);
    let patience = Duration::from_secs(75);
    assert!(netmesh_tests::within(patience, || {
        older_json(&lab, &["dataplane", "status"])["instance"]["unresolved"] == 0
    }));
    let streams = [
        (("left", FAR[0].into()), ("right", FAR[1].into())),
        (("right", FAR[1].into()), ("left", FAR[0].into())),
        (("left", FAR4[0].into()), ("right", FAR4[1].into())),
        (("right", FAR4[1].into()), ("left", FAR4[0].into())),
    ]
    .map(|((from, source), (to, goal))| {
        let (from, to) = (lab.at(from), lab.at(to));
        Stream::start((&from, source), (&to, goal), Duration::from_millis(1))
    });
    std::thread::sleep(Duration::from_millis(1500));

    // This netmesh looks at it, says what to do, and changes nothing.
    for words in [&["dataplane", "status"][..], &["route"], &["counters"]] {
        let output = lab.try_netmesh("router", words);
        let text = output.stderr_text();
        assert!(!output.status.success(), "{words:?}");
        assert!(text.contains("a data plane of layout 4 serves"), "{text}");
        assert!(text.contains("netmesh dataplane upgrade"), "{text}");
    }
    let before = counted(&older_json(&lab, &["counters"]));
    let dry = lab.netmesh("router", &["dataplane", "upgrade", "--dry-run"]);
    assert!(dry.stdout_text().contains("dataplane upgrade"));
    // An older daemon would make its own anew.
    let mut daemon = Daemon::start(&lab, "router", &[]);
    assert!(netmesh_tests::within(patience, || {
        let output = lab.try_netmesh("router", &["dataplane", "upgrade"]);
        output.status.code() == Some(3) && output.stderr_text().contains("stop the daemon")
    }));
    let _ = daemon.ends(Signal::SIGTERM);

    // Where it fails, at whatever step, the older one goes on.
    let mut failed = 0;
    for files in (6..80).step_by(4) {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string()]);
        let upgrade = lab.command("router", &["dataplane", "upgrade"]);
        limited.arg(upgrade.get_program()).args(upgrade.get_args());
        let output = limited.output().expect("sh starts");
        if output.status.success() {
            break;
        }
        failed += 1;
        let routes = older_json(&lab, &["route"]);
        assert!(routes.to_string().contains("2a02:1812:b::/48"), "{routes}");
    }
    assert!(failed >= 5, "{failed} of them failed");
    let output = lab.try_netmesh("router", &["dataplane", "upgrade"]);
    assert!(output.status.success(), "{}", output.stderr_text());

    // Never less than before, and the same routes.
    let after = counted(&lab.json("router", &["counters"]));
    for ((prefix, to, from), was) in after.iter().zip(&before) {
        assert_eq!(*prefix, was.0);
        assert!(*to >= was.1 && *from >= was.2, "{prefix}: {was:?}");
    }
    let plain = |routes: &Value| {
        let rows = routes["routes"].as_array().expect("rows").clone();
        rows.iter()
            .map(|row| {
                format!(
                    "{} {} {} {}",
                    row["prefix"], row["origin"], row["via"], row["dev"]
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(plain(&lab.json("router", &["route"])), plain(&routes));
    std::thread::sleep(Duration::from_millis(1000));
    let ends: Vec<_> = streams.into_iter().map(Stream::end).collect();
    for end in &ends {
        end.assert_whole(1000);
    }
    // Every packet of both netmeshes has been counted, once.
    let sum: u64 = ends.iter().map(|end| end.sent).sum();
    let counted = counted(&lab.json("router", &["counters"]));
    for (way, got) in [
        ("to", counted.iter().map(|row| row.1).sum::<u64>()),
        ("from", counted.iter().map(|row| row.2).sum()),
    ] {
        assert_eq!(got, sum, "{way}: {counted:?}");
    }
    let status = lab.json("router", &["dataplane", "status"]);
    let pins = status["instance"]["pins"].as_str().expect("a folder");
    assert!(!pins.contains("/v4/"), "{pins}");
    let (root, name) = pins.rsplit_once("/v").expect("a layout");
    let name = name.split_once('/').expect("a name").1;
    assert!(!std::path::Path::new(&format!("{root}/v4/{name}")).exists());
    let _ = lab.netmesh("router", &["dataplane", "upgrade"]);
    let _ = lab.netmesh("router", &["dataplane", "detach"]);
}

#[test]
#[ignore = "needs an older netmesh"]
fn native_xdp_is_taken_over() {
    taken_over(HOOKS[0]);
}

#[test]
#[ignore = "needs an older netmesh"]
fn generic_xdp_is_taken_over() {
    taken_over(HOOKS[1]);
}

#[test]
#[ignore = "needs an older netmesh"]
fn tc_is_taken_over() {
    taken_over(HOOKS[2]);
}
