//! The command line's contract: exit codes, stdout, JSON.

use std::process::Command;

use netmesh_tests::{Lab, OutputText as _, binary};

fn netmesh(arguments: &[&str]) -> std::process::Output {
    Command::new(binary())
        .args(arguments)
        .output()
        .expect("netmesh starts")
}

#[test]
fn usage_is_2_and_help_has_examples() {
    assert_eq!(netmesh(&["nonsense"]).status.code(), Some(2));
    assert_eq!(netmesh(&["route", "add"]).status.code(), Some(2));
    for command in [
        "check",
        "plan",
        "apply",
        "destroy",
        "status",
        "dataplane",
        "route",
        "counters",
        "key",
        "doctor",
        "demo",
    ] {
        let help = netmesh(&[command, "--help"]);
        assert_eq!(help.status.code(), Some(0));
        assert!(help.stdout_text().contains("Examples:"), "{command}");
    }
}

#[test]
fn not_ready_is_4_and_not_permitted_is_7() {
    let lab = Lab::mesh();
    let check = |what: &str| {
        lab.try_netmesh("router", &["status", "--check", what])
            .status
            .code()
    };
    assert_eq!(check("ready"), Some(4), "nothing is applied yet");
    let status = lab.try_netmesh("router", &["--json", "status"]);
    assert_eq!(status.status.code(), Some(4));
    let value: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(value["ready"], false);
    lab.apply_all();
    netmesh_tests::eventually("ready", std::time::Duration::from_secs(10), || {
        check("ready") == Some(0)
    });

    let before = lab.dump("router", &[]);
    for arguments in [
        &["dataplane", "detach"][..],
        &["demo"],
        &["demo", "--clean"],
    ] {
        let output = Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(binary())
            .args(arguments)
            .output()
            .expect("setpriv starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "errors are no data");
    }
    assert_eq!(lab.dump("router", &[]), before);
}

#[test]
fn completions_man_and_schema_are_complete() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            netmesh(&["completions", shell])
                .stdout_text()
                .contains("counters"),
            "{shell}"
        );
    }
    assert!(netmesh(&["man"]).stdout_text().contains(".TH netmesh"));
    for object in ["network", "node"] {
        let schema: serde_json::Value =
            serde_json::from_slice(&netmesh(&["schema", object]).stdout).expect("JSON");
        assert!(schema["properties"].is_object(), "{object}");
    }
}

#[test]
fn every_read_is_json_with_a_schema_version_and_a_reader_may_leave() {
    let lab = Lab::mesh();
    lab.apply_all();
    for arguments in [
        &["status"][..],
        &["plan"],
        &["plan", "--digest"],
        &["check"],
        &["route"],
        &["route", "get", "2a02:1800:20::10"],
        &["counters"],
        &["counters", "--drops"],
        &["dataplane", "status"],
        &["doctor"],
        &["apply", "--dry-run"],
    ] {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let output = lab.try_netmesh("router", &all);
        let value: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}"));
        assert_eq!(value["schema_version"], 1, "{arguments:?}");
    }
    // A reader that closes the pipe is no error.
    let mut child = lab
        .command("router", &["route"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_dry_run_touches_nothing() {
    let lab = Lab::mesh();
    let before = lab.dump("router", &[]);
    assert!(
        lab.netmesh("router", &["apply", "--dry-run"])
            .stdout_text()
            .contains("pending")
    );
    assert_eq!(lab.dump("router", &[]), before);
    assert_eq!(
        lab.try_netmesh("router", &["plan", "--exit-code"])
            .status
            .code(),
        Some(5)
    );
    let _ = lab.netmesh("router", &["apply"]);
    let applied = lab.dump("router", &[]);
    let _ = lab.netmesh("router", &["destroy", "--dry-run"]);
    let _ = lab.netmesh(
        "router",
        &[
            "route",
            "add",
            "2a02:1810::/48",
            "via",
            "fe80::9",
            "dev",
            "eth1",
            "--dry-run",
        ],
    );
    assert_eq!(lab.dump("router", &[]), applied);
    // Without a terminal a removal must be asked for in words.
    let refused = lab
        .command("router", &["destroy"])
        .stdin(std::process::Stdio::null())
        .output()
        .expect("it starts");
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(lab.dump("router", &[]), applied);
}

#[test]
fn routes_by_hand_stand_beside_the_objects_and_survive_an_apply() {
    let lab = Lab::mesh();
    let _ = lab.netmesh("router", &["apply"]);
    let add = [
        "route",
        "add",
        "2a02:1810::/48",
        "via",
        "fe80::9",
        "dev",
        "eth1",
    ];
    let _ = lab.netmesh("router", &add);
    assert!(
        lab.netmesh("router", &add)
            .stdout_text()
            .contains("unchanged"),
        "the same again is fine"
    );
    let other = [
        "route",
        "add",
        "2a02:1810::/48",
        "via",
        "fe80::8",
        "dev",
        "eth1",
    ];
    assert_eq!(
        lab.try_netmesh("router", &other).status.code(),
        Some(3),
        "another is not"
    );
    let replace = [
        "route",
        "replace",
        "2a02:1810::/48",
        "via",
        "fe80::8",
        "dev",
        "eth1",
    ];
    let _ = lab.netmesh("router", &replace);
    let _ = lab.netmesh("router", &["apply"]);
    let get = lab
        .netmesh("router", &["route", "get", "2a02:1810::1"])
        .stdout_text();
    assert!(get.contains("fe80::8") && get.contains("static"), "{get}");
    let _ = lab.netmesh("router", &["route", "del", "2a02:1810::/48"]);
    let get = lab
        .netmesh("router", &["route", "get", "2a02:1810::1"])
        .stdout_text();
    assert!(get.contains("::/0"), "the default route is left: {get}");
    let bad = ["route", "add", "2a02:1810::1/48", "dev", "eth1"];
    assert_eq!(lab.try_netmesh("router", &bad).status.code(), Some(3));
}

#[test]
fn where_pins_would_be_lost_nothing_is_done() {
    let mut lab = Lab::new();
    lab.machine("node");
    lab.machine("far");
    lab.wire(("far", "eth0"), ("node", "port0"));
    // It gives the command mounts of its own, with a new /sys.
    for arguments in [
        &["dataplane", "attach", "--port", "port0"][..],
        &["dataplane", "status"],
        &["route"],
        &["status"],
    ] {
        let output = Command::new("ip")
            .args(["netns", "exec", &lab.name("node"), "env"])
            .arg("NETMESH_CONFIG=/nonexistent")
            .arg(binary())
            .args(arguments)
            .output()
            .expect("ip starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("ip netns exec"), "{arguments:?}: {stderr}");
        let remedy = format!("netmesh -n {} ", lab.name("node"));
        assert!(stderr.contains(&remedy), "{arguments:?}: {stderr}");
    }
    let has_program = || {
        let output = Command::new("ip")
            .args(["-n", &lab.name("node"), "link", "show", "port0"])
            .output()
            .expect("ip starts");
        output.stdout_text().contains("xdp")
    };
    assert!(!has_program(), "nothing is attached");
    let _ = lab.netmesh("node", &["dataplane", "attach", "--port", "port0"]);
    assert!(has_program());
    let _ = lab.netmesh("node", &["dataplane", "detach"]);
}

#[test]
fn what_is_not_there_is_an_error_that_says_so() {
    let mut lab = Lab::new();
    lab.machine("node");
    lab.machine("far");
    lab.wire(("far", "eth0"), ("node", "port0"));
    let run = |arguments: &[&str]| {
        let output = lab.try_netmesh("node", arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!stderr.contains('\u{1b}'), "colours in a file: {stderr}");
        (output.status.code(), output.stdout_text(), stderr)
    };
    // The lab wrote no configuration: its folder is missing.
    let (code, _, stderr) = run(&["check"]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("no folder "), "{stderr}");
    let (code, _, stderr) = run(&["check", "none.toml"]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("none.toml: No such file"), "{stderr}");
    assert!(stderr.contains("state: nothing was changed"), "{stderr}");

    // No kernel forwards what the programs leave to it; the operator hears of it.
    let (code, _, stderr) = run(&["dataplane", "attach", "--port", "port0"]);
    assert_eq!(code, Some(0), "{stderr}");
    for sysctl in ["net.ipv6.conf.all.forwarding=1", "net.ipv4.ip_forward=1"] {
        assert!(stderr.contains(sysctl), "{stderr}");
    }
    for arguments in [
        &["dataplane", "detach", "--port", "nope"][..],
        &["dataplane", "detach", "--port", "nope", "--dry-run"],
    ] {
        let (code, _, stderr) = run(arguments);
        assert_eq!(code, Some(3), "{stderr}");
        assert!(stderr.contains("nope is no port"), "{stderr}");
        assert!(stderr.contains("there are port0"), "{stderr}");
    }
    let add = ["route", "add", "2001:db8::/32", "dev", "port0"];
    let (_, stdout, _) = run(&[&add[..], &["--dry-run"]].concat());
    assert!(stdout.starts_with("route add 2001:db8::/32"), "{stdout}");
    assert_eq!(run(&add).0, Some(0));
    for bad in [
        ["route", "add", "2001:db8::/32", "dev", "lo"],
        ["route", "add", "ff00::/8", "dev", "port0"],
    ] {
        assert_eq!(run(&bad).0, Some(3), "{bad:?}");
    }
    let (code, _, stderr) = run(&["counters", "9999::/16", "2001:db8::/32"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("9999::/16"), "{stderr}");
    assert!(!stderr.contains("2001:db8::/32"), "{stderr}");
    // What goes with the data plane for good is told, before and after.
    for arguments in [
        &["dataplane", "detach", "--dry-run"][..],
        &["dataplane", "detach"],
    ] {
        let (code, stdout, _) = run(arguments);
        assert_eq!(code, Some(0));
        assert!(stdout.contains("1 route set by hand"), "{stdout}");
    }
}
