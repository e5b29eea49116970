//! Two hosts and a router between them, without any object.
//!
//! ```text
//!   left ── port0 router port1 ── right      2a02:1812:1::/64, 100.81.1.0/24 on the left,
//!   eth0                          eth0       2a02:1812:2::/64, 100.81.2.0/24 on the right
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use netmesh::kernel::{ethtool, netns};

use crate::{Lab, OutputText as _, within};

/// The left host.
pub const LEFT: Ipv6Addr = Ipv6Addr::new(0x2a02, 0x1812, 1, 0, 0, 0, 0, 2);
/// The right host.
pub const RIGHT: Ipv6Addr = Ipv6Addr::new(0x2a02, 0x1812, 2, 0, 0, 0, 0, 2);
/// The left host, IPv4.
pub const LEFT4: Ipv4Addr = Ipv4Addr::new(100, 81, 1, 2);
/// The right host, IPv4.
pub const RIGHT4: Ipv4Addr = Ipv4Addr::new(100, 81, 2, 2);
/// The router as the left host's gateway.
pub const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2a02, 0x1812, 1, 0, 0, 0, 0, 1);
/// The router as the left host's gateway, IPv4.
pub const ROUTER4: Ipv4Addr = Ipv4Addr::new(100, 81, 1, 1);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Every hook an Ethernet port has, as `dataplane attach --hook` names it.
pub const HOOKS: [&str; 3] = ["xdp", "xdp-generic", "tc"];

/// The ends of both families: left, right.
#[must_use]
pub fn ends() -> [(IpAddr, IpAddr); 2] {
    [(LEFT.into(), RIGHT.into()), (LEFT4.into(), RIGHT4.into())]
}

impl Lab {
    /// Wires and addresses; the router forwards in the kernel, and has no data plane yet.
    #[must_use]
    pub fn pair() -> Self {
        // Without resources a lab needs no indexes, of which there are few.
        let (number, pid) = (COUNTER.fetch_add(1, Ordering::Relaxed), std::process::id());
        let mut lab = Self {
            id: format!("nmt-{pid}-p{number}"),
            network: format!("p{number:x}x{pid:x}"),
            base: 0,
            machines: Vec::new(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            keys: BTreeMap::new(),
        };
        for machine in ["left", "router", "right"] {
            lab.machine(machine);
        }
        for (host, port, network) in [("left", "port0", 1), ("right", "port1", 2)] {
            lab.wire((host, "eth0"), ("router", port));
            let (six, four) = (
                format!("2a02:1812:{network}::"),
                format!("100.81.{network}."),
            );
            lab.ip("router", &format!("addr add {six}1/64 dev {port} nodad"));
            lab.ip("router", &format!("addr add {four}1/24 dev {port}"));
            lab.ip(host, &format!("addr add {six}2/64 dev eth0 nodad"));
            lab.ip(host, &format!("addr add {four}2/24 dev eth0"));
            lab.ip(host, &format!("route add default via {six}1"));
            lab.ip(host, &format!("route add default via {four}1"));
            // Frames that XDP sends into a veth are lost unless its other end runs NAPI.
            ethtool::set_gro(&lab.at(host), "eth0", true).expect("GRO on");
        }
        lab.set("router", "net/ipv6/conf/all/forwarding", "1");
        lab.set("router", "net/ipv4/ip_forward", "1");
        lab
    }

    /// What a wire between real machines does to the hosts' frames: their checksums are whole.
    pub fn whole_checksums(&self, whole: bool) {
        for host in ["left", "right"] {
            ethtool::set_tx_checksum(&self.at(host), "eth0", !whole).expect("a switch");
        }
    }

    /// Attaches both ports of [`Lab::pair`] and gives the data plane a route to either host. The
    /// other addresses of both subnets stay the kernel's.
    pub fn attach_pair(&self, hook: &str, sources: &str) {
        let _ = self.netmesh(
            "router",
            &[
                "dataplane",
                "attach",
                "--hook",
                hook,
                "--sources",
                sources,
                "--port",
                "port0",
                "--port",
                "port1",
            ],
        );
        for (host, port) in [
            (IpAddr::V6(LEFT), "port0"),
            (LEFT4.into(), "port0"),
            (RIGHT.into(), "port1"),
            (RIGHT4.into(), "port1"),
        ] {
            let host = host.to_string();
            let _ = self.netmesh(
                "router",
                &["route", "replace", &host, "via", &host, "dev", port],
            );
        }
        self.resolved("router");
    }

    /// Waits until every next hop of a machine's data plane is resolved.
    pub fn resolved(&self, machine: &str) {
        self.unresolved(machine, 0);
    }

    /// Waits until so many routes of a machine's data plane have an unresolved next hop.
    pub fn unresolved(&self, machine: &str, routes: usize) {
        // The follower may miss a change (see there). A neighbour has its next one after
        // 1.5 `base_reachable_time_ms`, `delay_first_probe_time` and `interval_probe_time_ms`.
        let patience = Duration::from_secs(75);
        let came = within(patience, || {
            self.json(machine, &["dataplane", "status"])["instance"]["unresolved"] == routes
        });
        assert!(
            came,
            "not {routes} unresolved on {machine} after {patience:?}:\n{}\n{}",
            self.netmesh(machine, &["route", "show"]).stdout_text(),
            std::process::Command::new("ip")
                .args(["-s", "-n", &self.name(machine), "neigh", "show"])
                .output()
                .map_or_else(|error| error.to_string(), |output| output.stdout_text())
        );
    }

    /// Sets a sysctl of a machine.
    pub fn set(&self, machine: &str, name: &str, value: &str) {
        netns::run_in(&self.at(machine), || {
            std::fs::write(format!("/proc/sys/{name}"), value).expect("a sysctl");
        })
        .expect("a machine");
    }
}
