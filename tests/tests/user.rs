//! A local user without privileges: reads what is public, and changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use netmesh_tests::daemon::Daemon;
use netmesh_tests::{Lab, OutputText as _, scrape};
use nix::sys::signal::Signal;

/// A command as somebody, in a machine's namespace.
fn somebody(lab: &Lab, machine: &str, words: &[&str]) -> Output {
    let output = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", lab.name(machine)))
        .args(["setpriv", "--reuid=65534", "--regid=65534"])
        .args(["--clear-groups", "--no-new-privs", "--"])
        .args(words)
        .output();
    output.expect("nsenter starts")
}

/// A copy that everybody may enter: the binary, and the configuration as its files are.
fn public(lab: &Lab, machine: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), open).expect("ours");
    let binary = lab.command(machine, &[]).get_program().to_owned();
    fs::copy(binary, folder.path().join("netmesh")).expect("a copy");
    let copied = Command::new("cp")
        .args(["-a"])
        .arg(lab.config(machine))
        .arg(folder.path().join("config"))
        .status();
    assert!(copied.expect("cp starts").success());
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path().join("config"), open).expect("ours");
    folder
}

#[test]
fn somebody_changes_nothing_and_reads_no_secret() {
    let lab = Lab::mesh();
    let mut daemon = Daemon::start(&lab, "node-1", &["--metrics", "0"]);
    daemon.until_told("READY=1");
    lab.settles("node-1");
    let before = lab.dump("node-1", &["gw"]);
    let folder = public(&lab, "node-1");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (binary, config) = (path("netmesh"), path("config"));

    // Every command that changes something says that it may not.
    let new = format!("{}/gw2", lab.network());
    for words in [
        &["apply"][..],
        &["apply", "--confirm-within", "5m"],
        &["confirm"],
        &["rollback"],
        &["destroy", "--yes"],
        &["run"],
        &["dataplane", "attach", "--port", "eth0"],
        &["dataplane", "detach"],
        &["dataplane", "upgrade"],
        &["route", "add", "2001:db8::/32", "dev", "eth0"],
        &["route", "del", "2001:db8::/32"],
        &["key", "gen", &new],
        &["trace"],
        &["counters"],
        &["top"],
    ] {
        let words = [&[binary.as_str(), "--config", &config], words].concat();
        let output = somebody(&lab, "node-1", &words);
        assert!(!output.status.success(), "{words:?}");
        let text = output.stderr_text();
        assert!(!text.contains("panicked"), "{words:?}: {text}");
    }

    // Nothing that is a secret, or that would let in, can be opened.
    let key = format!("{config}/keys/{}/gw.key", lab.network());
    assert!(Path::new(&key).is_file());
    let tunnels = fs::read_dir("/run/wireguard").into_iter().flatten();
    let sockets = tunnels
        .flatten()
        .map(|entry| entry.path().display().to_string());
    let process = daemon.pid();
    let closed = [
        key,
        "/sys/fs/bpf/netmesh".to_owned(),
        format!("/proc/{process}/mem"),
        format!("/proc/{process}/environ"),
        format!("/proc/{process}/maps"),
    ];
    for file in closed.into_iter().chain(sockets) {
        let open = format!("exec 3<>'{file}' || ls '{file}/'");
        let output = somebody(&lab, "node-1", &["sh", "-c", &open]);
        assert!(!output.status.success(), "{file} can be opened");
        let output = somebody(&lab, "node-1", &["cat", &file]);
        assert!(!output.status.success(), "{file} can be read");
    }
    let state = "cat /run/netmesh/*/* /run/netmesh/*/*/* 2>/dev/null | grep -q .";
    let output = somebody(&lab, "node-1", &["sh", "-c", state]);
    assert!(!output.status.success(), "what was applied can be read");
    for signal in ["-TERM", "-KILL"] {
        let output = somebody(&lab, "node-1", &["kill", signal, &process.to_string()]);
        assert!(!output.status.success());
    }

    // What is public is: the figures, and what a look at the objects says.
    let check = [binary.as_str(), "--config", &config, "check"];
    let output = somebody(&lab, "node-1", &check);
    assert!(output.status.success(), "{}", output.stderr_text());
    let (at, to) = (lab.at("node-1"), scrape::address(&daemon));
    let text = scrape::request(&at, to, "GET /metrics", "*/*").1;
    assert!(text.contains("netmesh_ready 1"), "{text}");

    assert_eq!(lab.dump("node-1", &["gw"]), before);
    assert_eq!(
        daemon.ends(Signal::SIGTERM),
        Some(0),
        "it served all the while"
    );
}
