//! The demo as its users meet it: what it shows, and that it leaves nothing, however it ends.
//!
//! Its names are fixed, so every test gives it a `/run` and a bpffs of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use netmesh::wireguard::userspace;
use netmesh_tests::{alone, binary, slowness};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    demo(arguments).output().expect("netmesh starts")
}

/// Whatever the demo makes, by its place.
fn left() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for folder in [
        "/run/netns",
        "/run/wireguard",
        "/run/netmesh",
        "/run/netmesh-demo",
    ] {
        found.extend(files(Path::new(folder)));
    }
    for layout in fs::read_dir("/sys/fs/bpf/netmesh").into_iter().flatten() {
        found.extend(files(&layout.expect("a folder of pins").path()));
    }
    found
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|entry| entry.expect("an entry").path().display().to_string())
        .collect()
}

/// Starts the demo and waits until it has told a check whose line holds `word`.
fn until(word: &str, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = demo(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("netmesh starts");
    let mut reader = BufReader::new(child.stdout.take().expect("its stdout"));
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        let length = reader.read_line(&mut line).expect("a line");
        assert!(length > 0, "the demo ended before it came to {word:?}");
    }
    (child, reader)
}

#[test]
fn every_check_holds_and_nothing_is_left() {
    alone(|| {
        let started = Instant::now();
        let output = run(&["--json", "demo"]);
        let took = started.elapsed();
        let document: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        let failed: Vec<&Value> = document["checks"]
            .as_array()
            .expect("checks")
            .iter()
            .filter(|check| check["ok"] != true)
            .collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!(output.status.code(), Some(0));
        assert!(
            took < Duration::from_secs(60) * slowness(),
            "it took {took:?}"
        );
        assert_eq!(left(), BTreeSet::new());

        let keys = |value: &Value| -> Vec<String> {
            value
                .as_object()
                .expect("an object")
                .keys()
                .cloned()
                .collect()
        };
        assert_eq!(
            keys(&document),
            ["checks", "ok", "prefixes", "schema_version"]
        );
        assert_eq!(document["ok"], true);
        for check in document["checks"].as_array().expect("checks") {
            assert_eq!(keys(check), ["detail", "name", "ok"]);
        }
        let prefixes = document["prefixes"].as_array().expect("prefixes");
        assert_eq!(prefixes.len(), 6);
        for row in prefixes {
            assert_eq!(keys(row), ["from", "prefix", "to"]);
            for direction in ["to", "from"] {
                assert!(row[direction]["packets"].as_u64() > Some(0), "{row}");
                assert!(row[direction]["bytes"].as_u64() > Some(0), "{row}");
            }
        }
    });
}

#[test]
fn an_interrupt_tears_everything_down_even_what_was_to_be_kept() {
    alone(|| {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let (mut child, mut reader) = until("apply on router", &["demo", "--keep"]);
            kill(Pid::from_raw(child.id() as i32), signal).expect("it runs");
            let mut rest = String::new();
            std::io::Read::read_to_string(&mut reader, &mut rest).expect("its last words");
            assert_eq!(child.wait().expect("it ends").code(), Some(1), "{signal}");
            assert!(rest.contains("interrupted"), "{signal}: {rest}");
            assert_eq!(left(), BTreeSet::new(), "{signal}");
        }
    });
}

#[test]
fn the_next_one_sweeps_what_a_killed_one_left() {
    alone(|| {
        for word in ["nmd-internet", "apply on node-2", "echoes"] {
            let (mut child, reader) = until(word, &["demo"]);
            // Another one keeps its hands off while this one runs.
            let second = run(&["demo"]);
            assert_eq!(second.status.code(), Some(1));
            let stderr = String::from_utf8_lossy(&second.stderr);
            assert!(stderr.contains("another demo is running"), "{stderr}");
            child.kill().expect("kill -9");
            child.wait().expect("it is gone");
            drop(reader);
            let swept = run(&["demo", "--clean"]);
            let stderr = String::from_utf8_lossy(&swept.stderr);
            assert_eq!(swept.status.code(), Some(0), "{word}: {stderr}");
            assert_eq!(left(), BTreeSet::new(), "killed at {word:?}");
        }
    });
}

#[test]
fn kept_it_stands_until_it_is_cleaned() {
    alone(|| {
        let output = run(&["demo", "--keep"]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{stdout}");
        // The hints work as they are printed.
        let hints: Vec<&str> = stdout
            .lines()
            .skip_while(|line| !line.starts_with("It stands"))
            .map(str::trim)
            .filter(|line| line.starts_with('/') && !line.contains("--watch"))
            .collect();
        assert!(hints.len() >= 4, "{stdout}");
        for hint in hints {
            let output = Command::new("sh").args(["-c", hint]).output().expect("sh");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{hint}: {stderr}");
        }
        assert_eq!(left(), BTreeSet::new(), "the last hint cleans up");
    });
}

#[test]
fn names_of_somebody_else_are_refused_and_left_alone() {
    alone(|| {
        let ip = |words: &str| {
            let status = Command::new("ip").args(words.split(' ')).status();
            assert!(status.expect("ip starts").success(), "ip {words}");
        };
        ip("netns add nm-alice-gw");
        ip("-n nm-alice-gw link add theirs type bridge");
        userspace::start("wg-20a", Some(binary_serving().as_str())).expect("a tunnel of theirs");
        let theirs = userspace::find("wg-20a");
        let before = left();
        for arguments in [&["demo", "--clean"][..], &["demo"], &["demo", "--keep"]] {
            let output = run(arguments);
            let stderr = String::from_utf8_lossy(&output.stderr);
            let cleaning = arguments.contains(&"--clean");
            assert_eq!(output.status.code(), Some(i32::from(!cleaning)), "{stderr}");
            for name in ["nm-alice-gw", "wg-20a"] {
                assert!(cleaning || stderr.contains(name), "{stderr}");
            }
            let after: BTreeSet<String> = left();
            assert_eq!(after, before, "{arguments:?}");
            ip("-n nm-alice-gw link show theirs");
            assert_eq!(userspace::find("wg-20a"), theirs, "{arguments:?}");
        }
        userspace::stop("wg-20a").expect("it ends");
        ip("netns del nm-alice-gw");
    });
}

/// A program that serves a device when it is given a name, as `wireguard-go` does.
fn binary_serving() -> String {
    let path = "/run/serve";
    fs::write(
        path,
        format!(
            "#!/bin/sh\nexec {} wireguard-userspace \"$1\"\n",
            binary().display()
        ),
    )
    .expect("a script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(path, mode).expect("it can be run");
    path.to_owned()
}
