//! Real stacks across the data plane: TCP in bulk with every offload the hook stands, path MTU
//! discovery, traceroute, echo requests of every size. What is asserted is state (bytes, errors,
//! counters, learnt routes), never a speed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netmesh::demo::traffic::{ping, tcp};
use netmesh::kernel::ethtool;
use netmesh::plan::state::Namespace;
use netmesh_tests::pair::{HOOKS, LEFT, LEFT4, RIGHT, RIGHT4, ROUTER, ROUTER4, ends};
use netmesh_tests::stack::{Ports, Stack, learnt_mtu, probe};
use netmesh_tests::wire::{ETHERNET, Wire, checked};
use netmesh_tests::{ALLOCATION, INTERNET, Lab, RESOURCES, eventually};

/// Bytes of one transfer between two hosts, and of one through tunnels.
const BULK: usize = 24 << 20;
const TUNNELLED: usize = 6 << 20;

/// The uplink's addresses: the provider's, which connections from there have, and the router's.
const PROVIDER: Ipv6Addr = Ipv6Addr::new(0x2a02, 0x1800, 0x10, 0x1052, 0, 0, 0, 4);

/// Payloads of echo requests: one byte, the usual, the least MTU, the largest whole IPv4 one and
/// around it, jumbo, and in very many fragments.
const PAYLOADS: [usize; 8] = [1, 56, 1232, 1280, 1472, 1500, 9000, 65_000];

/// Two ends of a connection.
struct Ends<'a> {
    left: (&'a Namespace, IpAddr),
    right: (&'a Namespace, IpAddr),
}

/// What TCP on both ends says of transfers in both directions.
struct Effort {
    retransmitted: u64,
    timeouts: u64,
    sent: u64,
}

/// Sends in bulk both ways; everything must arrive and nothing may arrive broken.
fn transfer(ends: &[Ends<'_>], bytes: usize) -> Effort {
    let mut effort = Effort {
        retransmitted: 0,
        timeouts: 0,
        sent: 0,
    };
    for Ends { left, right } in ends {
        let before = [left.0, right.0].map(Stack::of);
        tcp(*left, *right, bytes).expect("from left to right");
        tcp(*right, *left, bytes).expect("from right to left");
        for (before, namespace) in before.iter().zip([left.0, right.0]) {
            let grown = Stack::of(namespace).since(before);
            grown.assert_whole(&namespace.to_string());
            effort.retransmitted += grown.get("TcpRetransSegs");
            effort.timeouts += grown.get("TcpExtTCPTimeouts");
            effort.sent += grown.get("TcpOutSegs");
        }
    }
    effort
}

impl Effort {
    /// No more loss than the kernel alone has on these machines, which lose packets too where a
    /// receiver gets no CPU: twice as much and one in fifty is noise, a storm is many times that.
    fn assert_like(&self, kernel: &Self) {
        let figures = |effort: &Self| (effort.retransmitted, effort.timeouts, effort.sent);
        println!(
            "(retransmitted, timeouts, sent): {:?}, the kernel alone {:?}",
            figures(self),
            figures(kernel)
        );
        let bound = 2 * kernel.retransmitted + self.sent / 50;
        assert!(
            self.retransmitted <= bound,
            "{} segments sent again of {}, the kernel alone: {}",
            self.retransmitted,
            self.sent,
            kernel.retransmitted
        );
        assert!(
            self.timeouts <= 2 * kernel.timeouts + 8,
            "{} timeouts, the kernel alone: {}",
            self.timeouts,
            kernel.timeouts
        );
    }
}

/// The two hosts of a pair lab, in both families.
fn both_families<'a>(left: &'a Namespace, right: &'a Namespace) -> [Ends<'a>; 2] {
    ends().map(|(one, two)| Ends {
        left: (left, one),
        right: (right, two),
    })
}

fn pair(hook: &str) -> Lab {
    let lab = Lab::pair();
    // Only TC is told that a checksum is still to be filled in, and may see segments in one piece.
    lab.whole_checksums(hook != "tc");
    lab.attach_pair(hook, "any");
    lab
}

fn bulk(hook: &str) {
    let lab = pair(hook);
    let (left, router, right) = (lab.at("left"), lab.at("router"), lab.at("right"));
    let kernel = Stack::of(&router);
    let egress = Wire::open(&router, "port1");
    let received = Wire::open(&right, "eth0");
    let effort = transfer(&both_families(&left, &right), BULK);

    let ports = Ports::of(&router);
    ports.assert_balanced();
    let packets = 4 * BULK as u64 / 1500;
    assert!(
        ports.forwarded() > packets,
        "{} forwarded",
        ports.forwarded()
    );
    let kernel = Stack::of(&router).since(&kernel);
    // A neighbour that is being probed may cost a few packets the fast way.
    let slow = kernel.get("IpForwDatagrams") + kernel.get("Ip6OutForwDatagrams");
    assert!(slow * 50 < packets, "the kernel forwarded {slow}");
    if hook == "tc" {
        let whole = std::iter::from_fn(|| egress.next()).map(|frame| frame.len());
        let largest = whole.max().expect("frames");
        assert!(largest > 9000, "no segments in one piece: {largest} bytes");
    } else {
        sample(&received);
    }

    let _ = lab.netmesh("router", &["dataplane", "detach"]);
    let alone = transfer(&both_families(&left, &right), BULK);
    effort.assert_like(&alone);
}

/// What is on the wire carries right checksums, not only what a receiver has looked at.
fn sample(wire: &Wire) {
    let mut right = 0;
    for frame in std::iter::from_fn(|| wire.next()) {
        // What GRO has merged has the pseudo header's sum.
        if frame.len() > 1514 {
            continue;
        }
        if let Some(sum) = checked(&frame[ETHERNET..]) {
            assert_eq!(sum, 0xffff, "a wrong checksum: {:02x?}", &frame[..100]);
            right += 1;
        }
    }
    assert!(right > 100, "only {right} packets could be looked at");
}

#[test]
fn bulk_transfers_cross_native_xdp() {
    bulk("xdp");
}

#[test]
fn bulk_transfers_cross_generic_xdp() {
    bulk("xdp-generic");
}

#[test]
fn bulk_transfers_cross_tc_in_one_piece() {
    bulk("tc");
}

/// IPv6 packets of more than 64 KiB between sockets, which carry a jumbo header or no length at
/// all until they are cut: whoever forwards them, the bytes arrive.
#[test]
fn big_tcp_arrives() {
    let lab = Lab::pair();
    for machine in ["left", "router", "right"] {
        let links: &[&str] = if machine == "router" {
            &["port0", "port1"]
        } else {
            &["eth0"]
        };
        for link in links {
            let big = "gso_max_size 200000 gro_max_size 200000";
            lab.ip(machine, &format!("link set {link} {big}"));
        }
    }
    lab.attach_pair("tc", "any");
    let (left, router, right) = (lab.at("left"), lab.at("router"), lab.at("right"));
    let egress = Wire::open(&left, "eth0");
    let _ = transfer(&both_families(&left, &right), BULK);
    let sizes = std::iter::from_fn(|| egress.next()).map(|frame| frame.len());
    let largest = sizes.max().expect("frames");
    assert!(largest > 65_549, "no big TCP: {largest} bytes at most");
    Ports::of(&router).assert_balanced();
}

/// Path MTU discovery across a router whose ports have two MTUs, towards the smaller.
fn discovers(hook: &str) {
    for (narrow, wide, port) in [("right", "left", "port1"), ("left", "right", "port0")] {
        let lab = Lab::pair();
        lab.whole_checksums(hook != "tc");
        lab.ip("router", &format!("link set {port} mtu 1420"));
        lab.attach_pair(hook, "any");
        let (narrow, wide, router) = (lab.at(narrow), lab.at(wide), lab.at("router"));
        for (left, right) in ends() {
            let (here, there) = match port {
                "port1" => (left, right),
                _ => (right, left),
            };
            assert_eq!(learnt_mtu(&wide, there), None, "nothing is learnt before");
            let before = Ports::of(&router);
            tcp((&wide, here), (&narrow, there), 4 << 20).expect("towards the smaller MTU");
            assert_eq!(learnt_mtu(&wide, there), Some(1420), "{hook} {there}");
            tcp((&narrow, there), (&wide, here), 4 << 20).expect("from the smaller MTU");
            let after = Ports::of(&router);
            assert!(after.punted("too_big") > before.punted("too_big"), "{hook}");
            let packets = after.forwarded() - before.forwarded();
            assert!(
                packets > 2 * (4 << 20) / 1420,
                "{hook}: {packets} forwarded"
            );
        }
        Ports::of(&router).assert_balanced();
    }
}

#[test]
fn path_mtu_discovery_crosses_native_xdp() {
    discovers("xdp");
}

#[test]
fn path_mtu_discovery_crosses_generic_xdp() {
    discovers("xdp-generic");
}

#[test]
fn path_mtu_discovery_crosses_tc() {
    discovers("tc");
}

/// Echo requests of every payload, both ways; the fast path carries the fragments.
fn echoes(left: (&Namespace, IpAddr), right: (&Namespace, IpAddr), routers: &[&Namespace]) {
    let header = if left.1.is_ipv6() { 48 } else { 28 };
    for payload in PAYLOADS {
        for ((here, source), (_, destination)) in [(left, right), (right, left)] {
            let before: Vec<u64> = routers.iter().map(|r| Ports::of(r).forwarded()).collect();
            // The first of a size may teach the sender a path MTU instead.
            eventually("an echo", Duration::from_secs(10), || {
                let size = (header + payload).min(65_535);
                ping(here, source, destination, size, 1)
                    .expect("a socket")
                    .received
                    == 1
            });
            for (router, before) in routers.iter().zip(before) {
                let packets = Ports::of(router).forwarded() - before;
                // Request and reply, in as many fragments as they need.
                let least = 2 * (payload as u64).div_ceil(1500);
                assert!(packets >= least, "{router} {payload}: {packets} forwarded");
            }
        }
    }
}

#[test]
fn echoes_of_every_size_cross_every_hook() {
    for hook in HOOKS {
        let lab = pair(hook);
        let (left, router, right) = (lab.at("left"), lab.at("router"), lab.at("right"));
        for (one, two) in ends() {
            echoes((&left, one), (&right, two), &[&router]);
        }
        let ports = Ports::of(&router);
        ports.assert_balanced();
        assert_eq!(
            ports.punted("malformed"),
            0,
            "{hook}: a fragment is a packet"
        );
    }
}

/// An IPv4 packet that may be fragmented is, by the kernel: RFC 1812 section 5.3.9.
#[test]
fn what_may_be_fragmented_is_fragmented() {
    for hook in HOOKS {
        let lab = Lab::pair();
        lab.whole_checksums(hook != "tc");
        lab.ip("router", "link set port1 mtu 1400");
        lab.ip("right", "link set eth0 mtu 1400");
        lab.attach_pair(hook, "any");
        // No discovery: the sender's packets may be fragmented.
        lab.set("left", "net/ipv4/ip_no_pmtu_disc", "1");
        let router = lab.at("router");
        let before = Stack::of(&router);
        let pings = ping(&lab.at("left"), LEFT4.into(), RIGHT4.into(), 1500, 3).expect("pings");
        assert_eq!(pings.received, 3, "{hook}");
        let grown = Stack::of(&router).since(&before);
        assert_eq!(Ports::of(&router).punted("too_big"), 3, "{hook}");
        assert_eq!(grown.get("IpFragOKs"), 3, "{hook}");
    }
}

/// A mesh whose router has this hook on both of its ports.
fn mesh(hook: &str) -> Lab {
    let lab = Lab::mesh();
    // The provider speaks for the internet: its link to the router is no way through it.
    let (via, source) = ("2a02:1800:10:1052::5", "2a02:1800:20::10");
    lab.ip(
        "provider",
        &format!("route replace {ALLOCATION} via {via} src {source}"),
    );
    lab.apply_all();
    if hook != "xdp" {
        for (port, sources) in [("eth0", "external"), ("eth1", "behind")] {
            let attach = [
                "dataplane",
                "attach",
                "--hook",
                hook,
                "--sources",
                sources,
                "--port",
                port,
            ];
            let _ = lab.netmesh("router", &attach);
        }
    }
    if hook == "tc" {
        for (machine, link) in [("provider", "eth0"), ("node-1", "eth1"), ("switch", "exit")] {
            ethtool::set_tx_checksum(&lab.at(machine), link, true).expect("checksums on");
        }
    }
    let (web, address) = (lab.resource("web"), IpAddr::V6(lab.address(&RESOURCES[1])));
    eventually("the internet answers", Duration::from_secs(10), || {
        ping(&web, address, INTERNET.into(), 104, 1)
            .expect("a socket")
            .received
            == 1
    });
    lab
}

/// The data planes between a member and the internet.
fn routers(lab: &Lab) -> [Namespace; 2] {
    [lab.resource("gw"), lab.at("router")]
}

fn tunnelled_bulk(hook: &str) {
    let lab = mesh(hook);
    let (web, provider) = (lab.resource("web"), lab.at("provider"));
    let ends = [Ends {
        left: (&web, IpAddr::V6(lab.address(&RESOURCES[1]))),
        right: (&provider, INTERNET.into()),
    }];
    let nodes = ["node-1", "node-2"].map(|node| lab.at(node));
    let underlay = nodes.each_ref().map(Stack::of);
    let before = routers(&lab).map(|router| Ports::of(&router).forwarded());
    let effort = transfer(&ends, TUNNELLED);
    for (router, before) in routers(&lab).iter().zip(before) {
        let ports = Ports::of(router);
        ports.assert_balanced();
        let packets = ports.forwarded() - before;
        assert!(packets > 2 * TUNNELLED as u64 / 1420, "{router}: {packets}");
    }
    // Full packets fit the underlay with what the tunnel adds, its padding included.
    for (node, before) in nodes.iter().zip(&underlay) {
        let grown = Stack::of(node).since(before);
        assert!(grown.get("Udp6InDatagrams") + grown.get("Udp6OutDatagrams") > 0);
        for name in [
            "Ip6FragCreates",
            "Ip6FragFails",
            "Ip6ReasmReqds",
            "Ip6InTooBigErrors",
        ] {
            assert_eq!(grown.get(name), 0, "{name} of {node}");
        }
    }
    for router in &routers(&lab) {
        let output = lab_detach(router);
        assert!(output, "{router} is detached");
    }
    let alone = transfer(&ends, TUNNELLED);
    effort.assert_like(&alone);
}

fn lab_detach(router: &Namespace) -> bool {
    std::process::Command::new(netmesh_tests::binary())
        .args(["--netns", &router.to_string(), "dataplane", "detach"])
        .output()
        .expect("netmesh starts")
        .status
        .success()
}

#[test]
fn bulk_transfers_cross_tunnel_exit_and_router_by_native_xdp() {
    tunnelled_bulk("xdp");
}

#[test]
fn bulk_transfers_cross_tunnel_exit_and_router_by_tc() {
    tunnelled_bulk("tc");
}

/// A host of 1500 bytes behind a member: the tunnel's 1420 are learnt from the member one way and
/// from the exit, whose data plane finds the packet too big, the other.
fn tunnel_mtu(hook: &str) {
    let mut lab = mesh(hook);
    let [service, other] = behind_web(&mut lab);
    let (here, provider, exit) = (lab.at("service"), lab.at("provider"), lab.resource("gw"));
    assert_eq!(learnt_mtu(&provider, service), None);
    let before = routers(&lab).map(|router| Ports::of(&router).forwarded());
    tcp((&provider, INTERNET.into()), (&here, service), 1 << 20).expect("towards the tunnel");
    assert_eq!(
        learnt_mtu(&provider, service),
        Some(1420),
        "told by the exit"
    );
    assert!(Ports::of(&exit).punted("too_big") > 0);
    // By its other address: of this one the provider asks small segments by now.
    let gateway = lab.address(&RESOURCES[1]);
    lab.ip(
        "service",
        &format!("route replace default via {gateway} src {other}"),
    );
    tcp((&here, other), (&provider, INTERNET.into()), 1 << 20).expect("out of the tunnel");
    assert_eq!(
        learnt_mtu(&here, INTERNET.into()),
        Some(1420),
        "told by the member"
    );
    for (router, before) in routers(&lab).iter().zip(before) {
        let packets = Ports::of(router).forwarded() - before;
        assert!(packets > 2 * (1 << 20) / 1420, "{router}: {packets}");
    }
}

/// Plugs a host into the bridge of `web`; its addresses, the first of which it uses.
fn behind_web(lab: &mut Lab) -> [IpAddr; 2] {
    lab.machine("service");
    let member = lab.resource("web").to_string();
    let index = lab.address(&RESOURCES[1]).segments()[3];
    let own = lab.name("service");
    let ip = |arguments: String| {
        let done = std::process::Command::new("ip")
            .args(arguments.split(' '))
            .status();
        assert!(done.expect("ip starts").success(), "ip {arguments}");
    };
    ip(format!(
        "-n {member} link add svc type veth peer name eth0 netns {own}"
    ));
    ip(format!("-n {member} link set svc master br-{index:x} up"));
    lab.ip("service", "link set eth0 up");
    let mut address = lab.address(&RESOURCES[1]).segments();
    let gateway = Ipv6Addr::from(address);
    let addresses = [0x77, 0x78].map(|last| {
        address[7] = last;
        Ipv6Addr::from(address)
    });
    let [one, two] = addresses;
    lab.ip("service", &format!("addr add {two}/128 dev eth0 nodad"));
    lab.ip("service", &format!("addr add {one}/64 dev eth0 nodad"));
    lab.ip("service", &format!("route add default via {gateway}"));
    addresses.map(IpAddr::V6)
}

#[test]
fn a_tunnel_s_mtu_is_learnt_behind_native_xdp() {
    tunnel_mtu("xdp");
}

#[test]
fn a_tunnel_s_mtu_is_learnt_behind_tc() {
    tunnel_mtu("tc");
}

/// Who tells that a packet has no more hops, one after the other, up to the destination.
fn trace(lab: &Lab, from: (&Namespace, IpAddr), to: IpAddr, hops: &[IpAddr]) {
    for (n, hop) in hops.iter().enumerate() {
        let mut told = None;
        // ICMP errors are rate limited: one may be missing.
        eventually("a hop answers", Duration::from_secs(20), || {
            told = probe(from.0, from.1, SocketAddr::new(to, 33_434), n as u8 + 1);
            told.is_some()
        });
        let told = told.expect("it answered");
        assert_eq!(told.by, *hop, "hop {} to {to}", n + 1);
        let last = n + 1 == hops.len();
        let unreachable = if to.is_ipv6() { (1, 4) } else { (3, 3) };
        let exceeded = if to.is_ipv6() { (3, 0) } else { (11, 0) };
        let wanted = if last { unreachable } else { exceeded };
        assert_eq!((told.kind, told.code), wanted, "hop {} to {to}", n + 1);
    }
    drop(Stack::of(&lab.at("router")));
}

#[test]
fn traceroute_shows_exit_and_router_in_order() {
    for hook in ["xdp", "tc"] {
        let lab = mesh(hook);
        let before = routers(&lab).map(|router| Ports::of(&router).punted("hop_limit"));
        let web = IpAddr::V6(lab.address(&RESOURCES[1]));
        let exit = IpAddr::V6(lab.address(&RESOURCES[0]));
        let segment = IpAddr::V6("2a02:1802:5e::1".parse().expect("an address"));
        let uplink = IpAddr::V6("2a02:1800:10:1052::5".parse().expect("an address"));
        let member = (&lab.resource("web"), web);
        trace(
            &lab,
            member,
            INTERNET.into(),
            &[exit, segment, INTERNET.into()],
        );
        let outside = (&lab.at("provider"), IpAddr::V6(PROVIDER));
        trace(&lab, outside, web, &[uplink, exit, web]);
        for (router, before) in routers(&lab).iter().zip(before) {
            let exceeded = Ports::of(router).punted("hop_limit") - before;
            assert!(exceeded >= 2, "{hook} {router}: one each way, {exceeded}");
        }
    }
}

#[test]
fn traceroute_shows_a_plain_router() {
    for hook in HOOKS {
        let lab = pair(hook);
        let left = lab.at("left");
        trace(
            &lab,
            (&left, LEFT.into()),
            RIGHT.into(),
            &[ROUTER.into(), RIGHT.into()],
        );
        let four: [Ipv4Addr; 2] = [ROUTER4, RIGHT4];
        trace(
            &lab,
            (&left, LEFT4.into()),
            RIGHT4.into(),
            &four.map(IpAddr::V4),
        );
        assert!(
            Ports::of(&lab.at("router")).punted("hop_limit") >= 2,
            "{hook}"
        );
    }
}

#[test]
fn echoes_of_every_size_cross_tunnel_exit_and_router() {
    for hook in HOOKS {
        let lab = mesh(hook);
        let [exit, router] = routers(&lab);
        let web = (&lab.resource("web"), IpAddr::V6(lab.address(&RESOURCES[1])));
        echoes(
            web,
            (&lab.at("provider"), INTERNET.into()),
            &[&exit, &router],
        );
    }
}
