//! `netmesh doctor` against what the kernel does when it is asked the hard way, and against faults
//! that are made: each is found, its remedy is run, and it is gone.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use netmesh::dataplane::pin::NamespaceId;
use netmesh::dataplane::{Capacity, Instance};
use netmesh::kernel::{ethtool, netns};
use netmesh_tests::{Lab, binary};
use nix::mount::{MsFlags, mount, umount};
use serde_json::Value;

/// What a check found.
struct Finding {
    severity: String,
    found: String,
    remedy: String,
}

/// Every finding of a check.
fn findings(report: &Value, check: &str) -> Vec<Finding> {
    let findings = report["findings"].as_array().expect("findings").iter();
    let read = |finding: &Value| {
        let text = |field: &str| finding[field].as_str().unwrap_or_default().to_owned();
        assert!(!text("meaning").is_empty(), "{finding}");
        if text("severity") != "ok" {
            assert!(!text("remedy").is_empty(), "{finding}");
        }
        Finding {
            severity: text("severity"),
            found: text("found"),
            remedy: text("remedy"),
        }
    };
    let of_it = findings.filter(|finding| finding["check"] == check);
    of_it.map(read).collect()
}

/// The severity of a check, and what was found.
fn finding(report: &Value, check: &str) -> (String, String) {
    let first = findings(report, check).into_iter().next();
    let first = first.unwrap_or_else(|| panic!("no {check} in {report}"));
    (first.severity, first.found)
}

/// What a machine's doctor finds by one check now, first of all. Its exit code is 4 with an error
/// and 0 without.
fn ask(lab: &Lab, machine: &str, check: &str) -> Finding {
    let output = lab.try_netmesh(machine, &["--json", "doctor", "--only", check]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let all = findings(&report, check);
    let error = report.to_string().contains(r#""severity":"error""#);
    let code = if error { 4 } else { 0 };
    assert_eq!(output.status.code(), Some(code), "{report}");
    let first = all.into_iter().next();
    first.unwrap_or_else(|| panic!("no {check} in {report}"))
}

/// Asserts how bad a check is now, and gives its remedy.
fn expect(lab: &Lab, machine: &str, check: &str, severity: &str) -> String {
    let finding = ask(lab, machine, check);
    assert_eq!(finding.severity, severity, "{check}: {}", finding.found);
    finding.remedy
}

/// Runs a remedy as it stands, for a machine.
fn mend(lab: &Lab, machine: &str, remedy: &str) {
    let mut command = match remedy.strip_prefix("netmesh ") {
        Some(arguments) => {
            let words: Vec<&str> = arguments.split(' ').collect();
            lab.command(machine, &words)
        }
        // What is below /sys/fs/bpf is not seen from `ip netns exec`.
        None if remedy.starts_with("rm ") => {
            let mut command = Command::new("sh");
            command.args(["-c", remedy]);
            command
        }
        None => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &lab.name(machine), "sh", "-c", remedy]);
            command
        }
    };
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{remedy}: {said}");
}

/// The kernel says what drivers do for XDP (Linux 6.3).
fn tells_features() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(3))
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

/// A native port of a pair is lost to XDP while its other end runs no NAPI; the hook is told with its
/// reason, and a slower one than the driver has is a warning.
#[test]
fn doctor_says_why_a_port_has_its_hook() {
    let mut lab = Lab::new();
    lab.machine("node");
    lab.machine("far");
    lab.wire(("far", "eth0"), ("node", "port0"));
    let attach = |hook: &str, port: &str| {
        let _ = lab.netmesh(
            "node",
            &["dataplane", "attach", "--hook", hook, "--port", port],
        );
    };
    attach("xdp", "port0");
    expect(&lab, "node", "xdp.mode", "ok");
    if tells_features() {
        let remedy = expect(&lab, "node", "xdp.transmit", "error");
        assert_eq!(remedy, "on the other end of port0: ethtool -K DEV gro on");
        ethtool::set_gro(&lab.at("far"), "eth0", true).expect("GRO on");
        expect(&lab, "node", "xdp.transmit", "ok");

        attach("xdp-generic", "port0");
        let remedy = expect(&lab, "node", "xdp.mode", "warning");
        mend(&lab, "node", &remedy);
        assert_eq!(ask(&lab, "node", "xdp.mode").found, "port0: native XDP");
    }
    let _ = lab.netmesh("node", &["dataplane", "detach"]);
    lab.ip("node", "link add dull type bridge");
    attach("tc", "dull");
    let mode = ask(&lab, "node", "xdp.mode");
    assert_eq!(mode.severity, "ok", "{}", mode.found);
    if tells_features() {
        assert_eq!(mode.found, "dull: TC; its driver has no native XDP");
    }
}

/// Somebody else's program on a port sees frames before ours, and where the objects want XDP none
/// of ours gets in.
#[test]
fn doctor_names_programs_that_are_in_the_way() {
    let mut lab = Lab::new();
    for machine in ["router", "one", "two"] {
        lab.machine(machine);
    }
    lab.wire(("one", "eth0"), ("router", "eth0"));
    lab.wire(("two", "eth0"), ("router", "eth1"));
    let _ = lab.netmesh(
        "one",
        &["dataplane", "attach", "--hook", "tc", "--port", "eth0"],
    );
    let check = |machine: &str| {
        let report = lab.try_netmesh(machine, &["--json", "doctor", "--only", "xdp.other"]);
        let report = serde_json::from_slice(&report.stdout).expect("JSON");
        findings(&report, "xdp.other")
    };
    assert!(check("one").is_empty());
    let status = lab.json("one", &["dataplane", "status"]);
    let pins = status["instance"]["pins"].as_str().expect("pins");
    // `ip -n` would not see what is pinned.
    let put = |machine: &str, device: &str| {
        let program = format!("xdp pinned {pins}/progs/netmesh_xdp");
        let done = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", lab.name(machine)))
            .args(["ip", "link", "set", "dev", device])
            .args(program.split(' '))
            .status();
        assert!(done.expect("nsenter starts").success(), "{machine}");
    };
    put("one", "eth0");
    lab.configure("router", &Lab::router_file());
    put("router", "eth1");
    for (machine, severity) in [("one", "warning"), ("router", "error")] {
        let found = check(machine);
        assert_eq!(found.len(), 1, "{machine}");
        assert_eq!(found[0].severity, severity, "{}", found[0].found);
        assert!(found[0].found.contains("netmesh_xdp"), "{}", found[0].found);
        let (remedy, _) = found[0].remedy.split_once(',').expect("two ways");
        mend(&lab, machine, remedy);
        assert!(check(machine).is_empty(), "{machine}");
    }
}

#[test]
fn doctor_knows_settings_by_which_kernel_and_fast_path_differ() {
    let mut lab = Lab::new();
    lab.machine("node");
    lab.machine("far");
    lab.wire(("far", "eth0"), ("node", "port0"));
    let set = |setting: &str| mend(&lab, "node", &format!("sysctl -qw {setting}"));
    set("net.ipv6.conf.all.forwarding=1");
    set("net.ipv4.ip_forward=1");
    set("net.ipv4.conf.all.rp_filter=0");
    set("net.ipv4.conf.port0.rp_filter=0");
    set("net.ipv6.conf.port0.accept_ra=0");
    let attach = ["dataplane", "attach", "--hook", "tc", "--port", "port0"];
    let _ = lab.netmesh("node", &attach);
    expect(&lab, "node", "sysctl.accept_ra", "ok");
    expect(&lab, "node", "sysctl.rp_filter", "ok");

    set("net.ipv6.conf.port0.accept_ra=2");
    let remedy = expect(&lab, "node", "sysctl.accept_ra", "warning");
    mend(&lab, "node", &remedy);
    expect(&lab, "node", "sysctl.accept_ra", "ok");

    set("net.ipv6.conf.port0.accept_ra=1");
    let remedy = expect(&lab, "node", "sysctl.accept_ra", "note");
    mend(&lab, "node", &remedy.replace("ROUTER", "fe80::99"));
    expect(&lab, "node", "sysctl.accept_ra", "ok");
    // Where the default route leads it may be meant.
    set("net.ipv6.conf.port0.accept_ra=2");
    let remedy = expect(&lab, "node", "sysctl.accept_ra", "note");
    mend(&lab, "node", &remedy.replace("ROUTER", "fe80::99"));
    expect(&lab, "node", "sysctl.accept_ra", "ok");

    for way in 0..2 {
        set("net.ipv4.conf.port0.rp_filter=1");
        let remedy = expect(&lab, "node", "sysctl.rp_filter", "warning");
        let ways: Vec<&str> = remedy.split(", or ").collect();
        mend(&lab, "node", ways[1 - way]);
        expect(&lab, "node", "sysctl.rp_filter", "ok");
    }
}

/// Keys that others may read, folders and objects that others may write.
#[test]
fn doctor_knows_who_may_read_keys_and_write_objects() {
    let mut lab = Lab::new();
    lab.machine("node-1");
    lab.configure("node-1", "node = \"node-1\"\n");
    let _ = lab.netmesh("node-1", &["key", "gen", "alice/gw"]);
    let folder = lab.config("node-1");
    for (check, path, mode, severity) in [
        ("keys.files", "keys/alice/gw.key", 0o640, "error"),
        ("keys.folders", "keys/alice", 0o777, "warning"),
        ("config.files", "node.toml", 0o666, "warning"),
        ("config.files", "networks", 0o775, "warning"),
    ] {
        expect(&lab, "node-1", check, "ok");
        let path = folder.join(path);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        let remedy = expect(&lab, "node-1", check, severity);
        mend(&lab, "node-1", &remedy);
        expect(&lab, "node-1", check, "ok");
    }
    // One that is elsewhere is not followed.
    let key = folder.join("keys/alice/gw.key");
    let elsewhere = folder.join("elsewhere.key");
    fs::rename(&key, &elsewhere).expect("moved");
    std::os::unix::fs::symlink(&elsewhere, &key).expect("a link");
    let remedy = expect(&lab, "node-1", "keys.files", "error");
    mend(&lab, "node-1", &remedy);
    expect(&lab, "node-1", "keys.files", "ok");
    let _ = lab.netmesh("node-1", &["key", "pub", "alice/gw"]);

    expect(&lab, "node-1", "objects", "ok");
    fs::write(folder.join("networks/bad.toml"), "network = 7\n").expect("an object");
    let remedy = expect(&lab, "node-1", "objects", "warning");
    assert_eq!(remedy, "netmesh plan");
    let plan = lab.try_netmesh("node-1", &["plan"]);
    assert_eq!(plan.status.code(), Some(3), "it says why");
}

#[test]
fn doctor_counts_what_the_process_may_open() {
    let mut lab = Lab::new();
    lab.machine("node");
    for (limit, severity) in [("512", "warning"), ("4096", "ok")] {
        let output = Command::new("prlimit")
            .arg(format!("--nofile={limit}:"))
            .arg(binary())
            .args(["--netns", &lab.name("node"), "--json"])
            .args(["doctor", "--only", "limits"])
            .output()
            .expect("prlimit starts");
        let report = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(finding(&report, "limits.files").0, severity);
        let memlock = finding(&report, "limits.memlock");
        assert_eq!(memlock, ("ok".into(), "not counted by this kernel".into()));
    }
}

/// A namespace that goes leaves its data plane; one of another layout is none of ours to read.
#[test]
fn doctor_names_data_planes_that_were_left_behind() {
    let mut lab = Lab::new();
    for machine in ["node", "far"] {
        lab.machine(machine);
    }
    lab.wire(("far", "eth0"), ("node", "port0"));
    let _ = lab.netmesh("node", &["dataplane", "attach", "--port", "port0"]);
    let status = lab.json("node", &["dataplane", "status"]);
    let pins = status["instance"]["pins"]
        .as_str()
        .expect("pins")
        .to_owned();
    let named = |lab: &Lab, check: &str, path: &str| {
        let output = lab.try_netmesh("far", &["--json", "doctor", "--only", "pins"]);
        let report = serde_json::from_slice(&output.stdout).expect("JSON");
        let mut all = findings(&report, check).into_iter();
        let found = all.find(|finding| finding.found.starts_with(path));
        found.map(|finding| (finding.severity, finding.remedy))
    };
    assert_eq!(named(&lab, "pins.dead", &pins), None, "it is in use");
    // Without its name it lives on where it is mounted.
    let elsewhere = lab.config("far").with_extension("netns");
    fs::write(&elsewhere, "").expect("a file");
    let name = Path::new("/run/netns").join(lab.name("node"));
    let none = None::<&str>;
    mount(Some(&name), &elsewhere, none, MsFlags::MS_BIND, none).expect("a mount");
    lab.remove_machine("node");
    let found = named(&lab, "pins.dead", &pins);
    umount(&elsewhere).expect("it is mounted");
    assert_eq!(found, None, "it is held");
    let (severity, remedy) = named(&lab, "pins.dead", &pins).expect("it is left behind");
    assert_eq!(severity, "warning");
    mend(&lab, "far", &remedy);
    assert!(!Path::new(&pins).exists());
    assert_eq!(named(&lab, "pins.dead", &pins), None);

    let (cookie, _) = netns::identity(&lab.at("far")).expect("it is there");
    let other = format!("/sys/fs/bpf/netmesh/v1/ports@{cookie:x}");
    fs::create_dir_all(&other).expect("bpffs");
    let (severity, remedy) = named(&lab, "pins.layout", &other).expect("it is of another layout");
    assert_eq!(severity, "error");
    let (command, _) = remedy.split_once(',').expect("and then");
    mend(&lab, "far", command);
    assert_eq!(named(&lab, "pins.layout", &other), None);
    let _ = fs::remove_dir("/sys/fs/bpf/netmesh/v1");
}

/// A table that gets full is told before it refuses anything; one without which is forwarded all the
/// same is no error.
#[test]
fn doctor_reads_how_full_the_tables_are() {
    let mut lab = Lab::new();
    for (machine, routes, counters, expected) in [
        ("routes", 40, 1000, &["ok", "warning", "error"][..]),
        ("counters", 1000, 20, &["ok", "warning"]),
    ] {
        lab.machine(machine);
        lab.ip(machine, "link add port0 type veth peer name other");
        let (cookie, inode) = netns::identity(&lab.at(machine)).expect("it is there");
        netns::run_in(&lab.at(machine), || {
            let capacity = Capacity { routes, counters };
            let made = Instance::create_with("ports", NamespaceId { cookie, inode }, capacity);
            made.map(drop).expect("an instance");
        })
        .expect("the namespace");
        let attach = ["dataplane", "attach", "--hook", "tc", "--port", "port0"];
        let _ = lab.netmesh(machine, &attach);
        let route = |verb: &str, number: u32| {
            let prefix = format!("2a02:1802:5e:{number:x}00::/56");
            let words = ["route", verb, &prefix, "via", "fe80::2", "dev", "port0"];
            let words = if verb == "add" {
                &words[..]
            } else {
                &words[..3]
            };
            lab.try_netmesh(machine, words).status.success()
        };
        expect(&lab, machine, "table.fill", "ok");
        let mut seen = Vec::new();
        let most = routes.min(counters);
        for number in 1..=most {
            let added = route("add", number);
            let severity = ask(&lab, machine, "table.fill").severity;
            assert!(added || severity == "error", "refused unannounced");
            if seen.last() != Some(&severity) {
                seen.push(severity);
            }
        }
        assert_eq!(seen, expected, "{machine}");
        for number in 1..=most / 2 {
            assert!(route("del", number));
        }
        expect(&lab, machine, "table.fill", "ok");
    }
}

/// A mesh that is well is well to the doctor; a port that is taken and a path that is too narrow are
/// found, and mended.
#[test]
fn doctor_knows_what_tunnels_need() {
    let lab = Lab::mesh();
    let taken = netns::run_in(&lab.at("node-1"), || UdpSocket::bind("[::]:51820"));
    let taken = taken.expect("the namespace").expect("the port is free");
    let remedy = expect(&lab, "node-1", "wireguard.port", "error");
    let (command, _) = remedy.split_once(" names").expect("a command");
    mend(&lab, "node-1", command);
    drop(taken);
    expect(&lab, "node-1", "wireguard.port", "ok");
    lab.apply_all();
    for machine in ["node-1", "node-2", "node-3", "router"] {
        let report = lab.json(machine, &["doctor"]);
        assert_eq!(report["healthy"], true, "{report}");
        for check in ["objects", "sysctl", "mtu", "table", "keys", "config"] {
            let all = report["findings"].as_array().expect("findings").iter();
            let of_it = all.filter(|found| found["check"].to_string().contains(check));
            let wrong: Vec<_> = of_it.filter(|found| found["severity"] != "ok").collect();
            assert!(wrong.is_empty(), "{machine}: {wrong:?}");
        }
    }
    // The exit's own: the objects do not speak of it.
    let exit = Command::new(binary())
        .args(["--json", "--netns", &lab.resource("gw").to_string()])
        .arg("--config")
        .arg(lab.config("node-1"))
        .arg("doctor")
        .output()
        .expect("netmesh starts");
    assert_eq!(exit.status.code(), Some(0));
    let report = serde_json::from_slice(&exit.stdout).expect("JSON");
    assert_eq!(findings(&report, "xdp.mode").len(), 2, "{report}");
    assert!(findings(&report, "objects").is_empty(), "{report}");
    expect(&lab, "node-1", "wireguard.port", "ok");
    expect(&lab, "node-1", "mtu.tunnel", "ok");
    lab.ip("node-1", "link set eth0 mtu 1492");
    let remedy = expect(&lab, "node-1", "mtu.tunnel", "warning");
    let (command, _) = remedy.split_once(';').expect("and for good");
    assert!(command.ends_with(" mtu 1412"), "{command}");
    mend(&lab, "node-1", command);
    expect(&lab, "node-1", "mtu.tunnel", "ok");
    // Less than IPv6 needs is the underlay's to mend.
    lab.ip("node-1", "link set eth0 mtu 1300");
    let remedy = expect(&lab, "node-1", "mtu.tunnel", "warning");
    mend(&lab, "node-1", &remedy);
    expect(&lab, "node-1", "mtu.tunnel", "ok");
}
