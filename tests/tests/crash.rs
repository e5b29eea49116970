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
    lab.apply_all();
    let octets = lab.address(&RESOURCES[1]).octets();
    let name = format!("wg-{:x}", u16::from_be_bytes([octets[6], octets[7]]));
    let pid = netmesh::wireguard::userspace::find(&name).expect("the tunnel has a process");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill -9");
    netmesh_tests::eventually("the process is gone", Duration::from_secs(5), || {
        netmesh::wireguard::userspace::find(&name).is_none()
    });
    let plan = lab.try_netmesh("node-2", &["plan", "--exit-code"]);
    assert_eq!(plan.status.code(), Some(5), "the loss is seen");
    let _ = lab.netmesh("node-2", &["apply"]);
    lab.assert_settled();
}
