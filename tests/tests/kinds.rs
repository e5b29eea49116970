//! Ports that are no plain Ethernet: VLAN sub-interfaces, bridges, members of a VRF, netkit.
//! Whatever the kernel routes over them is routed; `cargo xtask vm` runs these on kernels that
//! have all of them.

use std::net::IpAddr;
use std::time::Duration;

use netmesh::demo::traffic::ping;
use netmesh::kernel::{ethtool, netns, snmp};
use netmesh_tests::{Lab, eventually};

const LEFT: &str = "2a02:1811:1::2";
const RIGHT: &str = "2a02:1811:2::2";

/// `left` - `router` - `right`; `shape` makes the router's port towards the left, and names it,
/// and the left's own link.
fn lab(shape: impl Fn(&Lab) -> (&'static str, &'static str)) -> (Lab, &'static str) {
    let mut lab = Lab::new();
    for machine in ["left", "router", "right"] {
        lab.machine(machine);
    }
    lab.wire(("right", "eth0"), ("router", "port1"));
    let (port, link) = shape(&lab);
    lab.ip(
        "router",
        &format!("addr add 2a02:1811:1::1/64 dev {port} nodad"),
    );
    lab.ip("router", "addr add 2a02:1811:2::1/64 dev port1 nodad");
    lab.ip("left", &format!("addr add {LEFT}/64 dev {link} nodad"));
    lab.ip("right", &format!("addr add {RIGHT}/64 dev eth0 nodad"));
    lab.ip("left", "route add default via 2a02:1811:1::1");
    lab.ip("right", "route add default via 2a02:1811:2::1");
    for (machine, link) in [("left", link), ("right", "eth0")] {
        // Not every device has the switch; those without have nothing to switch off.
        let _ = ethtool::set_tx_checksum(&lab.at(machine), link, false);
    }
    ethtool::set_gro(&lab.at("right"), "eth0", true).expect("GRO on");
    netns::run_in(&lab.at("router"), || {
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("forwarding");
    })
    .expect("the router");
    (lab, port)
}

/// Attaches both ports and routes both hosts; nothing of the stream is the kernel's.
fn accelerates(lab: &Lab, port: &str) {
    accelerates_by(lab, port, "tc");
}

fn attach(lab: &Lab, port: &str, hook: &str) {
    let ports = [
        "dataplane",
        "attach",
        "--hook",
        hook,
        "--port",
        port,
        "--port",
        "port1",
    ];
    let _ = lab.netmesh("router", &ports);
}

fn accelerates_by(lab: &Lab, port: &str, hook: &str) {
    attach(lab, port, hook);
    for (host, port) in [(LEFT, port), (RIGHT, "port1")] {
        let _ = lab.netmesh("router", &["route", "add", host, "via", host, "dev", port]);
    }
    lab.resolved("router");
    let before = snmp::forwarded(&lab.at("router")).expect("the router");
    meets(lab);
    let after = snmp::forwarded(&lab.at("router")).expect("the router");
    assert_eq!(after, before, "the kernel forwarded some");
}

fn meets(lab: &Lab) {
    let (left, right): (IpAddr, IpAddr) = (
        LEFT.parse().expect("an address"),
        RIGHT.parse().expect("an address"),
    );
    eventually("they meet", Duration::from_secs(10), || {
        ping(&lab.at("left"), left, right, 104, 1)
            .expect("a ping")
            .received
            == 1
    });
    for size in [48, 1280, 1420] {
        let pings = ping(&lab.at("left"), left, right, size, 3).expect("pings");
        assert_eq!(pings.received, 3, "{size} bytes");
        let pings = ping(&lab.at("right"), right, left, size, 3).expect("pings");
        assert_eq!(pings.received, 3, "{size} bytes");
    }
}

fn vlan(lab: &Lab) -> (&'static str, &'static str) {
    lab.wire(("left", "eth0"), ("router", "port0"));
    for (machine, link) in [("left", "eth0"), ("router", "port0")] {
        lab.ip(
            machine,
            &format!("link add link {link} name {link}.7 type vlan id 7"),
        );
        lab.ip(machine, &format!("link set {link}.7 up"));
    }
    ("port0.7", "eth0.7")
}

#[test]
#[ignore = "needs 8021q: cargo xtask vm"]
fn a_vlan_port_is_accelerated() {
    let (lab, port) = lab(vlan);
    accelerates(&lab, port);
}

/// XDP sits on the device below, sees the tag in the frame and puts it there.
#[test]
#[ignore = "needs 8021q: cargo xtask vm"]
fn a_vlan_port_is_accelerated_by_native_xdp() {
    let (lab, port) = lab(vlan);
    ethtool::set_vlan(&lab.at("left"), "eth0", false).expect("tags in the frame");
    ethtool::set_gro(&lab.at("left"), "eth0", true).expect("GRO on");
    accelerates_by(&lab, port, "xdp");
}

#[test]
#[ignore = "needs 8021q: cargo xtask vm"]
fn a_vlan_port_is_accelerated_by_generic_xdp() {
    let (lab, port) = lab(vlan);
    accelerates_by(&lab, port, "xdp-generic");
}

/// A tag beside the frame is none to XDP: the frame is the kernel's, not the trunk's.
#[test]
#[ignore = "needs 8021q: cargo xtask vm"]
fn hidden_tags_are_the_kernels() {
    let (lab, port) = lab(vlan);
    ethtool::set_gro(&lab.at("left"), "eth0", true).expect("GRO on");
    attach(&lab, port, "xdp");
    for (host, port) in [(LEFT, port), (RIGHT, "port1")] {
        let _ = lab.netmesh("router", &["route", "add", host, "via", host, "dev", port]);
    }
    let before = snmp::forwarded(&lab.at("router")).expect("the router");
    meets(&lab);
    let after = snmp::forwarded(&lab.at("router")).expect("the router");
    assert!(after.ipv6 > before.ipv6, "the way in is the kernel's");
    let status = lab.json("router", &["dataplane", "status"]);
    let row = |name: &str| {
        let rows = status["instance"]["counters"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["port"] == name);
        row.expect("a port")["forwarded"]["packets"].clone()
    };
    assert_eq!(row(port), 0, "{status}");
    assert_ne!(row("port1"), 0, "the way out is ours: {status}");
    let ports = status["instance"]["ports"].as_array().expect("ports");
    let noted = ports.iter().any(|row| {
        let warning = row["warning"].as_str();
        row["name"] == port && warning.is_some_and(|words| words.contains("txvlan"))
    });
    assert!(noted, "{status}");
}

/// TC on the trunk sees tags beside the frames of a sub-interface that is no port: the kernel's.
#[test]
#[ignore = "needs 8021q: cargo xtask vm"]
fn tagged_frames_pass_a_trunk_port_by() {
    let (lab, _) = lab(vlan);
    attach(&lab, "port0", "tc");
    let _ = lab.netmesh(
        "router",
        &["route", "add", RIGHT, "via", RIGHT, "dev", "port1"],
    );
    meets(&lab);
}

#[test]
fn a_bridge_is_a_port() {
    let (lab, port) = lab(|lab| {
        lab.wire(("left", "eth0"), ("router", "port0"));
        lab.ip("router", "link add br0 type bridge");
        lab.ip("router", "link set br0 up");
        lab.ip("router", "link set port0 master br0");
        ("br0", "eth0")
    });
    accelerates(&lab, port);
}

#[test]
#[ignore = "needs vrf: cargo xtask vm"]
fn ports_in_a_vrf_are_accelerated() {
    let (lab, port) = lab(|lab| {
        lab.wire(("left", "eth0"), ("router", "port0"));
        lab.ip("router", "link add blue type vrf table 10");
        lab.ip("router", "link set blue up");
        lab.ip("router", "link set port0 master blue");
        lab.ip("router", "link set port1 master blue");
        ("port0", "eth0")
    });
    accelerates(&lab, port);
}

/// The other end of a netkit pair has no link-layer address of its own: the kernel's way is the
/// only one, and it stays open.
#[test]
#[ignore = "needs netkit, which Linux 6.7 brought: cargo xtask vm --kernel 6.12"]
fn a_netkit_port_is_routed() {
    let (lab, port) = lab(|lab| {
        lab.ip("router", "link add kit type netkit");
        // The kernel names the other end.
        let left = lab.name("left");
        lab.ip("router", &format!("link set nk0 netns {left} name eth0"));
        lab.ip("router", "link set kit up");
        lab.ip("left", "link set eth0 up");
        ("kit", "eth0")
    });
    let ports = [
        "dataplane",
        "attach",
        "--hook",
        "tc",
        "--port",
        port,
        "--port",
        "port1",
    ];
    let _ = lab.netmesh("router", &ports);
    let _ = lab.netmesh(
        "router",
        &["route", "add", RIGHT, "via", RIGHT, "dev", "port1"],
    );
    meets(&lab);
}
