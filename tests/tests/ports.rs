//! The ways an exit reaches the segment, and what is in the way of an apply.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use netmesh::demo::traffic::ping;
use netmesh::kernel::netns;
use netmesh_tests::{INTERNET, Lab, RESOURCES, eventually};

fn reaches(lab: &Lab) -> bool {
    let web = IpAddr::V6(lab.address(&RESOURCES[1]));
    ping(&lab.resource("web"), web, INTERNET.into(), 1420, 1)
        .unwrap()
        .received
        == 1
}

/// Runs a mesh whose exit has this `[segment]`, takes it down, and looks for what is left.
fn comes_and_goes(segment: &str, prepare: impl Fn(&Lab)) {
    let lab = Lab::mesh();
    prepare(&lab);
    lab.configure(
        "node-1",
        &format!("node = \"node-1\"\n[segment]\n{segment}\n"),
    );
    let before = lab.dump("node-1", &[]);
    lab.apply_all();
    eventually("traffic flows", Duration::from_secs(10), || reaches(&lab));
    lab.assert_settled();
    let _ = lab.netmesh("node-1", &["destroy", "--yes"]);
    // A device that was moved comes back down, as the kernel hands it over.
    lab.ip("node-1", "link set eth1 up");
    let deadline = std::time::Instant::now() + Duration::from_secs(3);
    while lab.dump("node-1", &[]) != before && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20)); // The kernel takes back a carrier.
    }
    assert_eq!(lab.dump("node-1", &[]), before, "the node is as it was");
}

#[test]
fn an_exit_through_a_macvlan() {
    comes_and_goes("parent = \"eth1\"", |_| {});
}

#[test]
fn an_exit_through_a_bridge() {
    comes_and_goes("parent = \"br-seg\"", |lab| {
        lab.ip("node-1", "link add br-seg type bridge");
        lab.ip("node-1", "link set br-seg up");
        lab.ip("node-1", "link set eth1 master br-seg");
    });
}

#[test]
fn an_exit_through_a_device_of_its_own() {
    comes_and_goes("device = \"eth1\"", |_| {});
}

#[test]
fn an_apply_that_fails_half_way_says_so_and_the_next_one_goes_on() {
    let lab = Lab::mesh();
    let port = netns::run_in(&lab.at("node-1"), || UdpSocket::bind("[::]:51820").unwrap()).unwrap();
    let failed = lab.try_netmesh("node-1", &["apply"]);
    let stderr = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{stderr}");
    for word in ["wg set wg-", "is the port in use?", "goes on from here"] {
        assert!(stderr.contains(word), "{word} in\n{stderr}");
    }
    assert_eq!(
        lab.try_netmesh("node-1", &["plan", "--exit-code"])
            .status
            .code(),
        Some(5)
    );
    drop(port);
    lab.apply_all();
    lab.assert_settled();
    eventually("traffic flows", Duration::from_secs(10), || reaches(&lab));
}
