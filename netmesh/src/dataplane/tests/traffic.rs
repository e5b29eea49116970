//! Packets through the programs. The kernel of the router does not forward: what arrives came
//! through the data plane.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use netmesh_common::table::Origin;

use super::lab::{Machine, alone, eventually, facts, here, ip, towards};
use crate::dataplane::counters::PortCountersRow;
use crate::dataplane::object::Object;
use crate::dataplane::{Instance, View};
use crate::plan::state::{FibRoute, Hook, Port, Sources};

pub(super) const COUNT: u64 = 10;

/// Two machines, the calling thread's namespace between them. Each has a subnet of its own behind
/// its link.
pub(super) struct Lab {
    pub(super) left: Machine,
    pub(super) right: Machine,
}

impl Lab {
    pub(super) fn new() -> Self {
        let lab = Self {
            left: Machine::new(),
            right: Machine::new(),
        };
        for (n, machine) in [(0, &lab.left), (1, &lab.right)] {
            let pid = machine.pid();
            ip(&format!(
                "link add name port{n} type veth peer name up0 netns {pid}"
            ));
            ip(&format!("link set port{n} up"));
            ip(&format!(
                "address add 2001:db8:f{n}::1/64 dev port{n} nodad"
            ));
            ip(&format!("address add 10.15.{n}.1/24 dev port{n}"));
            machine.ip("link set up0 up");
            machine.ip(&format!("address add 2001:db8:f{n}::2/64 dev up0 nodad"));
            machine.ip(&format!("address add 10.15.{n}.2/24 dev up0"));
            machine.ip(&format!("address add 2001:db8:{n}::1/64 dev lo nodad"));
            machine.ip(&format!("address add 10.16.{n}.1/24 dev lo"));
            machine.ip(&format!("route add default via 2001:db8:f{n}::1"));
            machine.ip(&format!("route add default via 10.15.{n}.1"));
            // No machine waits for neighbour discovery, which waits for address detection.
            let text = |[a, b, c, d, e, f]: [u8; 6]| {
                format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
            };
            let theirs = text(machine.run(|| facts().devices["up0"].mac.unwrap()));
            let ours = text(facts().devices[&format!("port{n}")].mac.unwrap());
            for net in [format!("2001:db8:f{n}::"), format!("10.15.{n}.")] {
                ip(&format!(
                    "neigh replace {net}2 dev port{n} nud permanent lladdr {theirs}"
                ));
                machine.ip(&format!(
                    "neigh replace {net}1 dev up0 nud permanent lladdr {ours}"
                ));
            }
        }
        lab
    }

    /// Routes of both subnets, by the neighbours on the links.
    pub(super) fn route(instance: &mut Instance) {
        let facts = facts();
        instance.set_connected(&facts).unwrap();
        for n in [0, 1] {
            for (prefix, gateway) in [
                (format!("2001:db8:{n}::/64"), format!("2001:db8:f{n}::2")),
                (format!("10.16.{n}.0/24"), format!("10.15.{n}.2")),
            ] {
                let route = FibRoute::Via {
                    gateway: Some(gateway.parse().unwrap()),
                    link: format!("port{n}"),
                };
                let prefix = prefix.parse().unwrap();
                instance
                    .put_route(prefix, Origin::Object, &route, &facts)
                    .unwrap();
            }
        }
    }
}

/// Sends datagrams without a checksum: XDP keeps no note that one is still to be filled in.
pub(super) fn send(from: &str, to: &str) {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    let on: libc::c_int = 1;
    // UDP_NO_CHECK6_TX, SO_NO_CHECK
    let (level, option) = if to.contains(':') {
        (libc::SOL_UDP, 101)
    } else {
        (libc::SOL_SOCKET, libc::SO_NO_CHECK)
    };
    set(&socket, level, option, on);
    for n in 0..COUNT {
        socket.send_to(&n.to_be_bytes(), (to, 4789)).unwrap();
    }
}

pub(super) fn listen(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind((at, 4789)).unwrap();
    if at.contains(':') {
        set(&socket, libc::SOL_UDP, 102, 1); // UDP_NO_CHECK6_RX
    }
    // A receiver that gets no CPU for a while must not look like a router that loses packets.
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20);
    let timeout = Some(Duration::from_secs(3));
    socket.set_read_timeout(timeout).unwrap();
    socket
}

fn set(socket: &UdpSocket, level: i32, option: i32, value: libc::c_int) {
    // SAFETY: the option takes an int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "option {option}");
}

/// Every datagram arrives once and in order.
pub(super) fn receive(socket: &UdpSocket) -> SocketAddr {
    let mut last = None;
    for n in 0..COUNT {
        let mut bytes = [0; 8];
        let (length, from) = socket
            .recv_from(&mut bytes)
            .unwrap_or_else(|error| panic!("datagram {n}: {error}"));
        assert_eq!((length, u64::from_be_bytes(bytes)), (8, n));
        last = Some(from);
    }
    last.unwrap()
}

fn counters(view: &View, port: &str) -> PortCountersRow {
    let rows = view.port_counters(&facts()).unwrap();
    rows.into_iter().find(|row| row.port == port).unwrap()
}

pub(super) fn port(hook: Hook) -> Port {
    Port::new(hook, Sources::Behind)
}

fn both_ways(hook: Hook) {
    let lab = Lab::new();
    let mut instance = Instance::create("router", here()).unwrap();
    Lab::route(&mut instance);
    for n in [0, 1] {
        let name = format!("port{n}");
        instance.attach(&name, &port(hook), &facts()).unwrap();
    }
    for machine in [&lab.left, &lab.right] {
        machine.run(|| {
            instance
                .attach_pass(facts().devices["up0"].ifindex)
                .unwrap()
        });
    }
    for (from, to, sender, receiver) in [
        ("2001:db8:0::1", "2001:db8:1::1", &lab.left, &lab.right),
        ("2001:db8:1::1", "2001:db8:0::1", &lab.right, &lab.left),
        ("10.16.0.1", "10.16.1.1", &lab.left, &lab.right),
        ("10.16.1.1", "10.16.0.1", &lab.right, &lab.left),
    ] {
        let socket = receiver.run(|| listen(to));
        sender.run(|| send(from, to));
        assert_eq!(
            receive(&socket).ip(),
            from.parse::<std::net::IpAddr>().unwrap()
        );
    }
    drop(instance);

    let view = View::open(here()).unwrap().unwrap();
    for name in ["port0", "port1"] {
        let row = counters(&view, name);
        assert_eq!(row.forwarded.packets, 2 * COUNT, "{row:?}");
        // IPv6 40, IPv4 20, UDP 8, payload 8.
        assert_eq!(row.forwarded.bytes, COUNT * (40 + 20 + 2 * 16));
        assert_eq!(row.redirect_failed, 0);
        assert!(row.dropped.is_empty(), "{row:?}");
    }
    for row in view.prefix_counters().unwrap() {
        let length = match row.prefix.to_string().as_str() {
            "2001:db8::/64" | "2001:db8:1::/64" => 56,
            "10.16.0.0/24" | "10.16.1.0/24" => 36,
            _ => continue,
        };
        for flow in [row.to, row.from] {
            assert_eq!((flow.packets, flow.bytes), (COUNT, COUNT * length));
        }
    }
}

/// A veth end without NAPI takes no frame of XDP, and no device one beyond its MTU.
#[test]
fn what_no_device_takes_is_counted_as_lost() {
    alone(|| {
        let lab = Lab::new();
        let mut instance = Instance::create("router", here()).unwrap();
        Lab::route(&mut instance);
        for n in [0, 1] {
            let name = format!("port{n}");
            instance.attach(&name, &port(Hook::Xdp), &facts()).unwrap();
        }
        lab.left.run(|| send("2001:db8:0::1", "2001:db8:1::1"));
        let row = |name| counters(&instance, name);
        eventually("lost ones", || row("port0").redirect_failed == COUNT);
        let before = row("port0");
        assert_eq!(before.forwarded.packets, 0, "{before:?}");
        let others: u64 = before.punted.iter().map(|reason| reason.packets).sum();
        assert_eq!(before.received, COUNT + others, "{before:?}");

        // Refused before there is a queue: larger than the device takes, which the table does not
        // know yet, and too small to ask the device about.
        ip("link set port1 mtu 500");
        lab.left.run(|| {
            let socket = UdpSocket::bind(("10.16.0.1", 0)).unwrap();
            set(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1);
            socket.send_to(&[0; 512], ("10.16.1.1", 4789)).unwrap();
        });
        eventually("one more", || row("port0").redirect_failed == COUNT + 1);
        assert_eq!(row("port1").redirect_failed, 0, "it was not its packets");
    });
}

#[test]
fn two_links_are_routed_by_native_xdp() {
    alone(|| both_ways(Hook::Xdp));
}

#[test]
fn two_links_are_routed_by_tc() {
    alone(|| both_ways(Hook::Tc));
}

#[test]
fn sources_that_do_not_live_behind_a_port_are_dropped() {
    alone(|| {
        let lab = Lab::new();
        let mut instance = Instance::create("router", here()).unwrap();
        Lab::route(&mut instance);
        for name in ["port0", "port1"] {
            instance.attach(name, &port(Hook::Xdp), &facts()).unwrap();
        }
        lab.left.ip("address add 2001:db8:1::66/128 dev lo nodad");
        lab.left.run(|| send("2001:db8:1::66", "2001:db8:1::1"));
        let spoofed = |view: &View| {
            let dropped = counters(view, "port0").dropped.into_iter();
            dropped
                .map(|row| (row.reason, row.packets))
                .collect::<Vec<_>>()
        };
        eventually("the drops", || {
            spoofed(&instance) == [("source_invalid", COUNT)]
        });
        assert_eq!(counters(&instance, "port0").forwarded.packets, 0);
        // A port that comes back starts at zero.
        instance.detach("port0", &facts()).unwrap();
        instance
            .attach("port0", &port(Hook::Xdp), &facts())
            .unwrap();
        assert!(spoofed(&instance).is_empty());
    });
}

#[test]
fn a_killed_instance_goes_on_and_a_deleted_one_stops() {
    alone(|| {
        let lab = Lab::new();
        let mut instance = Instance::create("router", here()).unwrap();
        Lab::route(&mut instance);
        for name in ["port0", "port1"] {
            instance.attach(name, &port(Hook::Tc), &facts()).unwrap();
        }
        let (from, to) = ("2001:db8:0::1", "2001:db8:1::1");
        let socket = lab.right.run(|| listen(to));
        std::mem::forget(instance); // Nothing of ours runs.
        lab.left.run(|| send(from, to));
        receive(&socket);
        assert_eq!(
            towards(&View::open(here()).unwrap().unwrap())["2001:db8:1::/64"],
            COUNT
        );
    });
}

#[test]
fn packets_without_a_link_layer_header_are_routed_both_ways() {
    alone(|| {
        let lab = Lab::new();
        let mut tunnel = tun("tunnel");
        let mut instance = Instance::create("exit", here()).unwrap();
        Lab::route(&mut instance);
        let route = FibRoute::Via {
            gateway: None,
            link: "tunnel".into(),
        };
        for prefix in ["2001:db8:77::/64", "10.77.0.0/24"] {
            let prefix = prefix.parse().unwrap();
            instance
                .put_route(prefix, Origin::Object, &route, &facts())
                .unwrap();
        }
        for name in ["port0", "tunnel"] {
            instance.attach(name, &port(Hook::Tc), &facts()).unwrap();
        }

        // Ethernet to tunnel: the header is gone, the hop limit one less.
        for (from, to, length, hop_limit_at) in [
            ("2001:db8:0::1", "2001:db8:77::1", 56, 7),
            ("10.16.0.1", "10.77.0.1", 36, 8),
        ] {
            lab.left.run(|| send(from, to));
            for n in 0..COUNT {
                let packet = read(&mut tunnel, length);
                assert_eq!(packet[hop_limit_at], 63);
                assert_eq!(packet[length - 8..], n.to_be_bytes());
                if length == 36 {
                    assert_eq!(sum(&packet[..20]), 0xffff, "header checksum");
                }
            }
        }

        // Tunnel to Ethernet: the header is made.
        let socket = lab.left.run(|| listen("2001:db8:0::1"));
        for n in 0..COUNT {
            tunnel.write_all(&datagram(n)).unwrap();
        }
        let from = receive(&socket);
        assert_eq!(from.to_string(), "[2001:db8:77::1]:9");
        assert_eq!(counters(&instance, "tunnel").forwarded.packets, COUNT);
        assert_eq!(counters(&instance, "port0").forwarded.packets, 2 * COUNT);
        assert_eq!(towards(&instance)["2001:db8:77::/64"], COUNT);
    });
}

#[test]
fn an_upgrade_loses_no_packet() {
    alone(|| {
        let lab = Lab::new();
        let mut instance = Instance::create("router", here()).unwrap();
        Lab::route(&mut instance);
        for name in ["port0", "port1"] {
            instance.attach(name, &port(Hook::Xdp), &facts()).unwrap();
        }
        lab.right.run(|| {
            instance
                .attach_pass(facts().devices["up0"].ifindex)
                .unwrap()
        });
        let (from, to) = ("2001:db8:0::1", "2001:db8:1::1");
        let socket = lab.right.run(|| listen(to));
        let (stop, all) = (AtomicBool::new(false), AtomicU64::new(u64::MAX));
        let sent = std::thread::scope(|scope| {
            // Read while they come: no buffer holds what a slow machine is sent meanwhile.
            let receiver = scope.spawn(|| {
                let mut rounds = 0;
                while rounds < all.load(Ordering::Relaxed) {
                    receive(&socket);
                    rounds += 1;
                }
            });
            let sender = scope.spawn(|| {
                lab.left.run(|| {
                    let mut rounds = 0;
                    while !stop.load(Ordering::Relaxed) {
                        send(from, to);
                        std::thread::sleep(Duration::from_millis(1));
                        rounds += 1;
                    }
                    // One more, so that the receiver sees that it was the last.
                    all.store(rounds + 1, Ordering::Relaxed);
                    send(from, to);
                    rounds + 1
                })
            });
            for _ in 0..3 {
                instance.upgrade(here(), &Object::default()).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            receiver.join().unwrap();
            sender.join().unwrap()
        });
        assert!(sent > 10, "{sent}");
        let forwarded = counters(&instance, "port0").forwarded.packets;
        assert_eq!(forwarded, sent * COUNT);
    });
}

/// The next packet of this length; the kernel's own chatter is passed over.
fn read(tunnel: &mut File, length: usize) -> Vec<u8> {
    let mut found = None;
    eventually("a packet in the tunnel", || {
        let mut packet = vec![0; 2048];
        match tunnel.read(&mut packet) {
            Ok(read) if read == length => {
                packet.truncate(read);
                found = Some(packet);
                true
            }
            _ => false,
        }
    });
    found.unwrap()
}

/// The Internet checksum's sum (RFC 1071).
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// IPv6 and UDP headers, the number as payload.
fn datagram(number: u64) -> Vec<u8> {
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut packet = vec![0x60, 0, 0, 0, 0, 16, 17, 64];
    packet.extend(address("2001:db8:77::1"));
    packet.extend(address("2001:db8:0::1"));
    packet.extend([0, 9, 0x12, 0xb5, 0, 16, 0, 0]); // Port 9 to 4789, no checksum.
    packet.extend(number.to_be_bytes());
    packet
}

/// A tun device: packets without a link-layer header, in and out through a file.
fn tun(name: &str) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the request.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0);
    ip(&format!("link set {name} up mtu 1420"));
    file
}
