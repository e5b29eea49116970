//! Several next hops for one prefix, on the wire: who gets which flow, and what moves when.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netmesh::kernel::{ethtool, netns, snmp};
use netmesh_tests::{Lab, slowness};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recv,
    sendto, setsockopt, socket, sockopt,
};

const MEMBERS: [&str; 3] = ["one", "two", "three"];
const PREFIX: &str = "2a02:1810:9::/64";
const PREFIX4: &str = "100.80.9.0/24";
const TCP: u8 = 6;
const UDP: u8 = 17;

/// `left` - `router` - `one`, `two`, `three`, which all take packets for the prefixes.
fn lab(hook: &str) -> Lab {
    let mut lab = Lab::new();
    for machine in ["left", "router", "one", "two", "three"] {
        lab.machine(machine);
    }
    lab.wire(("left", "eth0"), ("router", "port0"));
    lab.ip("router", "addr add 2a02:1810:1::1/64 dev port0 nodad");
    lab.ip("left", "addr add 2a02:1810:1::2/64 dev eth0 nodad");
    lab.ip("left", "route add default via 2a02:1810:1::1");
    lab.ip("router", "addr add 100.80.1.1/24 dev port0");
    lab.ip("left", "addr add 100.80.1.2/24 dev eth0");
    lab.ip("left", "route add default via 100.80.1.1");
    ethtool::set_tx_checksum(&lab.at("left"), "eth0", false).unwrap();
    for (n, machine) in (1..).zip(MEMBERS) {
        let port = format!("port{n}");
        lab.wire((machine, "eth0"), ("router", &port));
        lab.ip(
            "router",
            &format!("addr add fe80::{n}:1/64 dev {port} nodad"),
        );
        lab.ip(machine, &format!("addr add fe80::{n}:2/64 dev eth0 nodad"));
        lab.ip("router", &format!("addr add 100.81.{n}.1/24 dev {port}"));
        lab.ip(machine, &format!("addr add 100.81.{n}.2/24 dev eth0"));
        ethtool::set_gro(&lab.at(machine), "eth0", true).unwrap();
    }
    let ports = ["port0", "port1", "port2", "port3"];
    let mut attach = vec!["dataplane", "attach", "--hook", hook];
    attach.extend(ports.iter().flat_map(|port| ["--port", port]));
    let _ = lab.netmesh("router", &attach);
    lab
}

/// `route add` or `replace` with these members and weights, both families.
fn route(lab: &Lab, verb: &str, members: &[(usize, u32)]) {
    for (prefix, gateway) in [
        (PREFIX, (|n| format!("fe80::{n}:2")) as fn(usize) -> String),
        (PREFIX4, |n| format!("100.81.{n}.2")),
    ] {
        let mut words = format!("route {verb} {prefix}");
        for (member, weight) in members {
            let n = member + 1;
            let via = gateway(n);
            words += &format!(" nexthop via {via} dev port{n} weight {weight}");
        }
        let words: Vec<&str> = words.split(' ').collect();
        let _ = lab.netmesh("router", &words);
    }
    lab.unresolved("router", 0);
}

/// A packet from the left; its last four bytes are its number.
#[derive(Clone)]
struct Packet {
    number: u32,
    bytes: Vec<u8>,
}

/// Numbers packets across a test binary.
fn number() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A flow to the prefix.
#[derive(Clone, Copy, Debug)]
struct Flow {
    v6: bool,
    protocol: u8,
    host: u16,
    port: u16,
    label: u16,
}

impl Flow {
    /// Many: protocols, hosts and ports in turn.
    fn many(v6: bool, count: u16) -> Vec<Self> {
        let flow = |n: u16| Self {
            v6,
            protocol: if n.is_multiple_of(2) { TCP } else { UDP },
            host: n % 7 + 1,
            port: 20_000 + n,
            label: 0,
        };
        (0..count).map(flow).collect()
    }

    fn there(self) -> (Ipv6Addr, Ipv4Addr) {
        (
            Ipv6Addr::new(0x2a02, 0x1810, 9, 0, 0, 0, 0, self.host),
            Ipv4Addr::new(100, 80, 9, self.host as u8),
        )
    }

    /// The fixed IP header in front of so many bytes.
    fn header(self, protocol: u8, payload: usize, swapped: bool) -> Vec<u8> {
        let (here, here4): (Ipv6Addr, Ipv4Addr) =
            ("2a02:1810:1::2".parse().unwrap(), [100, 80, 1, 2].into());
        let (there, there4) = self.there();
        if self.v6 {
            let ends = if swapped {
                [there, here]
            } else {
                [here, there]
            };
            let mut bytes = vec![0x60, 0];
            bytes.extend(self.label.to_be_bytes());
            bytes.extend((payload as u16).to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend(ends.iter().flat_map(Ipv6Addr::octets));
            bytes
        } else {
            let ends = if swapped {
                [there4, here4]
            } else {
                [here4, there4]
            };
            let mut bytes = vec![0x45, 0];
            bytes.extend((payload as u16 + 20).to_be_bytes());
            bytes.extend([0x77, 0x77, 0, 0, 64, protocol, 0, 0]);
            bytes.extend(ends.iter().flat_map(Ipv4Addr::octets));
            bytes
        }
    }

    fn ports(self, swapped: bool) -> Vec<u8> {
        let ports = if swapped {
            [443, self.port]
        } else {
            [self.port, 443]
        };
        ports.iter().flat_map(|port| port.to_be_bytes()).collect()
    }

    /// One packet of it with so many bytes behind the header, 24 at least.
    fn packet(self, payload: usize) -> Packet {
        let mut bytes = self.header(self.protocol, payload, false);
        bytes.extend(self.ports(false));
        numbered(bytes, payload - 4)
    }

    /// One datagram in three pieces.
    fn fragments(self) -> Vec<Packet> {
        let pieces = [(0, 64_usize, true), (64, 64, true), (128, 40, false)];
        let fragment = |(offset, length, more): (u16, usize, bool)| {
            let mut bytes = if self.v6 {
                let mut bytes = self.header(44, length + 8, false);
                bytes.extend([self.protocol, 0]);
                bytes.extend((offset | u16::from(more)).to_be_bytes());
                bytes.extend(number().to_be_bytes());
                bytes
            } else {
                let mut bytes = self.header(self.protocol, length, false);
                let field = (offset / 8) | (u16::from(more) << 13);
                bytes[6..8].copy_from_slice(&field.to_be_bytes());
                bytes
            };
            let mut length = length;
            if offset == 0 {
                bytes.extend(self.ports(false));
                length -= 4;
            }
            numbered(bytes, length)
        };
        pieces.map(fragment).to_vec()
    }

    /// "Too big" about a packet that comes back from the prefix.
    fn error(self) -> Packet {
        let quote_length = 96;
        let (protocol, kind) = if self.v6 { (58, 2) } else { (1, 3) };
        let mut bytes = self.header(protocol, 8 + quote_length, false);
        bytes.extend([kind, if self.v6 { 0 } else { 4 }, 0, 0, 0, 0, 5, 0]);
        let quote = self.header(self.protocol, 1000, true);
        let rest = quote_length - quote.len() - 4;
        bytes.extend(quote);
        bytes.extend(self.ports(true));
        numbered(bytes, rest)
    }
}

/// With so many bytes more, the last of which are its number.
fn numbered(mut bytes: Vec<u8>, more: usize) -> Packet {
    let number = number();
    bytes.resize(bytes.len() + more - 4, 0);
    bytes.extend(number.to_be_bytes());
    Packet { number, bytes }
}

/// Sockets that see what the members get.
struct Members(Vec<OwnedFd>);

impl Members {
    fn watch(lab: &Lab) -> Self {
        let open = |machine: &&str| {
            netns::run_in(&lab.at(machine), || {
                let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
                let all = SockProtocol::EthAll;
                let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, all).unwrap();
                setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).unwrap();
                socket
            })
            .unwrap()
        };
        Self(MEMBERS.iter().map(open).collect())
    }

    /// The numbers of packets for the prefixes that have come to each member by now.
    fn drain(&self) -> Vec<(u32, usize)> {
        let mut seen = Vec::new();
        let mut buffer = [0; 2048];
        for (member, socket) in self.0.iter().enumerate() {
            while let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                let packet = &buffer[..length];
                let ours = match packet.first().map(|first| first >> 4) {
                    Some(6) => packet[24..30] == [0x2a, 0x02, 0x18, 0x10, 0, 9],
                    Some(4) => packet[16..19] == [100, 80, 9],
                    _ => false,
                };
                if ours {
                    let number = packet[length - 4..].try_into().unwrap();
                    seen.push((u32::from_be_bytes(number), member));
                }
            }
        }
        seen
    }
}

/// Raw sockets on the left.
struct Sender(OwnedFd, OwnedFd);

impl Sender {
    fn new(lab: &Lab) -> Self {
        netns::run_in(&lab.at("left"), || {
            let open = |family| {
                let flags = SockFlag::SOCK_CLOEXEC;
                socket(family, SockType::Raw, flags, SockProtocol::Raw).unwrap()
            };
            Self(open(AddressFamily::Inet6), open(AddressFamily::Inet))
        })
        .unwrap()
    }

    fn send(&self, packet: &[u8]) {
        let flags = MsgFlags::empty();
        let sent = if packet[0] >> 4 == 6 {
            let to: [u8; 16] = packet[24..40].try_into().unwrap();
            let to = std::net::SocketAddrV6::new(to.into(), 0, 0, 0);
            sendto(self.0.as_raw_fd(), packet, &SockaddrIn6::from(to), flags)
        } else {
            let to: [u8; 4] = packet[16..20].try_into().unwrap();
            let to = std::net::SocketAddrV4::new(to.into(), 0);
            sendto(self.1.as_raw_fd(), packet, &SockaddrIn::from(to), flags)
        };
        assert_eq!(sent, Ok(packet.len()));
    }
}

/// Sends packets and tells which member got each; all of them arrive, once.
fn deliver(sender: &Sender, members: &Members, packets: &[Packet]) -> Vec<usize> {
    let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
    for batch in packets.chunks(32) {
        for packet in batch {
            sender.send(&packet.bytes);
        }
        let deadline = Instant::now() + Duration::from_secs(5) * slowness();
        loop {
            for (number, member) in members.drain() {
                assert_eq!(seen.insert(number, member), None, "it arrived twice");
            }
            if batch.iter().all(|packet| seen.contains_key(&packet.number)) {
                break;
            }
            assert!(Instant::now() < deadline, "packets are missing");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    packets.iter().map(|packet| seen[&packet.number]).collect()
}

fn ways(sender: &Sender, members: &Members, flows: &[Flow]) -> Vec<usize> {
    let packets: Vec<Packet> = flows.iter().map(|flow| flow.packet(60)).collect();
    deliver(sender, members, &packets)
}

fn share(ways: &[usize], member: usize) -> usize {
    ways.iter().filter(|way| **way == member).count()
}

/// Within four standard deviations of a share of `parts` in `total`.
fn assert_share(ways: &[usize], member: usize, parts: f64, total: f64) {
    let (n, p) = (ways.len() as f64, parts / total);
    // And the rounding to whole buckets of 256.
    let room = 4.0 * (n * p * (1.0 - p)).sqrt() + n / 256.0;
    let found = share(ways, member) as f64;
    assert!(
        (found - n * p).abs() < room,
        "{found} of {n} by {member}, not {}",
        n * p
    );
}

fn spreads(hook: &str) {
    let lab = lab(hook);
    route(&lab, "add", &[(0, 3), (1, 1)]);
    let (sender, members) = (Sender::new(&lab), Members::watch(&lab));
    let before = snmp::forwarded(&lab.at("router")).unwrap();
    for v6 in [true, false] {
        let flows = Flow::many(v6, 400);
        let ways = self::ways(&sender, &members, &flows);
        assert_share(&ways, 0, 3.0, 4.0);
        assert_share(&ways, 1, 1.0, 4.0);
        assert_eq!(share(&ways, 2), 0);

        // Larger packets of the same flows, in another order.
        let again: Vec<Packet> = flows.iter().rev().map(|flow| flow.packet(700)).collect();
        let mut again = deliver(&sender, &members, &again);
        again.reverse();
        assert_eq!(again, ways, "every flow sticks to its member");

        // RFC 7690: errors about what comes back along them.
        let errors: Vec<Packet> = flows.iter().take(100).map(|flow| flow.error()).collect();
        assert_eq!(
            deliver(&sender, &members, &errors),
            ways[..100],
            "an error goes with its flow"
        );

        // Trains of fragments: by the addresses and the flow label, each as a whole.
        let trains = flows.iter().take(60).map(|flow| Flow {
            label: flow.port,
            ..*flow
        });
        let trains: Vec<Vec<Packet>> = trains.map(Flow::fragments).collect();
        let ways = deliver(&sender, &members, &trains.concat());
        for train in ways.chunks(3) {
            assert!(train.iter().all(|way| *way == train[0]), "{train:?}");
        }
        let used: BTreeSet<usize> = ways.into_iter().collect();
        assert_eq!(used, BTreeSet::from([0, 1]), "both members carry trains");
    }
    let after = snmp::forwarded(&lab.at("router")).unwrap();
    assert_eq!(after, before, "the kernel forwarded some");
}

#[test]
fn native_xdp_spreads_flows() {
    spreads("xdp");
}

#[test]
fn generic_xdp_spreads_flows() {
    spreads("xdp-generic");
}

#[test]
fn tc_spreads_flows() {
    spreads("tc");
}

/// `explain` names the one of several next hops that a packet is sent to.
#[test]
fn explain_names_the_next_hop_of_a_flow() {
    for hook in ["xdp", "tc"] {
        let lab = lab(hook);
        route(&lab, "add", &[(0, 1), (1, 1), (2, 1)]);
        let mut met = BTreeSet::new();
        for last in 1..=12 {
            let to = format!("2a02:1810:9::{last:x}");
            let answer = lab.json("router", &["explain", "2a02:1810:1::2", &to]);
            assert_eq!(answer["decision"], "forward", "{hook}: {answer}");
            let egress = &answer["egress"];
            let device = egress["device"].as_str().expect("an egress").to_owned();
            let n = device.strip_prefix("port").expect("a member's port");
            assert_eq!(egress["gateway"], format!("fe80::{n}:2"), "{hook}");
            assert!(egress["link_address"].is_string(), "{hook}: {egress}");
            met.insert(device);
        }
        assert!(met.len() > 1, "{hook}: all to {met:?}");
    }
}

#[test]
fn only_the_flows_of_a_member_that_goes_move() {
    let lab = lab("xdp");
    let all = [(0, 1), (1, 1), (2, 1)];
    route(&lab, "add", &all);
    let (sender, members) = (Sender::new(&lab), Members::watch(&lab));
    let flows = [Flow::many(true, 300), Flow::many(false, 300)].concat();
    let before = ways(&sender, &members, &flows);
    for member in 0..3 {
        assert_share(&before, member, 1.0, 3.0);
    }

    // The route loses a member while packets of all flows are on their way.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let sender = Sender::new(&lab);
            let packets: Vec<Packet> = flows.iter().map(|flow| flow.packet(60)).collect();
            while !stop.load(Ordering::Relaxed) {
                packets.iter().for_each(|packet| sender.send(&packet.bytes));
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        std::thread::sleep(Duration::from_millis(100));
        route(&lab, "replace", &all[..2]);
        // What is in the queues of the wire arrives in a moment.
        std::thread::sleep(Duration::from_millis(100));
        let _ = members.drain();
        std::thread::sleep(Duration::from_millis(500));
        let late = members.drain();
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap();
        assert!(late.len() > flows.len(), "the load goes on: {}", late.len());
        assert!(
            late.iter().all(|(_, member)| *member != 2),
            "a frame left by a member that was removed"
        );
    });
    std::thread::sleep(Duration::from_millis(100));
    let _ = members.drain();

    let without = ways(&sender, &members, &flows);
    assert_share(&without, 0, 1.0, 2.0);
    assert_share(&without, 1, 1.0, 2.0);
    for (old, new) in before.iter().zip(&without) {
        assert!(old == new || *old == 2, "a flow of {old} moved to {new}");
    }

    // It comes back and takes its share; nothing else moves.
    route(&lab, "replace", &all);
    let back = ways(&sender, &members, &flows);
    assert_share(&back, 2, 1.0, 3.0);
    for (old, new) in without.iter().zip(&back) {
        assert!(old == new || *new == 2, "a flow of {old} moved to {new}");
    }
}

#[test]
fn a_link_that_goes_down_hands_its_flows_over_at_once() {
    let lab = lab("xdp");
    route(&lab, "add", &[(0, 1), (1, 2), (2, 1)]);
    let (sender, members) = (Sender::new(&lab), Members::watch(&lab));
    let flows = [Flow::many(true, 200), Flow::many(false, 200)].concat();
    let before = ways(&sender, &members, &flows);
    let forwarded = snmp::forwarded(&lab.at("router")).unwrap();

    // Nobody tells netmesh.
    lab.ip("router", "link set port2 down");
    lab.unresolved("router", 2);
    let without = ways(&sender, &members, &flows);
    assert_eq!(share(&without, 1), 0);
    for (old, new) in before.iter().zip(&without) {
        assert!(old == new || *old == 1, "a flow of {old} moved to {new}");
    }
    let both = [0, 2].map(|member| share(&without, member) > share(&before, member) + 20);
    assert_eq!(both, [true; 2], "both of the others help");
    let after = snmp::forwarded(&lab.at("router")).unwrap();
    assert_eq!(after, forwarded, "the fast path did it");

    lab.ip("router", "link set port2 up");
    lab.ip("router", "addr replace fe80::2:1/64 dev port2 nodad");
    route(&lab, "replace", &[(0, 1), (1, 2), (2, 1)]);
    assert_eq!(ways(&sender, &members, &flows), before, "all as it was");
}

#[test]
fn a_route_with_several_next_hops_is_remembered() {
    let lab = lab("tc");
    route(&lab, "add", &[(1, 1), (0, 2)]);
    let words = "nexthop via fe80::1:2 dev port1 weight 2 nexthop via fe80::2:2 dev port2 weight 1";
    let list = lab.json("router", &["route", "list"]);
    let row = |list: &serde_json::Value| {
        let rows = list["routes"].as_array().unwrap();
        rows.iter().find(|row| row["prefix"] == PREFIX).cloned()
    };
    let found = row(&list).unwrap();
    assert_eq!(found["resolved"], true);
    let paths = serde_json::json!([
        { "gateway": "fe80::1:2", "link": "port1", "weight": 2 },
        { "gateway": "fe80::2:2", "link": "port2", "weight": 1 },
    ]);
    assert_eq!(found["route"]["paths"], paths);
    let text = lab.netmesh("router", &["route", "list"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(words), "{text}");
    let get = lab.json("router", &["route", "get", "2a02:1810:9::5"]);
    assert_eq!(get["routes"][0]["route"]["paths"], paths);

    // The same again, however it is written, is no change; another weight is one.
    let run = |words: &str| {
        let words: Vec<&str> = words.split(' ').collect();
        lab.try_netmesh("router", &words)
    };
    let again = run(&format!("route add {PREFIX} {words}"));
    assert!(String::from_utf8_lossy(&again.stdout).contains("unchanged"));
    let other = run(&format!(
        "route add {PREFIX} nexthop via fe80::1:2 dev port1 nexthop via fe80::2:2 dev port2"
    ));
    assert_eq!(other.status.code(), Some(3));
    let bad = run(&format!(
        "route add {PREFIX} nexthop via fe80::1:2 dev port1 nexthop via fe80::2:2 dev nowhere"
    ));
    assert!(!bad.status.success());
    assert_eq!(row(&lab.json("router", &["route", "list"])).unwrap(), found);

    // To one next hop, and away.
    let one = run(&format!("route replace {PREFIX} via fe80::1:2 dev port1"));
    assert!(one.status.success());
    let found = row(&lab.json("router", &["route", "list"])).unwrap();
    assert_eq!(found["route"]["via"]["link"], "port1");
    let _ = lab.netmesh("router", &["route", "del", PREFIX]);
    assert_eq!(row(&lab.json("router", &["route", "list"])), None);
}
