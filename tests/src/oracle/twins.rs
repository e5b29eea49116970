//! Two routers with the same ports, addresses, neighbours, sysctls and routes.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netmesh::dataplane::counters::ReasonRow;
use netmesh::dataplane::{Instance, View};
use netmesh::kernel::{Kernel, ethtool, netns};
use netmesh::plan::facts::NamespaceFacts;
use netmesh::plan::state::Namespace;
use netmesh::reconcile::identity;
use netmesh_common::table::Origin;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::crowd;
use super::routes::{Route, batch};
use super::wire::End;
use crate::{Lab, run as checked};

/// Ethernet ports of a router.
pub const PORTS: usize = 3;
/// Neighbours on each of them.
pub const NEIGHBOURS: usize = 3;
/// More of them on each port, to which only routes with several next hops lead.
pub const MEMBERS: usize = 3;
/// The device without link-layer headers; its number as a port is [`PORTS`].
pub const TUN: &str = "t0";
/// The VLAN of tagged wires.
const VID: u16 = 7;
/// MTU of each port, the tun last.
pub const MTU: [usize; PORTS + 1] = [1500, 1500, 1400, 1420];

/// The port behind which a source must live, in both routers.
pub const SOURCES_PORT: usize = 2;

/// The routers' own addresses on a port.
#[must_use]
pub fn own(port: usize) -> (Ipv6Addr, Ipv4Addr) {
    let v6 = Ipv6Addr::new(0x2a02, 0x1810, 0, port as u16, 0, 0, 0, 1);
    (v6, Ipv4Addr::new(10, 80, port as u8, 1))
}

/// The routers' link-layer address on a port.
#[must_use]
pub fn own_mac(port: usize) -> [u8; 6] {
    [2, 0, 0x5e, 0, 0, port as u8]
}

/// A neighbour on a port; the last one that is no member is known by its link-local address.
#[must_use]
pub fn neighbour(port: usize, number: usize) -> (Ipv6Addr, Ipv4Addr, [u8; 6]) {
    let last = 10 + number as u16;
    let v6 = if number + 1 == NEIGHBOURS {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last)
    } else {
        Ipv6Addr::new(0x2a02, 0x1810, 0, port as u16, 0, 0, 0, last)
    };
    let v4 = Ipv4Addr::new(10, 80, port as u8, last as u8);
    (v6, v4, [2, 0, 0x5e, 1, port as u8, number as u8])
}

/// How our router's Ethernet ports are attached; its tun is always TC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// XDP in the driver.
    Xdp,
    /// Generic XDP.
    XdpGeneric,
    /// TC ingress.
    Tc,
}

impl Mode {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Xdp, Self::XdpGeneric, Self::Tc];

    /// As the command line has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
        }
    }

    /// The mode of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// What came out: port, bytes.
pub type Out = Vec<(usize, Vec<u8>)>;

/// The pair.
#[derive(Debug)]
pub struct Twins {
    lab: Lab,
    /// Of the kernel's router and of ours: the wires' ends, the tun last.
    ends: [Vec<End>; 2],
    routes: Vec<Route>,
    /// Frames that went into each port of ours.
    injected: [u64; PORTS + 1],
}

const ROUTERS: [&str; 2] = ["kernel", "ours"];

impl Twins {
    /// Builds both; where wires are `tagged` each port is a VLAN sub-interface, at both ends.
    ///
    /// # Panics
    /// When the kernel refuses something.
    #[must_use]
    pub fn new(mode: Mode, tagged: bool) -> Self {
        let mut lab = Lab::new();
        lab.machine("wire");
        sysctl(&lab.at("wire"), "net/ipv6/conf/all/disable_ipv6", "1");
        sysctl(&lab.at("wire"), "net/ipv6/conf/default/disable_ipv6", "1");
        let ends = ROUTERS.map(|router| {
            lab.machine(router);
            quiet(&lab.at(router));
            (0..PORTS).for_each(|port| ethernet(&lab, router, port, tagged));
            let tun = netns::run_in(&lab.at(router), || End::tun(TUN));
            let tun = tun.expect("the router").expect("a tun device");
            lab.ip(router, &format!("link set {TUN} mtu {} up", MTU[PORTS]));
            let (v6, v4) = own(PORTS);
            lab.ip(router, &format!("addr add {v6}/128 dev {TUN} nodad"));
            lab.ip(router, &format!("addr add {v4}/32 dev {TUN}"));
            let mut ends: Vec<End> = (0..PORTS)
                .map(|port| {
                    // Only frames with the tag come out of a sub-interface.
                    let tag = if tagged { "v" } else { "" };
                    let name = format!("{}{port}{tag}", &router[..1]);
                    let end = netns::run_in(&lab.at("wire"), || End::packet(&name));
                    end.expect("the wire").expect("a packet socket")
                })
                .collect();
            ends.push(tun);
            ends
        });
        strict(&lab);
        let attach = ["dataplane", "attach", "--hook", mode.name()];
        let believed = ["--port", "p0", "--port", "p1"];
        let checked = ["--port", "p2", "--sources", "behind"];
        for ports in [&believed, &checked] {
            let _ = lab.netmesh("ours", &[&attach[..], ports].concat());
        }
        let _ = lab.netmesh("ours", &["dataplane", "attach", "--port", TUN]);
        let twins = Self {
            lab,
            ends,
            routes: Vec::new(),
            injected: [0; PORTS + 1],
        };
        twins.receive_on_the_wire();
        twins
    }

    /// Native XDP sends frames only to veth ends that run NAPI; GRO would make it so, and merge
    /// what comes out.
    fn receive_on_the_wire(&self) {
        let id = identity(&self.lab.at("ours")).expect("our router");
        netns::run_in(&self.lab.at("wire"), || {
            let mut instance = Instance::open(id).expect("pins").expect("a data plane");
            for port in 0..PORTS {
                let index = if_nametoindex(format!("o{port}").as_str()).expect("the wire");
                instance.attach_pass(index).expect("a program that passes");
            }
        })
        .expect("the wire");
    }

    /// Gives both routers another table.
    ///
    /// # Panics
    /// When one of them does not take it.
    pub fn set_routes(&mut self, routes: &[Route]) {
        for router in ROUTERS {
            for family in [4, 6] {
                self.batch(router, family, &batch("del", &self.routes, family));
                self.batch(router, family, &batch("add", routes, family));
            }
        }
        let old = std::mem::replace(&mut self.routes, routes.to_vec());
        self.with_instance(|instance, facts| {
            for route in &old {
                instance
                    .remove_route(route.prefix, Origin::Static)
                    .expect("a route of ours");
            }
            for route in routes {
                instance
                    .put_route(route.prefix, Origin::Static, &route.entry(), facts)
                    .expect("room for a route");
            }
        });
        self.wait_for_next_hops();
    }

    /// Our router's namespace.
    #[must_use]
    pub fn ours(&self) -> Namespace {
        self.lab.at("ours")
    }

    /// Gives both routers so many more routes, which stay.
    ///
    /// # Panics
    /// When one of them does not take them.
    pub fn add_crowd(&mut self, count: usize) {
        let routes: Vec<Route> = crowd::routes(count).collect();
        for router in ROUTERS {
            for family in [4, 6] {
                self.batch(router, family, &batch("add", &routes, family));
            }
        }
        let entries: Vec<_> = routes
            .iter()
            .map(|route| (route.prefix, route.entry()))
            .collect();
        self.with_instance(|instance, facts| {
            let added = instance.put_routes(&entries, Origin::Static, facts, |_| ());
            added.expect("room for the crowd");
        });
    }

    /// Every next hop is a permanent neighbour; ours must have seen them all.
    fn wait_for_next_hops(&self) {
        let deadline = Instant::now() + Duration::from_secs(10) * crate::slowness();
        let unresolved = |view: &View, facts: &NamespaceFacts| -> Vec<IpNet> {
            let row = |route: &Route| {
                let row = view.route(route.prefix, Origin::Static, facts);
                row.expect("the table").expect("a route of ours")
            };
            let rows = self.routes.iter().map(row);
            let open = rows.filter(|row| row.resolved == Some(false));
            open.map(|row| row.prefix).collect()
        };
        loop {
            let open = self.with_instance(|instance, facts| unresolved(instance, facts));
            if open.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "unresolved: {open:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Works on our router's tables.
    fn with_instance<T: Send>(
        &self,
        work: impl FnOnce(&mut Instance, &NamespaceFacts) -> T + Send,
    ) -> T {
        netns::run_in(&self.lab.at("ours"), || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            let facts = runtime
                .block_on(async { Kernel::default().facts(&Namespace::Node).await })
                .expect("the kernel shows its links");
            let id = identity(&self.lab.at("ours")).expect("our router");
            let mut instance = Instance::open(id).expect("pins").expect("a data plane");
            work(&mut instance, &facts)
        })
        .expect("our router")
    }

    fn batch(&self, router: &str, family: usize, text: &str) {
        if text.is_empty() {
            return;
        }
        let mut child = Command::new("ip")
            .args(["-n", &self.lab.name(router), &format!("-{family}")])
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("ip starts");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(text.as_bytes()).expect("ip reads");
        drop(stdin);
        assert!(child.wait().expect("ip ends").success(), "ip: {text}");
    }

    /// Sends the same frames into both routers, one after the other into their ports.
    ///
    /// # Panics
    /// When a wire breaks.
    pub fn send(&mut self, frames: &[(usize, Vec<u8>)]) {
        for (port, frame) in frames {
            for ends in &mut self.ends {
                ends[*port].send(frame).expect("a wire takes frames");
            }
            self.injected[*port] += 1;
        }
    }

    /// What came out of both routers until nothing more came for `quiet`.
    ///
    /// # Panics
    /// When a wire breaks.
    pub fn receive(&mut self, quiet: Duration) -> [Out; 2] {
        let mut out = [Out::new(), Out::new()];
        let mut buffer = vec![0; 1 << 16];
        loop {
            let mut some = false;
            for (ends, out) in self.ends.iter_mut().zip(&mut out) {
                for (port, end) in ends.iter_mut().enumerate() {
                    while let Some(length) = end.receive(&mut buffer).expect("a wire") {
                        out.push((port, buffer[..length.min(buffer.len())].to_vec()));
                        some = true;
                    }
                }
            }
            if !some && !self.wait(quiet) {
                return out;
            }
        }
    }

    /// Something came within that time.
    fn wait(&self, quiet: Duration) -> bool {
        let all = self.ends.iter().flatten();
        let mut fds: Vec<PollFd<'_>> = all
            .map(|end| -> BorrowedFd<'_> { end.fd() })
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let timeout = PollTimeout::try_from(quiet).expect("a short time");
        poll(&mut fds, timeout).expect("poll") > 0
    }

    /// Per port of ours: frames sent into it, and what its counters say of them.
    ///
    /// # Panics
    /// When the counters cannot be read.
    pub fn balance(&self) -> Vec<Balance> {
        let rows = self.with_instance(|instance, facts| {
            instance.port_counters(facts).expect("the port counters")
        });
        rows.iter()
            .map(|row| {
                let number: usize = match row.port.strip_prefix('p') {
                    Some(number) => number.parse().expect("a port"),
                    None => PORTS,
                };
                let sum = |reasons: &[ReasonRow]| -> u64 {
                    reasons.iter().map(|reason| reason.packets).sum()
                };
                let all = row.punted.iter().chain(&row.dropped);
                Balance {
                    port: row.port.clone(),
                    injected: self.injected[number],
                    received: row.received,
                    forwarded: row.forwarded.packets,
                    punted: sum(&row.punted),
                    dropped: sum(&row.dropped),
                    lost: row.redirect_failed,
                    reasons: all
                        .map(|row| (row.reason.to_string(), row.packets))
                        .collect(),
                }
            })
            .collect()
    }
}

/// The counters of one port, in sums.
#[derive(Clone, Debug)]
pub struct Balance {
    /// The port.
    pub port: String,
    /// Frames sent into it.
    pub injected: u64,
    /// Seen by our program.
    pub received: u64,
    /// Handed to another device.
    pub forwarded: u64,
    /// Left to the kernel.
    pub punted: u64,
    /// Dropped.
    pub dropped: u64,
    /// Not taken by the other device.
    pub lost: u64,
    /// Why packets were punted or dropped, and how many.
    pub reasons: Vec<(String, u64)>,
}

fn sysctl(namespace: &Namespace, name: &str, value: &str) {
    netns::run_in(namespace, || {
        fs::write(format!("/proc/sys/{name}"), value).unwrap_or_else(|error| {
            panic!("{name}: {error}");
        });
    })
    .expect("the namespace");
}

/// Forwards, answers every packet that deserves an error, says nothing by itself.
fn quiet(router: &Namespace) {
    for (name, value) in [
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/addr_gen_mode", "1"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv6/auto_flowlabels", "0"),
        // No rate limit on any error.
        ("net/ipv6/icmp/ratelimit", "0"),
        ("net/ipv6/icmp/ratemask", "255"),
        ("net/ipv4/icmp_ratemask", "0"),
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
        // Fragments that never become whole are not told within a run.
        ("net/ipv4/ipfrag_high_thresh", "1073741824"),
        ("net/ipv6/ip6frag_high_thresh", "1073741824"),
        ("net/ipv4/ipfrag_time", "3600"),
        ("net/ipv6/ip6frag_time", "3600"),
    ] {
        sysctl(router, name, value);
    }
}

/// The kernel's own test of sources behind [`SOURCES_PORT`]: the route back is the way it came
/// (RFC 3704 section 2.2), but for addresses that never cross a router. Nobody's addresses reach
/// the router itself at most.
fn strict(lab: &Lab) {
    let port = format!("p{SOURCES_PORT}");
    // Of a route into a tunnel the first address is an anycast to nf_tables, and to nobody else
    // (`ipv6_anycast_destination`).
    let subnets: Vec<String> = (0..PORTS)
        .map(|port| format!("{}/64", own(port).0))
        .collect();
    let subnets = subnets.join(", ");
    let rules = format!(
        "table inet strict {{
            chain prerouting {{
                type filter hook prerouting priority raw
                iifname != \"{port}\" accept
                meta pkttype != host accept
                ip6 daddr {{ ::/96, ::ffff:0:0/96, fe80::/10, ff00::/8 }} accept
                ip6 saddr {{ ::/96, ::ffff:0:0/96 }} fib daddr type local accept
                ip6 saddr {{ ::/96, ::ffff:0:0/96 }} ip6 daddr {{ {subnets} }} fib daddr type anycast accept
                ip6 saddr {{ ::/96, ::ffff:0:0/96 }} drop
                ip6 saddr {{ fe80::/10, ff00::/8 }} accept
                ip daddr {{ 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }} accept
                ip saddr {{ 0.0.0.0/8, 169.254.0.0/16, 240.0.0.0/4 }} fib daddr type {{ local, anycast }} accept
                ip saddr {{ 0.0.0.0/8, 169.254.0.0/16, 240.0.0.0/4 }} drop
                ip saddr {{ 127.0.0.0/8, 224.0.0.0/4 }} accept
                fib saddr type broadcast drop
                fib saddr oifname != \"{port}\" drop
            }}
        }}"
    );
    let mut child = Command::new("ip")
        .args(["netns", "exec", &lab.name("kernel"), "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nft starts");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(rules.as_bytes()).expect("nft reads");
    drop(stdin);
    assert!(child.wait().expect("nft ends").success(), "nft: {rules}");
}

/// One port with addresses and neighbours, and the other end of its wire.
fn ethernet(lab: &Lab, router: &str, port: usize, tagged: bool) {
    let far = format!("{}{port}", &router[..1]);
    let name = format!("p{port}");
    let near = if tagged {
        format!("b{port}")
    } else {
        name.clone()
    };
    checked(
        Command::new("ip")
            .args(["link", "add", &far, "netns", &lab.name("wire")])
            .args(["type", "veth", "peer", "name", &near])
            .args(["netns", &lab.name(router)]),
    );
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let address = mac(own_mac(port));
    lab.ip(router, &format!("link set {near} address {address}"));
    lab.ip(router, &format!("link set {near} mtu {}", MTU[port]));
    for (namespace, name) in [(lab.at(router), &near), (lab.at("wire"), &far)] {
        ethtool::set_gro(&namespace, name, false).expect("GRO off");
        ethtool::set_tx_checksum(&namespace, name, false).expect("checksums off");
    }
    lab.ip("wire", &format!("link set {far} up"));
    lab.ip(router, &format!("link set {near} up"));
    if tagged {
        // XDP sees tags that lie in the frame: a veth's other end decides where they are.
        ethtool::set_vlan(&lab.at("wire"), &far, false).expect("tags in the frames");
        let vlan = format!("type vlan id {VID}");
        lab.ip("wire", &format!("link add link {far} name {far}v {vlan}"));
        lab.ip("wire", &format!("link set {far}v up"));
        lab.ip(router, &format!("link add link {near} name {name} {vlan}"));
        lab.ip(router, &format!("link set {name} up"));
    }
    let (v6, v4) = own(port);
    lab.ip(router, &format!("addr add fe80::1/64 dev {name} nodad"));
    lab.ip(router, &format!("addr add {v6}/64 dev {name} nodad"));
    lab.ip(router, &format!("addr add {v4}/24 dev {name}"));
    for number in 0..NEIGHBOURS + MEMBERS {
        let (v6, v4, address) = neighbour(port, number);
        for ip in [v6.to_string(), v4.to_string()] {
            let words = format!("neigh add {ip} lladdr {} dev {name}", mac(address));
            lab.ip(router, &words);
        }
    }
}
