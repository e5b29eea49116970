//! VLAN sub-interfaces as ports, frame by frame: what leaves is what the plain kernel sends, and
//! every frame is counted on the sub-interface it came in through. `cargo xtask vm` runs these on
//! kernels that have 8021q.

mod wire;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use netmesh::kernel::{ethtool, netns, snmp};
use netmesh_tests::{Lab, eventually, slowness};
use serde_json::Value;

use wire::{Wire, frame, v4, v6};

const DOT1Q: u16 = 0x8100;
const DOT1AD: u16 = 0x88a8;

/// A subnet of the router: what the addresses of its one host are made of, and its port.
#[derive(Clone, Copy)]
struct Net {
    number: u8,
    port: &'static str,
    /// 0: untagged.
    vid: u16,
    /// Where its wire ends.
    at: usize,
}

/// A probe with one tag.
const LONGEST: usize = 14 + 4 + 40 + 64;

const LEFT: usize = 0;
const RIGHT: usize = 1;

const fn net(number: u8, port: &'static str, vid: u16, at: usize) -> Net {
    Net {
        number,
        port,
        vid,
        at,
    }
}

/// Untagged and two VLANs on one trunk, and a plain port.
const PLAIN: Net = net(1, "port0", 0, LEFT);
const SEVEN: Net = net(7, "port0.7", 7, LEFT);
const EIGHT: Net = net(8, "port0.8", 8, LEFT);
const FAR: Net = net(2, "port1", 0, RIGHT);
const NETS: [Net; 4] = [PLAIN, SEVEN, EIGHT, FAR];

impl Net {
    fn host6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2a02, 0x1811, self.number.into(), 0, 0, 0, 0, 2)
    }

    fn host4(self) -> Ipv4Addr {
        Ipv4Addr::new(100, 80, self.number, 2)
    }

    const fn mac(self) -> [u8; 6] {
        [2, 0, 0, 0, 0x22, self.number]
    }

    fn tags(self) -> Vec<(u16, u16)> {
        if self.vid == 0 {
            vec![]
        } else {
            vec![(DOT1Q, self.vid)]
        }
    }
}

struct Bench {
    lab: Lab,
    wires: [Wire; 2],
    /// Link-layer addresses of `port0`, `port1`.
    ours: [[u8; 6]; 2],
}

impl Bench {
    fn new() -> Self {
        let mut lab = Lab::new();
        for machine in ["left", "router", "right"] {
            lab.machine(machine);
        }
        lab.wire(("left", "eth0"), ("router", "port0"));
        lab.wire(("right", "eth0"), ("router", "port1"));
        for vlan in [SEVEN, EIGHT] {
            lab.ip(
                "router",
                &format!(
                    "link add link port0 name {} type vlan id {}",
                    vlan.port, vlan.vid
                ),
            );
            lab.ip("router", &format!("link set {} up", vlan.port));
        }
        netns::run_in(&lab.at("router"), || {
            for file in ["ipv6/conf/all/forwarding", "ipv4/ip_forward"] {
                std::fs::write(format!("/proc/sys/net/{file}"), "1").expect("forwarding");
            }
        })
        .expect("the router");
        for net in NETS {
            let (number, port) = (net.number, net.port);
            lab.ip(
                "router",
                &format!("addr add 2a02:1811:{number}::1/64 dev {port} nodad"),
            );
            lab.ip(
                "router",
                &format!("addr add 100.80.{number}.1/24 dev {port}"),
            );
            meet(&lab, net);
        }
        // What XDP sends to a veth is lost unless its other end runs NAPI.
        for machine in ["left", "right"] {
            ethtool::set_gro(&lab.at(machine), "eth0", true).expect("GRO on");
        }
        let wires = [
            Wire::open(&lab.at("left"), "eth0"),
            Wire::open(&lab.at("right"), "eth0"),
        ];
        let ours = [mac(&lab, "port0"), mac(&lab, "port1")];
        Self { lab, wires, ours }
    }

    /// Attaches the untagged port of the trunk by TC and the others by this hook, and routes.
    fn attach(&self, hook: &str) {
        let attach = |arguments: &[&str]| {
            let mut all = vec!["dataplane", "attach", "--hook"];
            all.extend(arguments);
            let _ = self.lab.netmesh("router", &all);
        };
        attach(&["tc", "--port", "port0"]);
        attach(&[
            hook, "--port", "port0.7", "--port", "port0.8", "--port", "port1",
        ]);
        for net in NETS {
            for host in [net.host6().to_string(), net.host4().to_string()] {
                let _ = self.lab.netmesh(
                    "router",
                    &["route", "add", &host, "via", &host, "dev", net.port],
                );
            }
            // What the data plane keeps resolved, nobody answers for.
            meet(&self.lab, net);
        }
        self.lab.resolved("router");
    }

    /// Sends every probe and collects what comes of it: end of a wire and frame, by probe.
    fn send(&self, probes: &[Probe]) -> BTreeMap<&'static str, Vec<(usize, Vec<u8>)>> {
        let mut seen: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (number, probe) in probes.iter().enumerate() {
            self.wires[probe.at].send(&probe.frame(self.ours[probe.at], number));
        }
        let expected = probes.iter().filter(|probe| probe.leaves).count();
        let deadline = Instant::now() + Duration::from_secs(5) * slowness();
        // Late and unwanted ones as well.
        let mut rest = Duration::from_millis(300) * slowness().min(3);
        let mut found = 0;
        while Instant::now() < deadline && (found < expected || !rest.is_zero()) {
            for (end, wire) in self.wires.iter().enumerate() {
                while let Some(frame) = wire.next() {
                    let probe = probes.iter().enumerate().find(|(number, _)| {
                        let marker = marker(*number);
                        // An ICMP error quotes it, and is longer.
                        frame.len() <= LONGEST
                            && frame.windows(marker.len()).any(|bytes| bytes == marker)
                    });
                    if let Some((_, probe)) = probe {
                        seen.entry(probe.name).or_default().push((end, frame));
                        found += 1;
                    }
                }
            }
            let pause = Duration::from_millis(10);
            std::thread::sleep(pause);
            if found >= expected {
                rest = rest.saturating_sub(pause);
            }
        }
        seen
    }

    fn counters(&self, port: &str) -> Value {
        let status = self.lab.json("router", &["dataplane", "status"]);
        let rows = status["instance"]["counters"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["port"] == port);
        row.expect("the port").clone()
    }
}

/// The router knows the host's link-layer address for good.
fn meet(lab: &Lab, net: Net) {
    let [a, b, c, d, e, f] = net.mac();
    let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    for host in [net.host6().to_string(), net.host4().to_string()] {
        lab.ip(
            "router",
            &format!(
                "neigh replace {host} dev {} nud permanent lladdr {mac}",
                net.port
            ),
        );
    }
}

fn mac(lab: &Lab, port: &str) -> [u8; 6] {
    let path = format!("/sys/class/net/{port}/address");
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", &lab.name("router"), "cat", &path])
        .output()
        .expect("ip starts");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut bytes = text
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("an address"));
    std::array::from_fn(|_| bytes.next().expect("six bytes"))
}

/// What one packet and no other holds.
fn marker(number: usize) -> [u8; 8] {
    (0x6e6d_7661_6c6e_0000 + number as u64).to_be_bytes()
}

/// One frame, and what is to become of it.
struct Probe {
    name: &'static str,
    at: usize,
    from: Net,
    to: Net,
    family: u8,
    tags: Vec<(u16, u16)>,
    /// The plain kernel routes it.
    leaves: bool,
}

impl Probe {
    fn frame(&self, ours: [u8; 6], number: usize) -> Vec<u8> {
        let mut payload = marker(number).to_vec();
        // Above the least length of a frame, which the kernel does not keep.
        payload.resize(64, 0x5a);
        let packet = if self.family == 6 {
            v6(self.from.host6(), self.to.host6(), &payload)
        } else {
            v4(self.from.host4(), self.to.host4(), &payload)
        };
        frame(ours, self.from.mac(), &self.tags, &packet)
    }
}

fn probe(name: &'static str, from: Net, to: Net, family: u8) -> Probe {
    Probe {
        name,
        at: from.at,
        from,
        to,
        family,
        tags: from.tags(),
        leaves: true,
    }
}

/// What every hook routes by itself.
fn routed() -> Vec<Probe> {
    let priority = |name, to, control| Probe {
        tags: vec![(DOT1Q, control)],
        ..probe(name, SEVEN, to, 6)
    };
    vec![
        probe("tagged to untagged", SEVEN, FAR, 6),
        probe("tagged to untagged, IPv4", SEVEN, FAR, 4),
        probe("untagged to tagged", FAR, SEVEN, 6),
        probe("untagged to tagged, IPv4", FAR, EIGHT, 4),
        probe("tagged to tagged", SEVEN, EIGHT, 6),
        probe("tagged to tagged, IPv4", SEVEN, EIGHT, 4),
        probe("tagged to tagged, back", EIGHT, SEVEN, 6),
        probe("tagged to tagged, back, IPv4", EIGHT, SEVEN, 4),
        priority("priority to untagged", FAR, 0xa000 | 7),
        priority("priority to tagged", EIGHT, 0xf000 | 7),
        probe("untagged on the trunk to far", PLAIN, FAR, 6),
        probe("untagged to tagged on the trunk", PLAIN, SEVEN, 6),
        probe("untagged to tagged on the trunk, IPv4", PLAIN, SEVEN, 4),
    ]
}

/// From a VLAN to the trunk's untagged port, which XDP does not send to where TC serves it.
fn down() -> Vec<Probe> {
    vec![
        probe("tagged to untagged on the trunk", EIGHT, PLAIN, 6),
        probe("tagged to untagged on the trunk, IPv4", EIGHT, PLAIN, 4),
    ]
}

/// What is the kernel's alone.
fn left_alone() -> Vec<Probe> {
    let odd = |name, tags: &[(u16, u16)], leaves| Probe {
        tags: tags.to_vec(),
        leaves,
        ..probe(name, PLAIN, FAR, 6)
    };
    vec![
        odd("priority tag", &[(DOT1Q, 0)], true),
        odd("priority tag with a priority", &[(DOT1Q, 0xe000)], true),
        odd("unknown VLAN", &[(DOT1Q, 9)], false),
        odd("two tags", &[(DOT1Q, 7), (DOT1Q, 8)], false),
        odd(
            "two tags, the outer one unknown",
            &[(DOT1Q, 9), (DOT1Q, 7)],
            false,
        ),
        odd("802.1ad", &[(DOT1AD, 7)], false),
        odd("802.1ad around 802.1Q", &[(DOT1AD, 9), (DOT1Q, 7)], false),
    ]
}

/// IPv6 and UDP's payload; IPv4.
const fn bytes_of(family: u8) -> u64 {
    if family == 6 { 40 + 64 } else { 20 + 64 }
}

fn forwards_as_the_kernel_does(hook: &str) {
    let bench = Bench::new();
    let xdp = hook != "tc";
    let probes: Vec<Probe> = routed()
        .into_iter()
        .chain(down())
        .chain(left_alone())
        .collect();
    let plain = bench.send(&probes);
    for probe in &probes {
        let count = plain.get(probe.name).map_or(0, Vec::len);
        assert_eq!(count, usize::from(probe.leaves), "{}", probe.name);
    }

    bench.attach(hook);
    let before = snmp::forwarded(&bench.lab.at("router")).expect("the router");
    let ours = bench.send(&probes);
    let after = snmp::forwarded(&bench.lab.at("router")).expect("the router");
    for probe in &probes {
        assert_eq!(
            ours.get(probe.name),
            plain.get(probe.name),
            "{}",
            probe.name
        );
    }

    // The kernel forwarded what the data plane leaves to it, and nothing else.
    let by_kernel = |family| {
        let left = left_alone().into_iter().filter(|probe| probe.leaves);
        let down = down().into_iter().filter(|_| xdp);
        left.chain(down)
            .filter(|probe| probe.family == family)
            .count() as u64
    };
    assert_eq!(after.ipv6 - before.ipv6, by_kernel(6));
    assert_eq!(after.ipv4 - before.ipv4, by_kernel(4));

    // Every frame is counted once, on the port whose tag it carried.
    for net in NETS {
        let row = bench.counters(net.port);
        let mine = |probes: Vec<Probe>| -> (u64, u64) {
            let mine = probes
                .into_iter()
                .filter(|probe| probe.from.port == net.port);
            mine.fold((0, 0), |(packets, bytes), probe| {
                (packets + 1, bytes + bytes_of(probe.family))
            })
        };
        let (routed, down) = (mine(routed()), mine(down()));
        let accelerated = if xdp {
            routed
        } else {
            (routed.0 + down.0, routed.1 + down.1)
        };
        assert_eq!(row["forwarded"]["packets"], accelerated.0, "{row}");
        assert_eq!(row["forwarded"]["bytes"], accelerated.1, "{row}");
        assert_eq!(row["redirect_failed"], 0, "{row}");
        assert_eq!(row["dropped"].as_array().map(Vec::len), Some(0), "{row}");
        if net.vid == 0 {
            continue; // The hosts' own chatter is not tagged.
        }
        let punted = |reason: &str| {
            let rows = row["punted"].as_array().expect("rows");
            let found = rows.iter().find(|row| row["reason"] == reason);
            found.map_or(0, |row| row["packets"].as_u64().expect("a number"))
        };
        let two_tags = u64::from(net.vid == SEVEN.vid);
        let to_tc = if xdp { down.0 } else { 0 };
        assert_eq!(punted("vlan"), two_tags, "{row}");
        assert_eq!(punted("egress_not_a_port"), to_tc, "{row}");
        assert_eq!(row["received"], accelerated.0 + to_tc + two_tags, "{row}");
    }
}

#[test]
#[ignore = "needs 8021q: cargo xtask vm"]
fn native_xdp_routes_tagged_frames() {
    forwards_as_the_kernel_does("xdp");
}

#[test]
#[ignore = "needs 8021q: cargo xtask vm"]
fn generic_xdp_routes_tagged_frames() {
    forwards_as_the_kernel_does("xdp-generic");
}

#[test]
#[ignore = "needs 8021q: cargo xtask vm"]
fn tc_routes_tagged_frames() {
    forwards_as_the_kernel_does("tc");
}

/// A veth may show XDP a tagged frame without its tag: its VLANs and its own port do not share XDP.
#[test]
#[ignore = "needs 8021q: cargo xtask vm"]
fn a_trunk_that_hides_tags_is_no_xdp_port() {
    let bench = Bench::new();
    let refused = bench
        .lab
        .try_netmesh("router", &["dataplane", "attach", "--port", "port0"]);
    assert!(!refused.status.success());
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(
        words.contains("port0.") && words.contains("--hook tc"),
        "{words}"
    );
    assert_eq!(
        bench.lab.json("router", &["dataplane", "status"])["instance"],
        Value::Null,
        "nothing is attached"
    );
}

/// The sub-interface goes, and with it everything that knew it; its VLAN is the kernel's again.
#[test]
#[ignore = "needs 8021q: cargo xtask vm"]
fn a_sub_interface_that_is_removed_takes_its_port_along() {
    let bench = Bench::new();
    bench.attach("xdp");
    bench.lab.ip("router", "link del port0.7");
    let probes = vec![
        Probe {
            leaves: false,
            ..probe("of the one that is gone", SEVEN, FAR, 6)
        },
        Probe {
            leaves: false,
            ..probe("to the one that is gone", EIGHT, SEVEN, 6)
        },
        probe("of the other", EIGHT, FAR, 6),
    ];
    let seen = bench.send(&probes);
    assert_eq!(seen.keys().collect::<Vec<_>>(), [&"of the other"]);
    let ports = || {
        let status = bench.lab.json("router", &["dataplane", "status"]);
        let ports = status["instance"]["ports"].as_array().expect("ports");
        let words: Vec<String> = ports
            .iter()
            .map(|port| format!("{} {}", port["name"], port["link"]))
            .collect();
        words.join(", ")
    };
    let _ = bench
        .lab
        .netmesh("router", &["dataplane", "detach", "--port", "port0.8"]);
    eventually("the program is off", Duration::from_secs(5), || {
        !ports().contains("xdpvlan")
    });
}
