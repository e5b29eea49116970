//! What must not leave an exit or a router of a mesh: packets to prefixes nobody has, packets in
//! clear, neighbour solicitations for a scan.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use netmesh::demo::traffic::ping;
use netmesh::plan::state::Namespace;
use netmesh_tests::field::contains;
use netmesh_tests::stack::{Ports, probe};
use netmesh_tests::wire::{ETHERNET, IPV6, Wire, datagram, frame, mac};
use netmesh_tests::{ALLOCATION, INTERNET, Lab, RESOURCES, Resource, eventually};

const PROVIDER: Ipv6Addr = Ipv6Addr::new(0x2a02, 0x1800, 0x10, 0x1052, 0, 0, 0, 4);
const MARK: u16 = 0x7a7b;
const PATIENCE: Duration = Duration::from_secs(5);

fn lab() -> Lab {
    let lab = Lab::mesh();
    lab.apply_all();
    meets(&lab, &RESOURCES[1]);
    lab
}

fn meets(lab: &Lab, resource: &Resource) {
    let (here, address) = (lab.resource(resource.name), lab.address(resource).into());
    eventually("the internet answers", Duration::from_secs(10), || {
        let one = ping(&here, address, INTERNET.into(), 104, 1).expect("a socket");
        one.received == 1
    });
}

/// Frames of the provider to the router.
struct Provider {
    wire: Wire,
    own: [u8; 6],
    router: [u8; 6],
}

impl Provider {
    fn of(lab: &Lab) -> Self {
        Self {
            wire: Wire::open(&lab.at("provider"), "eth0"),
            own: mac(&lab.at("provider"), "eth0"),
            router: mac(&lab.at("router"), "eth0"),
        }
    }

    fn send(&self, packet: &[u8]) {
        self.wire.send(&frame(self.router, self.own, IPV6, packet));
    }

    /// Frames of the router with this port in them that are here already.
    fn came_back(&self, port: u16) -> usize {
        std::iter::from_fn(|| self.wire.next())
            .filter(|frame| frame[6..12] == self.router && contains(frame, port))
            .filter(|frame| frame[ETHERNET + 6] == 17)
            .count()
    }
}

/// A /64 of the allocation that nobody has is unreachable: told to the sender, and not sent back
/// to the provider by the default route.
#[test]
fn a_prefix_nobody_has_is_answered_and_not_sent_around() {
    let lab = lab();
    let base: Ipv6Addr = ALLOCATION.trim_end_matches("/48").parse().expect("a block");
    let mut nobody = base.segments();
    (nobody[3], nobody[7]) = (0xfffe, 1);
    let nobody = Ipv6Addr::from(nobody);
    let provider = Provider::of(&lab);
    let there = lab.at("provider");
    let mut told = None;
    eventually("an answer", Duration::from_secs(10), || {
        told = probe(
            &there,
            PROVIDER.into(),
            SocketAddr::new(nobody.into(), 33_434),
            64,
        );
        told.is_some()
    });
    let told = told.expect("it is told");
    assert_eq!(told.kind, 1, "destination unreachable: {told:?}");
    assert_eq!(
        told.by,
        "2a02:1800:10:1052::5"
            .parse::<IpAddr>()
            .expect("the router's uplink")
    );
    for _ in 0..20 {
        provider.send(&datagram(INTERNET.into(), nobody.into(), 64, MARK, 80));
    }
    // What follows the default route in circles would be here before an answer to this.
    let answered = ping(
        &there,
        PROVIDER.into(),
        lab.address(&RESOURCES[1]).into(),
        104,
        2,
    );
    assert_eq!(answered.expect("a socket").received, 2);
    assert_eq!(provider.came_back(MARK), 0, "sent around");
    assert!(Ports::of(&lab.at("router")).punted("action") >= 20);
}

/// Without its WireGuard device a member's prefix does not follow the exit's default route in
/// clear.
#[test]
fn nothing_leaves_an_exit_in_clear_when_its_tunnel_is_gone() {
    let lab = lab();
    let (web, exit) = (IpAddr::V6(lab.address(&RESOURCES[1])), lab.resource("gw"));
    let index = lab.address(&RESOURCES[0]).segments()[3];
    let gone = Command::new("ip")
        .args([
            "-n",
            &exit.to_string(),
            "link",
            "del",
            &format!("wg-{index:x}"),
        ])
        .status();
    assert!(gone.expect("ip starts").success());
    let segment = Wire::open(&exit, &format!("ex-{index:x}"));
    let own = mac(&exit, &format!("ex-{index:x}"));
    let provider = Provider::of(&lab);
    for n in 0..20 {
        provider.send(&datagram(INTERNET.into(), web, 64, MARK + n, 80));
    }
    // They come in, and none goes out again.
    let arrived = segment.wait(PATIENCE, |frame| contains(frame, MARK + 19));
    assert!(arrived.is_some(), "the exit gets them");
    let left = std::iter::from_fn(|| segment.next()).filter(|frame| {
        let is_marked = (0..20).any(|n| contains(frame, MARK + n));
        // Errors about them quote them.
        frame[6..12] == own && is_marked && frame[ETHERNET + 6] == 17
    });
    assert_eq!(left.count(), 0, "in clear on the segment");
}

/// A scan of a member's prefix makes no neighbour entry on router and exit: prefixes are routed to
/// link-local next hops, not resolved address by address (RFC 6583).
#[test]
fn a_scan_makes_no_neighbours() {
    let lab = lab();
    let neighbours = |namespace: &Namespace| {
        let shown = Command::new("ip")
            .args(["-n", &namespace.to_string(), "-6", "neigh", "show"])
            .output()
            .expect("ip starts");
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        text.lines()
            .filter(|line| line.starts_with("2a02:1802"))
            .count()
    };
    let machines = [lab.at("router"), lab.resource("gw")];
    let before = machines.each_ref().map(neighbours);
    let forwarded = machines.each_ref().map(|m| Ports::of(m).forwarded());
    let provider = Provider::of(&lab);
    let mut address = lab.address(&RESOURCES[1]).segments();
    for n in 0..500_u16 {
        (address[5], address[6], address[7]) = (n, n ^ 0x5555, n.rotate_left(7));
        let scanned = Ipv6Addr::from(address);
        provider.send(&datagram(INTERNET.into(), scanned.into(), 64, MARK, 80));
    }
    for (machine, before) in machines.iter().zip(forwarded) {
        eventually("the scan is forwarded", PATIENCE, || {
            Ports::of(machine).forwarded() >= before + 500
        });
    }
    assert_eq!(machines.each_ref().map(neighbours), before);
}

/// A prefix that two members exchange goes to its new owner: no peer keeps what another has now.
#[test]
fn prefixes_that_change_hands_go_to_their_new_owners() {
    let lab = lab();
    let [exit, web, home] = RESOURCES;
    let swapped = [
        exit,
        Resource {
            index: home.index,
            ..web
        },
        Resource {
            index: web.index,
            ..home
        },
    ];
    lab.write_network(&swapped);
    lab.apply_all();
    lab.assert_settled();
    for resource in &swapped[1..] {
        meets(&lab, resource);
        let back = ping(
            &lab.at("provider"),
            INTERNET.into(),
            lab.address(resource).into(),
            1420,
            2,
        );
        assert_eq!(back.expect("a socket").received, 2, "to {}", resource.name);
    }
    let (one, two) = (lab.address(&swapped[1]), lab.address(&swapped[2]));
    let pings = ping(&lab.resource("web"), one.into(), two.into(), 104, 2).expect("a socket");
    assert_eq!(pings.received, 2, "web and home meet");
}
