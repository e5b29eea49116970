//! `netmesh dataplane upgrade`: new programs on every port, under traffic, and nothing of it lost;
//! one that fails leaves every port as it was, or with the new programs.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use netmesh::demo::traffic::ping;
use netmesh_tests::daemon::SOON;
use netmesh_tests::{INTERNET, Lab, RESOURCES, eventually};
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
        for _ in 0..20 {
            let _ = lab.netmesh("router", &["dataplane", "upgrade"]);
            seen.push(programs(&lab.name("router")));
        }
        let _ = lab.netmesh("node-1", &["dataplane", "upgrade", "--all"]);
        stop.store(true, Ordering::Relaxed);
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

    // It fails at whatever step it fails: every port goes on, and the next one is whole.
    let mut failed = 0;
    for files in (6..70).step_by(3) {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string()]);
        let upgrade = lab.command("router", &["dataplane", "upgrade"]);
        limited.arg(upgrade.get_program()).args(upgrade.get_args());
        let output = limited.output().expect("sh starts");
        if output.status.success() {
            continue;
        }
        failed += 1;
        let programs = programs(&lab.name("router"));
        assert_eq!(programs.len(), 2, "with {files} open files: {programs:?}");
        let pings = ping(&here, web, INTERNET.into(), 300, 5).expect("a socket");
        assert_eq!(pings.received, 5, "with {files} open files");
    }
    assert!(failed >= 5, "{failed} of them failed");
    let _ = lab.netmesh("router", &["dataplane", "upgrade"]);
    assert_eq!(lab.json("router", &["route"]), routes);
    lab.settles("router");
}
