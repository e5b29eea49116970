//! Two ports and a few routes: a router without any object.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use netmesh::demo::traffic::ping;
use netmesh::kernel::{netns, snmp};
use netmesh_tests::{Lab, OutputText as _, eventually};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const LEFT: &str = "2a02:1810:1::2";
const RIGHT: &str = "2a02:1810:2::2";

/// `left` - `router` - `right`, forwarding on in the kernel too.
fn lab(hook: Option<&str>) -> Lab {
    let mut lab = Lab::new();
    for machine in ["left", "router", "right"] {
        lab.machine(machine);
    }
    lab.wire(("left", "eth0"), ("router", "port0"));
    lab.wire(("right", "eth0"), ("router", "port1"));
    lab.ip("router", "addr add 2a02:1810:1::1/64 dev port0 nodad");
    lab.ip("router", "addr add 2a02:1810:2::1/64 dev port1 nodad");
    lab.ip("left", "addr add 2a02:1810:1::2/64 dev eth0 nodad");
    lab.ip("right", "addr add 2a02:1810:2::2/64 dev eth0 nodad");
    lab.ip("left", "route add default via 2a02:1810:1::1");
    lab.ip("right", "route add default via 2a02:1810:2::1");
    for machine in ["left", "right"] {
        let namespace = lab.at(machine);
        netmesh::kernel::ethtool::set_tx_checksum(&namespace, "eth0", false).unwrap();
        netmesh::kernel::ethtool::set_gro(&namespace, "eth0", true).unwrap();
    }
    netns::run_in(&lab.at("router"), || {
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    })
    .unwrap();
    let mut attach = vec!["dataplane", "attach", "--port", "port0", "--port", "port1"];
    if let Some(hook) = hook {
        attach.extend(["--hook", hook]);
    }
    let _ = lab.netmesh("router", &attach);
    for (prefix, gateway, port) in [
        ("2a02:1810:1::/64", LEFT, "port0"),
        ("2a02:1810:2::/64", RIGHT, "port1"),
    ] {
        // The hosts' subnets are connected: that route is the kernel's. A /128 is ours.
        assert!(prefix.ends_with("/64"));
        let route = ["route", "add", gateway, "via", gateway, "dev", port];
        let _ = lab.netmesh("router", &route);
    }
    lab.resolved("router");
    lab
}

fn forwards(hook: Option<&str>) {
    let lab = lab(hook);
    let before = snmp::forwarded(&lab.at("router")).unwrap();
    let left: IpAddr = LEFT.parse().unwrap();
    let right: IpAddr = RIGHT.parse().unwrap();
    for size in [48, 104, 1280, 1500] {
        let pings = ping(&lab.at("left"), left, right, size, 5).unwrap();
        assert_eq!(pings.received, 5, "{size} bytes");
    }
    assert_eq!(
        snmp::forwarded(&lab.at("router")).unwrap(),
        before,
        "the kernel forwarded some"
    );
    let document = lab.json("router", &["counters"]);
    let bytes = 5 * (48 + 104 + 1280 + 1500);
    for prefix in ["2a02:1810:1::2/128", "2a02:1810:2::2/128"] {
        let rows = document["prefixes"].as_array().unwrap();
        let row = rows
            .iter()
            .find(|row| row["prefix"] == prefix)
            .expect("it is counted");
        for direction in ["to", "from"] {
            assert_eq!(row[direction]["packets"], 20, "{prefix} {direction}");
            assert_eq!(row[direction]["bytes"], bytes, "{prefix} {direction}");
        }
    }
    // Received is forwarded, left to the kernel, or dropped: nothing is unaccounted for.
    let ports = lab.json("router", &["counters", "--drops"])["ports"].clone();
    for port in ports.as_array().unwrap() {
        let sum = |field: &str| -> u64 {
            let rows = port[field].as_array().unwrap();
            rows.iter()
                .map(|row| row["packets"].as_u64().unwrap())
                .sum()
        };
        let out = port["forwarded"]["packets"].as_u64().unwrap()
            + port["redirect_failed"].as_u64().unwrap()
            + sum("punted")
            + sum("dropped");
        assert_eq!(port["received"].as_u64().unwrap(), out, "{port}");
    }
}

/// The IPv4 networks beside the hosts' IPv6 ones.
fn with_ipv4(lab: &Lab) {
    for (host, port, network) in [("left", "port0", 1), ("right", "port1", 2)] {
        lab.ip(
            "router",
            &format!("addr add 100.80.{network}.1/24 dev {port}"),
        );
        lab.ip(host, &format!("addr add 100.80.{network}.2/24 dev eth0"));
        lab.ip(host, &format!("route add default via 100.80.{network}.1"));
    }
    netns::run_in(&lab.at("router"), || {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    })
    .unwrap();
    for (port, network) in [("port0", 1), ("port1", 2)] {
        let host = format!("100.80.{network}.2");
        let _ = lab.netmesh(
            "router",
            &["route", "add", &host, "via", &host, "dev", port],
        );
    }
    lab.resolved("router");
}

/// RFC 1071, over what is meant to sum up to nothing.
fn sums_up(header: &[u8]) -> bool {
    let words = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

/// Sends an echo request from the left, and takes what comes to the right off the wire.
fn on_the_wire(lab: &Lab, from: &str, to: &str) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let capture = netns::run_in(&lab.at("right"), || {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        socket(
            AddressFamily::Packet,
            SockType::Datagram,
            flags,
            SockProtocol::EthAll,
        )
        .unwrap()
    })
    .unwrap();
    assert_eq!(ping(&lab.at("left"), from, to, 777, 1).unwrap().received, 1);
    let mut buffer = [0; 2048];
    // The echo has been answered: its request is in the socket's queue.
    while let Ok(length) = recv(capture.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        let request = match to {
            IpAddr::V6(_) => buffer[0] >> 4 == 6 && buffer[40] == 128,
            IpAddr::V4(_) => buffer[0] == 0x45 && buffer[20] == 8,
        };
        if length == 777 && request {
            return buffer[..length].to_vec();
        }
    }
    panic!("the request is not on the right's wire");
}

fn takes_one_hop(hook: Option<&str>) {
    let lab = lab(hook);
    with_ipv4(&lab);
    let before = snmp::forwarded(&lab.at("router")).unwrap();
    // RFC 8200 section 3: decremented by 1 by each node that forwards the packet.
    let packet = on_the_wire(&lab, LEFT, RIGHT);
    assert_eq!(packet[7], 63, "hop limit {hook:?}");
    // RFC 1812 section 5.3.1; the header checksum follows.
    let packet = on_the_wire(&lab, "100.80.1.2", "100.80.2.2");
    assert_eq!(packet[8], 63, "TTL {hook:?}");
    assert!(sums_up(&packet[..20]), "header checksum {hook:?}");
    let after = snmp::forwarded(&lab.at("router")).unwrap();
    assert_eq!(after, before, "the fast path did it");
}

#[test]
fn native_xdp_takes_one_hop() {
    takes_one_hop(None);
}

#[test]
fn generic_xdp_takes_one_hop() {
    takes_one_hop(Some("xdp-generic"));
}

#[test]
fn tc_takes_one_hop() {
    takes_one_hop(Some("tc"));
}

#[test]
fn native_xdp_forwards_and_counts() {
    forwards(None);
}

#[test]
fn generic_xdp_forwards_and_counts() {
    forwards(Some("xdp-generic"));
}

#[test]
fn tc_forwards_and_counts() {
    forwards(Some("tc"));
}

/// Sends one packet with a hop limit and waits for an ICMPv6 error about it.
fn icmp_error(lab: &Lab, hop_limit: u8, length: usize) -> Option<(u8, u8, Ipv6Addr)> {
    netns::run_in(&lab.at("left"), || {
        let listen = socket(
            AddressFamily::Inet6,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK,
            SockProtocol::IcmpV6,
        )
        .unwrap();
        let capture = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )
        .unwrap();
        let send = socket(
            AddressFamily::Inet6,
            SockType::Raw,
            SockFlag::empty(),
            SockProtocol::Raw,
        )
        .unwrap();
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(((length - 40) as u16).to_be_bytes());
        packet.extend([17, hop_limit]);
        packet.extend(LEFT.parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(RIGHT.parse::<Ipv6Addr>().unwrap().octets());
        packet.resize(length, 0);
        let to = std::net::SocketAddrV6::new(RIGHT.parse().unwrap(), 0, 0, 0);
        let to = nix::sys::socket::SockaddrIn6::from(to);
        sendto(send.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
        drop(listen);
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            match recv(capture.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // IPv6, ICMPv6, an error (type below 128), to us.
                Ok(n) if n > 48 && buffer[0] >> 4 == 6 && buffer[6] == 58 && buffer[40] < 128 => {
                    let source: [u8; 16] = buffer[8..24].try_into().unwrap();
                    return Some((buffer[40], buffer[41], source.into()));
                }
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        None
    })
    .unwrap()
}

#[test]
fn the_kernel_answers_what_the_fast_path_leaves_to_it() {
    let lab = lab(None);
    let router: Ipv6Addr = "2a02:1810:1::1".parse().unwrap();
    // RFC 4443 section 3.3: hop limit exceeded in transit.
    assert_eq!(icmp_error(&lab, 1, 60), Some((3, 0, router)));
    // RFC 4443 section 3.2: packet too big.
    lab.ip("router", "link set port1 mtu 1400");
    let _ = lab.netmesh(
        "router",
        &["route", "replace", RIGHT, "via", RIGHT, "dev", "port1"],
    );
    let _ = lab.netmesh("router", &["route", "del", &format!("{RIGHT}/128")]);
    let _ = lab.netmesh(
        "router",
        &["route", "add", RIGHT, "via", RIGHT, "dev", "port1"],
    );
    lab.resolved("router");
    assert_eq!(icmp_error(&lab, 64, 1500), Some((2, 0, router)));
    let drops = lab
        .netmesh("router", &["counters", "--drops"])
        .stdout_text();
    assert!(
        drops.contains("hop_limit") && drops.contains("too_big"),
        "{drops}"
    );
}

#[test]
fn a_neighbour_that_changes_its_address_is_followed() {
    let lab = lab(None);
    let left: IpAddr = LEFT.parse().unwrap();
    let right: IpAddr = RIGHT.parse().unwrap();
    assert_eq!(
        ping(&lab.at("left"), left, right, 104, 2).unwrap().received,
        2
    );
    lab.ip("right", "link set eth0 address 02:00:00:00:00:77");
    lab.ip("right", "neigh flush all");
    // The host tells its new address the moment it speaks.
    assert!(ping(&lab.at("right"), right, left, 104, 1).is_ok());
    eventually("the new address is used", Duration::from_secs(10), || {
        ping(&lab.at("left"), left, right, 104, 1).unwrap().received == 1
    });
    lab.resolved("router");
    let before = snmp::forwarded(&lab.at("router")).unwrap();
    assert_eq!(
        ping(&lab.at("left"), left, right, 104, 5).unwrap().received,
        5
    );
    assert_eq!(snmp::forwarded(&lab.at("router")).unwrap(), before);
}

/// What an operator entered for good is relied on, and not turned into one that is asked for.
#[test]
fn a_permanent_neighbour_stays_as_it_was() {
    let lab = lab(None);
    let neighbour = "2a02:1810:2::7 lladdr 02:00:00:00:00:07 dev port1";
    lab.ip("router", &format!("neigh add {neighbour}"));
    let route = ["route", "add", "2a02:1810:7::/64", "via", "2a02:1810:2::7"];
    let _ = lab.netmesh("router", &[&route[..], &["dev", "port1"]].concat());
    let shown = std::process::Command::new("ip")
        .args(["-n", &lab.name("router"), "neigh", "show", "2a02:1810:2::7"])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("02:00:00:00:00:07 PERMANENT"), "{shown}");
    assert!(!shown.contains("managed"), "{shown}");
    let status = lab.json("router", &["dataplane", "status"]);
    assert_eq!(status["instance"]["unresolved"], 0);
}

#[test]
fn detached_the_kernel_forwards_alone() {
    let lab = lab(None);
    let left: IpAddr = LEFT.parse().unwrap();
    let right: IpAddr = RIGHT.parse().unwrap();
    let _ = lab.netmesh("router", &["dataplane", "detach"]);
    let before = snmp::forwarded(&lab.at("router")).unwrap();
    assert_eq!(
        ping(&lab.at("left"), left, right, 104, 5).unwrap().received,
        5
    );
    let after = snmp::forwarded(&lab.at("router")).unwrap();
    assert_eq!(after.ipv6 - before.ipv6, 10, "five echoes and five answers");
}
