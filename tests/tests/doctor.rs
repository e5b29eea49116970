//! `netmesh doctor` against what the kernel does when it is asked the hard way.

use std::process::Command;

use netmesh_tests::Lab;
use serde_json::Value;

/// The severity of a check, and what was found.
fn finding(report: &Value, check: &str) -> (String, String) {
    let findings = report["findings"].as_array().expect("findings");
    let finding = findings
        .iter()
        .find(|finding| finding["check"] == check)
        .unwrap_or_else(|| panic!("no {check} in {report}"));
    let text = |field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    assert!(!text("meaning").is_empty(), "{finding}");
    if text("severity") != "ok" {
        assert!(!text("remedy").is_empty(), "{finding}");
    }
    (text("severity"), text("found"))
}

/// Whether the node's kernel does what `ip` asks.
fn can(lab: &Lab, arguments: &str) -> bool {
    Command::new("ip")
        .args(["-n", &lab.name("node")])
        .args(arguments.split(' '))
        .output()
        .expect("ip starts")
        .status
        .success()
}

#[test]
fn doctor_says_what_this_kernel_can_do() {
    let mut lab = Lab::new();
    lab.machine("node");
    lab.machine("far");
    lab.wire(("far", "eth0"), ("node", "port0"));
    let report = lab.json("node", &["doctor"]);
    assert_eq!(report["healthy"], true, "{report}");
    // A setting of the machine, which a namespace does not show.
    let jit = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap_or_default();
    let (severity, found) = finding(&report, "bpf.jit");
    match jit.trim() {
        "1" => assert_eq!((severity.as_str(), found.as_str()), ("ok", "on")),
        "0" | "2" => assert_eq!(severity, "warning", "{found}"),
        // This is a namespace of its own, too.
        _ => {}
    }

    for kind in ["wireguard", "bridge", "vrf", "netkit"] {
        let more = if kind == "vrf" { " table 7" } else { "" };
        let made = can(&lab, &format!("link add name x0 type {kind}{more}"));
        let (severity, found) = finding(&report, &format!("link.{kind}"));
        assert_eq!(severity == "ok", made, "{kind}: {found}");
        if made {
            lab.ip("node", "link del x0");
        }
    }
    let made = can(&lab, "link add link port0 name x0 type vlan id 7");
    assert_eq!(finding(&report, "link.vlan").0 == "ok", made, "vlan");

    // What it says of TC is how a port is attached.
    let attach = ["dataplane", "attach", "--hook", "tc", "--port", "port0"];
    let _ = lab.netmesh("node", &attach);
    let status = lab.json("node", &["dataplane", "status"]);
    let link = status["instance"]["ports"][0]["link"].as_str();
    let (severity, found) = finding(&report, "tc.attachment");
    match link.expect("a link") {
        "tcx" => assert_eq!((severity.as_str(), found.as_str()), ("ok", "TCX")),
        "clsact" => assert!(severity == "note" && found.starts_with("clsact"), "{found}"),
        other => panic!("{other}"),
    }
    let _ = lab.netmesh("node", &["dataplane", "detach"]);
}

#[test]
fn doctor_knows_the_faults_of_a_node() {
    let mut lab = Lab::new();
    lab.machine("node");
    lab.machine("far");
    lab.wire(("far", "eth0"), ("node", "port0"));
    let attach = ["dataplane", "attach", "--hook", "xdp", "--port", "port0"];
    let _ = lab.netmesh("node", &attach);
    // No forwarding, and native XDP on a veth.
    let report = lab.json("node", &["doctor", "--only", "port,forwarding"]);
    assert_eq!(finding(&report, "forwarding.ipv6").0, "warning");
    assert_eq!(finding(&report, "port").0, "warning");
    let findings = report["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), 3, "only what was asked for: {report}");
    // The port goes: that does not work.
    lab.ip("node", "link del port0");
    let output = lab.try_netmesh("node", &["--json", "doctor"]);
    assert_eq!(output.status.code(), Some(4));
    let report = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(finding(&report, "port").0, "error");
    let wrong = lab.try_netmesh("node", &["doctor", "--only", "nonsense"]);
    assert_eq!(wrong.status.code(), Some(3));
    let _ = lab.netmesh("node", &["dataplane", "detach"]);
}

/// The fast path passes netfilter by: chains that would have a say are named.
#[test]
fn doctor_names_the_chains_that_the_fast_path_passes_by() {
    let mut lab = Lab::new();
    lab.machine("node");
    lab.machine("far");
    lab.wire(("far", "eth0"), ("node", "port0"));
    let _ = lab.netmesh("node", &["dataplane", "attach", "--port", "port0"]);
    let firewall = || {
        let report = lab.json("node", &["doctor", "--only", "firewall"]);
        finding(&report, "firewall.forward")
    };
    assert_eq!(firewall().0, "ok");
    // A kernel without nf_tables has no such chains, and nothing to name.
    let nft = |rules: &str| {
        Command::new("ip")
            .args(["netns", "exec", &lab.name("node"), "nft", rules])
            .output()
            .expect("ip starts")
            .status
            .success()
    };
    let idle = "table inet t { chain input { type filter hook input priority 0; policy drop; }
                               chain idle { type filter hook forward priority 0; } }";
    let made = nft(idle);
    assert_eq!(
        firewall().0,
        "ok",
        "neither chain has a say in what is forwarded"
    );
    nft("table inet t { chain drops { type filter hook forward priority 1; policy drop; } }");
    nft("table ip n { chain out { type nat hook postrouting priority 100; masquerade; } }");
    let (severity, found) = firewall();
    if made {
        assert_eq!(severity, "warning");
        assert_eq!(found, "inet t drops, ip n out");
    } else {
        assert_eq!(severity, "ok", "{found}");
    }
}
