//! Whoever dies at whatever moment: the next apply converges.

use std::time::Duration;

use netmesh_tests::{Lab, RESOURCES};

#[test]
fn apply_killed_at_ten_moments_converges_to_the_undisturbed_state() {
    let undisturbed = {
        let lab = Lab::mesh();
        let started = std::time::Instant::now();
        let _ = lab.netmesh("node-1", &["apply"]);
        let took = started.elapsed();
        let _ = lab.netmesh("router", &["apply"]);
        (took, lab)
    };
    let (took, reference) = undisturbed;
    let wanted = [
        reference.dump("node-1", &["gw"]),
        reference.dump("router", &[]),
    ];

    // The same resources in another lab have other indexes: the same lab is taken down and up.
    for node in reference.nodes() {
        let _ = reference.netmesh(&node, &["destroy", "--yes"]);
    }
    for moment in 0..10_u32 {
        for node in ["node-1", "router"] {
            let mut child = reference
                .command(node, &["apply", "--quiet"])
                .spawn()
                .expect("apply starts");
            std::thread::sleep(took * moment / 10);
            child.kill().expect("kill -9");
            child.wait().expect("it is gone");
            let _ = reference.netmesh(node, &["apply"]);
            let plan = reference.try_netmesh(node, &["plan", "--exit-code"]);
            assert_eq!(
                plan.status.code(),
                Some(0),
                "killed after {moment}/10 of an apply on {node}"
            );
        }
        let found = [
            reference.dump("node-1", &["gw"]),
            reference.dump("router", &[]),
        ];
        assert_eq!(found, wanted, "killed after {moment}/10");
        for node in ["node-1", "router"] {
            let _ = reference.netmesh(node, &["destroy", "--yes"]);
        }
    }
}

#[test]
fn a_tunnel_process_that_is_killed_comes_back_with_the_next_apply() {
    let lab = Lab::mesh();
    lab.configure("node-2", "node = \"node-2\"\nwireguard = \"embedded\"\n");
    lab.apply_all();
    let octets = lab.address(&RESOURCES[1]).octets();
    let name = format!("wg-{:x}", u16::from_be_bytes([octets[6], octets[7]]));
    let pid = netmesh::wireguard::userspace::find(&name).expect("the tunnel has a process");
    // A burst has room in its sockets: 7 MiB, which the kernel doubles (`sk_setsockopt`).
    let sockets = std::process::Command::new("nsenter")
        .args([&format!("--net=/proc/{pid}/ns/net"), "ss", "-Hulnpm"])
        .output()
        .expect("ss runs");
    let sockets = String::from_utf8_lossy(&sockets.stdout).into_owned();
    let count = |text: &str| sockets.matches(text).count();
    let own = sockets
        .lines()
        .filter(|line| line.contains("users:"))
        .count();
    assert!(own >= 2, "{sockets}");
    assert_eq!(count("rb14680064,"), own, "{sockets}");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill -9");
    netmesh_tests::eventually("the process is gone", Duration::from_secs(5), || {
        netmesh::wireguard::userspace::find(&name).is_none()
    });
    let plan = lab.try_netmesh("node-2", &["plan", "--exit-code"]);
    assert_eq!(plan.status.code(), Some(5), "the loss is seen");
    let _ = lab.netmesh("node-2", &["apply"]);
    lab.assert_settled();
}

/// What `kill -9` leaves when it comes between the move of a device, which takes it down, and its
/// last step, which takes it up; or what `ip link set … down` does.
#[test]
fn a_link_that_is_down_is_seen_and_comes_up_with_the_next_apply() {
    let lab = Lab::mesh();
    lab.apply_all();
    let [_, _, _, _, _, _, hi, lo, ..] = lab.address(&RESOURCES[0]).octets();
    let tunnel = format!("wg-{:x}", u16::from_be_bytes([hi, lo]));
    let namespace = lab.resource("gw").to_string();
    let ip = |words: &[&str]| {
        let output = std::process::Command::new("ip")
            .args(["-n", &namespace])
            .args(words)
            .output()
            .expect("ip starts");
        assert!(output.status.success(), "ip {words:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    ip(&["link", "set", &tunnel, "down"]);
    let plan = lab.try_netmesh("node-1", &["plan", "--exit-code"]);
    assert_eq!(plan.status.code(), Some(5), "the loss is seen");
    let _ = lab.netmesh("node-1", &["apply"]);
    lab.assert_settled();
    assert!(ip(&["link", "show", &tunnel]).contains(",UP"), "it is up");
}

#[test]
fn a_namespace_removed_by_hand_comes_back_and_leaves_nothing_dead() {
    let lab = Lab::mesh();
    lab.apply_all();
    let name = lab.resource("gw").to_string();
    let removed = std::process::Command::new("ip")
        .args(["netns", "del", &name])
        .status();
    assert!(removed.expect("ip starts").success());
    let _ = lab.netmesh("node-1", &["apply"]);
    lab.assert_settled();
    let (cookie, _) = netmesh::kernel::netns::identity(&lab.resource("gw")).expect("it is back");
    let pins: Vec<u64> = netmesh::dataplane::pin::Folder::list()
        .expect("the pins")
        .into_iter()
        .filter(|folder| folder.name == name)
        .map(|folder| folder.cookie)
        .collect();
    assert_eq!(pins, [cookie], "one data plane, the living one");
    let web = lab.address(&RESOURCES[1]);
    netmesh_tests::eventually("traffic flows", Duration::from_secs(10), || {
        let internet = netmesh_tests::INTERNET.into();
        let namespace = lab.resource("web");
        netmesh::demo::traffic::ping(&namespace, web.into(), internet, 104, 1)
            .unwrap()
            .received
            == 1
    });
}
