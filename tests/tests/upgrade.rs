//! `netmesh dataplane upgrade`: new programs on every port, under traffic, and nothing of it lost;
//! one that fails, at whatever step, leaves every port with the programs it had.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netmesh::demo::traffic::ping;
use netmesh_tests::daemon::SOON;
use netmesh_tests::object::Object;
use netmesh_tests::pair::{HOOKS, LEFT, RIGHT};
use netmesh_tests::stream::Stream;
use netmesh_tests::{INTERNET, Lab, OutputText as _, RESOURCES, eventually};
use serde_json::Value;

/// The program on each port of a namespace, by what the kernel says.
fn programs(namespace: &str) -> BTreeMap<String, Value> {
    let output = Command::new("ip")
        .args(["-n", namespace, "-j", "-d", "link"])
        .output()
        .expect("ip starts");
    let links: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    links
        .into_iter()
        .filter(|link| link["xdp"]["prog"]["id"].is_u64())
        .map(|link| {
            (
                link["ifname"].to_string(),
                link["xdp"]["prog"]["id"].clone(),
            )
        })
        .collect()
}

#[test]
fn programs_are_replaced_under_traffic_and_nothing_is_lost() {
    let lab = Lab::mesh();
    for node in ["node-1", "node-2", "router"] {
        let _ = lab.netmesh(node, &["apply"]);
    }
    let (here, web) = (lab.resource("web"), lab.address(&RESOURCES[1]).into());
    let stop = AtomicBool::new(false);
    eventually("the mesh carries packets", SOON, || {
        ping(&here, web, INTERNET.into(), 104, 1).is_ok_and(|pings| pings.received == 1)
    });
    // Until then it is the kernel that forwards.
    lab.resolved("router");
    let prefix = lab.prefix(&RESOURCES[1]);
    let counted = || {
        let rows = lab.json("router", &["counters", &prefix])["prefixes"].clone();
        let row = rows[0].clone();
        ["to", "from"].map(|way| row[way]["packets"].as_u64().expect("a number"))
    };
    let (before, routes) = (counted(), lab.json("router", &["route"]));
    let mut seen = vec![programs(&lab.name("router"))];
    assert_eq!(seen[0].len(), 2, "both ports");
    let (sent, answered) = std::thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let (mut sent, mut answered) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let pings = ping(&here, web, INTERNET.into(), 300, 20).expect("a socket");
                sent += 20;
                answered += u64::from(pings.received);
            }
            (sent, answered)
        });
        let mut upgrades = Vec::new();
        for _ in 0..20 {
            upgrades.push(lab.try_netmesh("router", &["dataplane", "upgrade"]));
            seen.push(programs(&lab.name("router")));
        }
        upgrades.push(lab.try_netmesh("node-1", &["dataplane", "upgrade", "--all"]));
        stop.store(true, Ordering::Relaxed);
        for upgrade in upgrades {
            assert!(upgrade.status.success(), "{}", upgrade.stderr_text());
        }
        stream.join().expect("the stream")
    });
    assert_eq!(answered, sent, "20 upgrades");
    assert!(sent >= 200, "{sent} packets are no stream");
    for pair in seen.windows(2) {
        for (port, id) in &pair[1] {
            assert_ne!(pair[0].get(port), Some(id), "{port} runs a new program");
        }
        assert_eq!(pair[0].len(), pair[1].len(), "every port has one");
    }
    // Counters and routes went on as if nothing had been.
    let after = counted();
    let told = lab.json("router", &["dataplane", "status"]);
    assert_eq!(
        [after[0] - before[0], after[1] - before[1]],
        [sent, sent],
        "{told}"
    );
    assert_eq!(lab.json("router", &["route"]), routes);
    lab.settles("router");

    // It fails at whatever step it fails: every port goes on with what it had.
    let mut failed = 0;
    let before = self::programs(&lab.name("router"));
    for files in (6..70).step_by(3) {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string()]);
        let upgrade = lab.command("router", &["dataplane", "upgrade"]);
        limited.arg(upgrade.get_program()).args(upgrade.get_args());
        let output = limited.output().expect("sh starts");
        if output.status.success() {
            break;
        }
        failed += 1;
        let programs = programs(&lab.name("router"));
        assert_eq!(programs, before, "with {files} open files");
        let pings = ping(&here, web, INTERNET.into(), 300, 5).expect("a socket");
        assert_eq!(pings.received, 5, "with {files} open files");
    }
    assert!(failed >= 5, "{failed} of them failed");
    let _ = lab.netmesh("router", &["dataplane", "upgrade"]);
    assert_eq!(lab.json("router", &["route"]), routes);
    lab.settles("router");
}

fn upgrade(lab: &Lab, object: &Object) -> Output {
    std::fs::create_dir_all(lab.config("router")).expect("a folder");
    let file = lab.config("router").join("object");
    std::fs::write(&file, &object.bytes).expect("a file");
    let file = file.to_str().expect("a plain path");
    lab.try_netmesh("router", &["dataplane", "upgrade", "--object", file])
}

/// Everything pinned: names, and the program that each program's pin holds, by `explain`.
fn pins(lab: &Lab) -> Vec<String> {
    let status = lab.json("router", &["dataplane", "status"]);
    let folder = status["instance"]["pins"].as_str().expect("a folder");
    let mut names = Vec::new();
    for sub in ["maps", "progs", "links"] {
        for entry in std::fs::read_dir(format!("{folder}/{sub}")).expect("the pins") {
            let entry = entry.expect("a pin");
            names.push(format!("{sub}/{}", entry.file_name().display()));
        }
    }
    names.sort();
    names
}

/// The router does what this binary's programs do: `explain` refuses others.
fn is_as_before(lab: &Lab, ids: &BTreeMap<String, Value>, names: &[String], what: &str) {
    assert_eq!(programs(&lab.name("router")), *ids, "{what}");
    assert_eq!(pins(lab), names, "{what}");
    let (left, right) = (LEFT.to_string(), RIGHT.to_string());
    let explained = lab.json("router", &["explain", &left, &right, "--in", "port0"]);
    assert_eq!(explained["decision"], "forward", "{what}");
}

fn broken_objects_are_rolled_back(hook: &str) {
    let lab = Lab::pair();
    lab.whole_checksums(true);
    lab.attach_pair(hook, "any");
    let (program, drop) = match hook {
        "tc" => ("netmesh_tc", 2),
        _ => ("netmesh_xdp", 1),
    };
    let good = Object::embedded();
    let mut cut = good.clone();
    cut.bytes.truncate(1000);
    let text = Object {
        bytes: b"no object at all".to_vec(),
    };
    let smaller = good.clone().with(b"\0FIB6\0", b"\0FIB7\0");
    let (ids, names) = (programs(&lab.name("router")), pins(&lab));
    assert_eq!(ids.len(), if hook == "tc" { 0 } else { 2 });
    let stream = Stream::start(
        (&lab.at("left"), LEFT.into()),
        (&lab.at("right"), RIGHT.into()),
        Duration::from_millis(1),
    );
    for (what, object, code, says) in [
        (
            "drops",
            good.clone().always(program, drop),
            1,
            "fails its self-test on port",
        ),
        (
            "leaves all to the kernel",
            good.clone()
                .always(program, if hook == "tc" { -1 } else { 2 }),
            1,
            "nothing counted",
        ),
        (
            "is refused by the verifier",
            good.clone().unverifiable(program),
            1,
            "do not load",
        ),
        ("is cut off", cut, 3, "not an object of this netmesh"),
        ("is a text", text, 3, "not an object of this netmesh"),
        ("lacks a map", smaller, 3, "it has no map FIB6"),
    ] {
        let output = upgrade(&lab, &object);
        let text = output.stderr_text();
        assert_eq!(
            output.status.code(),
            Some(code),
            "an object that {what}: {text}"
        );
        assert!(text.contains(says), "an object that {what}: {text}");
        let state = if code == 1 {
            "every port goes on with the programs it had"
        } else {
            "nothing was changed"
        };
        assert!(text.contains(state), "an object that {what}: {text}");
        is_as_before(&lab, &ids, &names, what);
    }
    let output = upgrade(&lab, &good);
    assert!(output.status.success(), "{}", output.stderr_text());
    let after = programs(&lab.name("router"));
    for (port, id) in &ids {
        assert_ne!(after.get(port), Some(id), "{port} runs a new program");
    }
    is_as_before(&lab, &after, &names, "the good one");
    stream.end().assert_whole(500);
}

#[test]
fn broken_objects_are_rolled_back_by_native_xdp() {
    broken_objects_are_rolled_back(HOOKS[0]);
}

#[test]
fn broken_objects_are_rolled_back_by_generic_xdp() {
    broken_objects_are_rolled_back(HOOKS[1]);
}

#[test]
fn broken_objects_are_rolled_back_by_tc() {
    broken_objects_are_rolled_back(HOOKS[2]);
}

/// The second of two ports refuses what the first has taken: its frames are too large for a program
/// that takes none in several buffers.
#[test]
fn a_port_that_refuses_the_new_program_takes_it_from_all() {
    let lab = Lab::pair();
    lab.whole_checksums(true);
    for (machine, link) in [("right", "eth0"), ("router", "port1")] {
        lab.ip(machine, &format!("link set {link} mtu 9000"));
    }
    lab.attach_pair("xdp", "any");
    let (ids, names) = (programs(&lab.name("router")), pins(&lab));
    let stream = Stream::start(
        (&lab.at("left"), LEFT.into()),
        (&lab.at("right"), RIGHT.into()),
        Duration::from_millis(1),
    );
    let one_buffer = Object::embedded().with(b"xdp.frags\0", b"xdp\0frags\0");
    for _ in 0..5 {
        let output = upgrade(&lab, &one_buffer);
        let text = output.stderr_text();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("cannot put the new program behind"), "{text}");
        assert!(
            text.contains("every port goes on with the programs it had"),
            "{text}"
        );
        is_as_before(&lab, &ids, &names, "after a refusal");
    }
    stream.end().assert_whole(100);

    // Where no frame is that large it is as good as the other.
    for (machine, link) in [("right", "eth0"), ("router", "port1")] {
        lab.ip(machine, &format!("link set {link} mtu 1500"));
    }
    let output = upgrade(&lab, &one_buffer);
    assert!(output.status.success(), "{}", output.stderr_text());
}

/// A data plane of another layout goes on, is named with its remedy, and can be taken away.
#[test]
fn a_data_plane_of_another_layout_is_refused_by_name() {
    let lab = Lab::pair();
    lab.whole_checksums(true);
    lab.attach_pair("xdp", "any");
    let status = lab.json("router", &["dataplane", "status"]);
    let pins = status["instance"]["pins"].as_str().expect("a folder");
    let (root, name) = pins.rsplit_once('/').expect("a path");
    let (all, own) = root.rsplit_once("/v").expect("a layout");
    let other = format!("{all}/v{}0", own);
    std::fs::create_dir_all(&other).expect("bpffs");
    std::fs::rename(pins, format!("{other}/{name}")).expect("bpffs");
    let stream = Stream::start(
        (&lab.at("left"), LEFT.into()),
        (&lab.at("right"), RIGHT.into()),
        Duration::from_millis(1),
    );
    for words in [
        &["dataplane", "upgrade"][..],
        &["dataplane", "status"],
        &["dataplane", "attach", "--port", "port0"],
        &["route", "list"],
    ] {
        let output = lab.try_netmesh("router", words);
        let text = output.stderr_text();
        assert!(!output.status.success(), "{words:?}");
        assert!(
            text.contains(&format!("a data plane of layout {own}0 serves")),
            "{text}"
        );
        assert!(text.contains("netmesh dataplane detach"), "{text}");
    }
    assert_eq!(programs(&lab.name("router")).len(), 2, "it goes on");
    stream.end().assert_whole(10);
    let _ = lab.netmesh("router", &["dataplane", "detach"]);
    eventually("its programs are gone", SOON, || {
        programs(&lab.name("router")).is_empty()
    });
    assert!(!std::path::Path::new(&other).join(name).exists());
    let _ = std::fs::remove_dir(&other);
    lab.attach_pair("xdp", "any");
    assert_eq!(programs(&lab.name("router")).len(), 2);
}
