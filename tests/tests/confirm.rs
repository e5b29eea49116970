//! `netmesh apply --confirm-within`: what is not confirmed is undone, whoever was killed meanwhile.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netmesh::demo::traffic::ping;
use netmesh_tests::daemon::{Daemon, SOON};
use netmesh_tests::{INTERNET, Lab, OutputText as _, RESOURCES, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};
use serde_json::Value;

const NODE: &str = "node-1";
/// The names of the node's resources.
const HERE: [&str; 1] = ["gw"];
/// Longer than any test takes.
const LONG: &str = "3600";

/// A mesh in which web reaches the internet through node-1.
fn lab() -> Lab {
    let lab = Lab::mesh();
    lab.apply_all();
    crosses(&lab);
    lab
}

fn answers(lab: &Lab) -> bool {
    let web = lab.address(&RESOURCES[1]);
    ping(&lab.resource("web"), web.into(), INTERNET.into(), 104, 1)
        .is_ok_and(|pings| pings.received == 1)
}

fn crosses(lab: &Lab) {
    eventually("web reaches the internet", SOON, || answers(lab));
}

fn network_file(lab: &Lab) -> PathBuf {
    lab.config(NODE).join("networks/network.toml")
}

/// A change on node-1 that cuts web off: the exit knows it no more.
fn cut(lab: &Lab) -> String {
    let file = network_file(lab);
    let text = fs::read_to_string(&file).expect("the object");
    let blocks: Vec<&str> = text.split("\n[[resource]]\n").collect();
    let kept = blocks.iter().filter(|block| !block.contains("\"web\""));
    let cut: Vec<&str> = kept.copied().collect();
    assert_eq!(cut.len() + 1, blocks.len(), "{text}");
    let cut = format!("# without web\n{}", cut.join("\n[[resource]]\n"));
    fs::write(&file, &cut).expect("the object");
    cut
}

fn record(lab: &Lab) -> PathBuf {
    let (cookie, _) = netmesh::kernel::netns::identity(&lab.at(NODE)).expect("it is there");
    PathBuf::from(format!("/run/netmesh/{cookie:x}/objects"))
}

fn pending(lab: &Lab) -> Option<Value> {
    let text = fs::read(record(lab).join("pending.json")).ok()?;
    Some(serde_json::from_slice(&text).expect("JSON"))
}

/// Puts the deadline of the change that waits into the past. As the record is written: aside.
fn expire(lab: &Lab) {
    let mut change = pending(lab).expect("a change waits");
    change["deadline_ms"] = 1.into();
    let aside = record(lab).join("aside");
    fs::write(&aside, change.to_string()).expect("the record");
    fs::rename(&aside, record(lab).join("pending.json")).expect("the record");
}

/// The processes that wait for the deadline on this node.
fn watchers(lab: &Lab) -> Vec<Pid> {
    let folder = lab.config(NODE);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let ours = line.contains("undo-unconfirmed") && line.contains(&*folder.to_string_lossy());
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = pid.filter(|_| ours) {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

fn kill_watcher(lab: &Lab) {
    let watchers = watchers(lab);
    assert_eq!(watchers.len(), 1, "one change, one process");
    // No terminal that closes takes it along.
    assert_eq!(getsid(Some(watchers[0])), Ok(watchers[0]));
    kill(watchers[0], Signal::SIGKILL).expect("it runs");
    eventually("it is gone", SOON, || self::watchers(lab).is_empty());
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

#[test]
fn an_unconfirmed_change_is_undone_at_its_deadline() {
    let lab = lab();
    let (before, files) = (lab.dump(NODE, &HERE), read(network_file(&lab)));
    let cut = cut(&lab);
    // The process that applied it is long gone when the time is over.
    let report = lab.json(NODE, &["apply", "--confirm-within", "15"]);
    assert_eq!(report["confirm_within"], 15);
    let begun = std::time::Instant::now();
    assert!(!answers(&lab), "web is cut off");
    let text = lab.try_netmesh(NODE, &["status"]).stdout_text();
    assert!(text.contains("a change waits to be confirmed"), "{text}");
    // Nothing else is taken meanwhile.
    for second in [&["apply"][..], &["apply", "--confirm-within", "9"]] {
        let refused = lab.try_netmesh(NODE, second);
        assert_eq!(refused.status.code(), Some(3));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("netmesh confirm keeps it"), "{said}");
    }
    assert!(pending(&lab).is_some(), "it still waits");
    eventually("it is undone", 2 * SOON, || pending(&lab).is_none());
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(14),
        "not before its time: {took:?}"
    );
    crosses(&lab);
    assert_eq!(lab.dump(NODE, &HERE), before);
    assert_eq!(read(network_file(&lab)), files);
    assert_eq!(
        read(lab.config(NODE).join("rejected-1/networks/network.toml")),
        cut
    );
    lab.settles(NODE);
    eventually("nobody waits any more", SOON, || watchers(&lab).is_empty());
    for command in ["confirm", "rollback"] {
        let late = lab.try_netmesh(NODE, &[command]);
        assert_eq!(late.status.code(), Some(3), "{command}");
        let said = String::from_utf8_lossy(&late.stderr).into_owned();
        assert!(said.contains("no change waits to be confirmed"), "{said}");
    }
}

#[test]
fn a_confirmed_change_stays_and_a_rollback_is_at_once() {
    let lab = lab();
    let (before, files) = (lab.dump(NODE, &HERE), read(network_file(&lab)));
    cut(&lab);
    let _ = lab.netmesh(NODE, &["apply", "--confirm-within", LONG]);
    let status = lab.try_netmesh(NODE, &["--json", "status"]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let left = status["confirmation"]["seconds_left"].as_u64();
    assert!(
        left.is_some_and(|left| left > 3000 && left <= 3600),
        "{status}"
    );
    let shown = lab.json(NODE, &["rollback", "--dry-run"]);
    assert_eq!(shown["rolled_back"], false);
    assert!(
        shown["steps"]
            .as_array()
            .is_some_and(|steps| !steps.is_empty())
    );
    assert!(!answers(&lab), "web is still cut off");
    let done = lab.json(NODE, &["rollback"]);
    assert_eq!(done["rolled_back"], true);
    assert_eq!(lab.dump(NODE, &HERE), before);
    assert_eq!(read(network_file(&lab)), files);
    crosses(&lab);

    cut(&lab);
    let _ = lab.netmesh(NODE, &["apply", "--confirm-within", "8"]);
    let confirmed = lab.json(NODE, &["confirm"]);
    assert_eq!(confirmed["confirmed"], true);
    let after = lab.dump(NODE, &HERE);
    eventually("nobody waits any more", SOON, || watchers(&lab).is_empty());
    std::thread::sleep(Duration::from_secs(9));
    assert_eq!(lab.dump(NODE, &HERE), after, "it stays");
    assert!(!answers(&lab));

    // A change upon it goes back to it.
    lab.write_network(&RESOURCES);
    let _ = lab.netmesh(NODE, &["apply", "--confirm-within", LONG]);
    crosses(&lab);
    let _ = lab.netmesh(NODE, &["rollback"]);
    assert_eq!(lab.dump(NODE, &HERE), after);

    // No key is kept, and what is kept is root's.
    let own = read(
        lab.config(NODE)
            .join("keys")
            .join(lab.network())
            .join("gw.key"),
    );
    lab.write_network(&RESOURCES);
    let _ = lab.netmesh(NODE, &["apply", "--confirm-within", LONG]);
    let mut kept = 0;
    for entry in fs::read_dir(record(&lab)).expect("the record").flatten() {
        use std::os::unix::fs::MetadataExt as _;
        let text = read(entry.path());
        assert!(text.contains(lab.public_key(&RESOURCES[0])), "the objects");
        assert!(!text.contains(own.trim()), "a private key");
        assert_eq!(entry.metadata().expect("it is there").mode() & 0o777, 0o600);
        kept += 1;
    }
    assert_eq!(kept, 2, "what is applied, and what waits");
    // Who removes all of it has nothing to go back to.
    let _ = lab.netmesh(NODE, &["destroy", "--yes"]);
    assert!(!record(&lab).exists());
    eventually("nobody waits any more", SOON, || watchers(&lab).is_empty());
}

#[test]
fn who_was_killed_meanwhile_makes_no_difference() {
    let lab = lab();
    let (before, files) = (lab.dump(NODE, &HERE), read(network_file(&lab)));
    // The next command that changes the node undoes it.
    cut(&lab);
    let _ = lab.netmesh(NODE, &["apply", "--confirm-within", LONG]);
    kill_watcher(&lab);
    expire(&lab);
    let status = lab.try_netmesh(NODE, &["status"]);
    assert_eq!(status.status.code(), Some(4));
    assert!(status.stdout_text().contains("should have been undone"));
    let next = lab.netmesh(NODE, &["apply"]);
    let said = String::from_utf8_lossy(&next.stderr).into_owned();
    assert!(said.contains("was not confirmed in time"), "{said}");
    assert_eq!(lab.dump(NODE, &HERE), before);
    assert_eq!(read(network_file(&lab)), files);
    crosses(&lab);

    // Whoever makes the change is killed while he makes it.
    cut(&lab);
    let mut apply = lab
        .command(NODE, &["apply", "--confirm-within", "3"])
        .spawn()
        .expect("netmesh starts");
    eventually("somebody waits", SOON, || {
        pending(&lab).is_some() && !watchers(&lab).is_empty()
    });
    let _ = apply.kill();
    // One that was quicker is undone all the same.
    let ended = apply.wait().expect("it ends");
    assert!(matches!(ended.code(), None | Some(0)), "{ended}");
    eventually("it is undone", SOON, || pending(&lab).is_none());
    assert_eq!(lab.dump(NODE, &HERE), before);
    assert_eq!(read(network_file(&lab)), files);
    crosses(&lab);

    // To confirm it is too late.
    cut(&lab);
    let _ = lab.netmesh(NODE, &["apply", "--confirm-within", LONG]);
    kill_watcher(&lab);
    expire(&lab);
    let late = lab.try_netmesh(NODE, &["confirm"]);
    assert_eq!(late.status.code(), Some(1));
    assert_eq!(lab.dump(NODE, &HERE), before);

    // A daemon that starts undoes it, and one that runs.
    for running in [false, true] {
        let daemon = running.then(|| Daemon::start(&lab, NODE, &[]));
        if let Some(daemon) = &daemon {
            daemon.until_told("READY=1");
            lab.settles(NODE);
            // It follows the files by itself: so the time begins first.
            let _ = lab.netmesh(NODE, &["apply", "--confirm-within", LONG]);
        }
        cut(&lab);
        if running {
            eventually("the daemon has cut web off", SOON, || !answers(&lab));
            lab.settles(NODE);
        } else {
            let _ = lab.netmesh(NODE, &["apply", "--confirm-within", LONG]);
        }
        assert!(!answers(&lab));
        kill_watcher(&lab);
        expire(&lab);
        let daemon = daemon.unwrap_or_else(|| Daemon::start(&lab, NODE, &[]));
        eventually("the daemon undoes it", SOON, || pending(&lab).is_none());
        crosses(&lab);
        lab.settles(NODE);
        assert!(daemon.says("a change was not confirmed in time"));
        assert_eq!(read(network_file(&lab)), files);
    }
}

#[test]
fn the_daemon_takes_no_undone_objects_again() {
    let lab = lab();
    let daemon = Daemon::start(&lab, NODE, &[]);
    daemon.until_told("READY=1");
    lab.settles(NODE);
    let _ = lab.netmesh(NODE, &["apply", "--confirm-within", "15"]);
    let cut = cut(&lab);
    eventually("the daemon has cut web off", SOON, || !answers(&lab));
    // By the process that waits, under the daemon's eyes.
    eventually("it is undone", SOON, || pending(&lab).is_none());
    crosses(&lab);
    lab.settles(NODE);
    assert!(lab.config(NODE).join("rejected-1").exists());
    // Somebody writes the same again: the node stays what it was.
    fs::write(network_file(&lab), &cut).expect("the object");
    eventually("the daemon says so", SOON, || {
        daemon.text().contains("not confirmed and are undone")
    });
    daemon.signal(Signal::SIGHUP);
    daemon.until_told("READY=1");
    assert!(answers(&lab), "web is still there");
    // Who means it says so.
    let _ = lab.netmesh(NODE, &["apply"]);
    eventually("web is cut off", SOON, || !answers(&lab));
    daemon.signal(Signal::SIGHUP);
    daemon.until_told("READY=1");
    lab.settles(NODE);
    assert!(!answers(&lab), "and stays so");
}

/// Half a change is nothing to confirm.
#[test]
fn a_change_that_fails_is_undone_at_once() {
    let lab = lab();
    let (before, files) = (lab.dump(NODE, &HERE), read(network_file(&lab)));
    let there = lab.at(NODE);
    let taken = netmesh::kernel::netns::run_in(&there, || UdpSocket::bind("[::]:51999"));
    let _taken = taken.expect("the namespace").expect("a port");
    let other = files.replace("11]:51820", "11]:51999");
    assert_ne!(other, files);
    fs::write(network_file(&lab), &other).expect("the object");
    let failed = lab.try_netmesh(NODE, &["apply", "--confirm-within", LONG]);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(
        said.contains("undone: ") && said.contains("51999"),
        "{said}"
    );
    assert!(pending(&lab).is_none());
    eventually("nobody waits any more", SOON, || watchers(&lab).is_empty());
    assert_eq!(lab.dump(NODE, &HERE), before);
    assert_eq!(read(network_file(&lab)), files);
    assert_eq!(
        read(lab.config(NODE).join("rejected-1/networks/network.toml")),
        other
    );
    crosses(&lab);
}

#[test]
fn what_was_never_there_goes_away_again() {
    let lab = Lab::mesh();
    let before = (lab.dump(NODE, &[]), lab.residue(NODE));
    let config = read(lab.config(NODE).join("node.toml"));
    // Nobody who kept no record of it takes what is there for nothing.
    let _ = lab.netmesh(NODE, &["apply"]);
    fs::remove_dir_all(record(&lab)).expect("the record");
    let refused = lab.try_netmesh(NODE, &["apply", "--confirm-within", LONG]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(pending(&lab).is_none() && watchers(&lab).is_empty());
    let _ = lab.netmesh(NODE, &["destroy", "--yes"]);
    assert_eq!((lab.dump(NODE, &[]), lab.residue(NODE)), before);

    let shown = lab.json(NODE, &["apply", "--confirm-within", LONG, "--dry-run"]);
    assert_eq!(shown["applied"], false);
    assert!(pending(&lab).is_none(), "--dry-run touches nothing");
    let _ = lab.netmesh(NODE, &["apply", "--confirm-within", LONG]);
    assert!(netmesh::kernel::netns::path(&lab.resource("gw")).exists());
    let _ = lab.netmesh(NODE, &["rollback"]);
    assert!(!netmesh::kernel::netns::path(&lab.resource("gw")).exists());
    assert_eq!(lab.dump(NODE, &[]), before.0);
    assert!(!lab.config(NODE).join("node.toml").exists());
    assert_eq!(read(lab.config(NODE).join("rejected-1/node.toml")), config);
    // For what removes the lab.
    lab.configure(NODE, &config);
}
