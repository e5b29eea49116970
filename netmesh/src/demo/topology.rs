//! The machines and wires of the demo, and the objects on its nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use ipnet::IpNet;

use super::claim::{Claim, FOLDER};
use crate::kernel::{Kernel, ethtool, netns};
use crate::plan::state::{Address, Link, LinkKind, Namespace, Route, RouteAction, RouteKey};
use crate::plan::step::Step;
use crate::wireguard::userspace;

/// Prefix of the machines' names.
const MACHINE: &str = "nmd-";

/// The allocation of the seed.
pub(super) const ALLOCATION: &str = "2a02:1802:5e::/48";

/// The host "on the internet".
pub(super) const INTERNET: &str = "2a02:1800:20::10";

/// One network resource of the demo.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) network: &'static str,
    pub(super) name: &'static str,
    pub(super) node: u8,
    pub(super) index: u16,
    pub(super) exit: bool,
    pub(super) hidden: bool,
}

impl Place {
    /// Its namespace.
    pub(super) fn namespace(&self) -> Namespace {
        Namespace::Named(format!("nm-{}-{}", self.network, self.name))
    }

    /// Its IPv6 address.
    pub(super) fn address(&self) -> std::net::Ipv6Addr {
        std::net::Ipv6Addr::new(0x2a02, 0x1802, 0x5e, self.index, 0, 0, 0, 1)
    }

    /// Its IPv4 address.
    pub(super) fn ipv4(&self) -> std::net::Ipv4Addr {
        let [hi, lo] = self.index.to_be_bytes();
        std::net::Ipv4Addr::new(10, hi, lo, 254)
    }

    /// Its prefix.
    pub(super) fn prefix(&self) -> String {
        format!("2a02:1802:5e:{:x}::/64", self.index)
    }

    /// Its WireGuard interface.
    pub(super) fn tunnel(&self) -> String {
        format!("wg-{:x}", self.index)
    }

    /// `alice/web`.
    pub(super) fn label(&self) -> String {
        format!("{}/{}", self.network, self.name)
    }
}

/// Alice has four resources, one of them hidden; bob has two. Each has an exit.
pub(super) const PLACES: [Place; 6] = [
    Place {
        network: "alice",
        name: "gw",
        node: 1,
        index: 0x101,
        exit: true,
        hidden: false,
    },
    Place {
        network: "alice",
        name: "web",
        node: 2,
        index: 0x10a,
        exit: false,
        hidden: false,
    },
    Place {
        network: "alice",
        name: "db",
        node: 3,
        index: 0xa1c2,
        exit: false,
        hidden: false,
    },
    Place {
        network: "alice",
        name: "home",
        node: 3,
        index: 0x1a0,
        exit: false,
        hidden: true,
    },
    Place {
        network: "bob",
        name: "gw",
        node: 2,
        index: 0x201,
        exit: true,
        hidden: false,
    },
    Place {
        network: "bob",
        name: "shop",
        node: 3,
        index: 0x20a,
        exit: false,
        hidden: false,
    },
];

/// The nodes that run netmesh: machine and node name.
pub(super) const NODES: [(&str, &str); 4] = [
    ("nmd-node-1", "node-1"),
    ("nmd-node-2", "node-2"),
    ("nmd-node-3", "node-3"),
    ("nmd-router", "router"),
];

/// The machines.
const MACHINES: [&str; 8] = [
    "switch", "segment", "node-1", "node-2", "node-3", "router", "provider", "internet",
];

/// The standing lab; dropped, it is torn down.
pub(super) struct Lab {
    folder: PathBuf,
    keep: bool,
}

impl Lab {
    /// Machines, wires, keys and objects; nothing is applied yet.
    pub(super) fn build() -> anyhow::Result<Self> {
        names().take()?;
        let lab = Self {
            folder: PathBuf::from(FOLDER),
            keep: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut kernel = Kernel::default();
            for step in wires() {
                kernel
                    .execute(&step, "demo")
                    .await
                    .with_context(|| step.to_string())?;
            }
            anyhow::Ok(())
        })?;
        offloads()?;
        lab.objects()?;
        Ok(lab)
    }

    /// Leaves it standing.
    pub(super) fn keep(mut self) {
        self.keep = true;
    }

    /// Where the nodes' configuration folders are.
    pub(super) fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// Runs netmesh on one of the nodes.
    pub(super) fn netmesh(&self, machine: &str, arguments: &[&str]) -> anyhow::Result<Answer> {
        netmesh(&self.folder, machine, arguments)
    }

    /// Removes what an earlier run left, and nothing else.
    pub(super) fn sweep() -> anyhow::Result<()> {
        let folder = Path::new(FOLDER);
        let Some(claim) = Claim::left()? else {
            return Ok(());
        };
        for (machine, node) in NODES {
            if netns::path(&Namespace::Named(machine.into())).exists() && folder.join(node).exists()
            {
                // One that was never applied has nothing to destroy; what a crash left beyond
                // the reach of `destroy` goes below.
                if let Err(error) = netmesh(folder, machine, &["destroy", "--yes", "--quiet"]) {
                    tracing::debug!("{error:#}");
                }
            }
        }
        for tunnel in &claim.tunnels {
            userspace::stop(tunnel)?;
        }
        for name in claim.namespaces {
            netns::delete(&Namespace::Named(name))?;
        }
        // Last: until here the names are known to be ours.
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {FOLDER}"))
    }

    fn objects(&self) -> anyhow::Result<()> {
        for (_, node) in NODES {
            let folder = self.folder.join(node);
            fs::create_dir_all(folder.join("networks"))?;
            fs::write(folder.join("node.toml"), node_file(node))?;
        }
        for network in ["alice", "bob"] {
            let mut text = format!("network    = \"{network}\"\nallocation = \"{ALLOCATION}\"\n");
            for place in PLACES.iter().filter(|place| place.network == network) {
                let (machine, _) = NODES[usize::from(place.node) - 1];
                let answer = self.netmesh(machine, &["key", "gen", &place.label()])?;
                text.push_str(&object(place, answer.stdout.trim()));
            }
            for (_, node) in NODES {
                let file = self
                    .folder
                    .join(node)
                    .join("networks")
                    .join(format!("{network}.toml"));
                fs::write(file, &text)?;
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = Self::sweep()
        {
            tracing::error!(
                "the demo could not be torn down, `netmesh demo --clean` tries again: {error:#}"
            );
        }
    }
}

/// What a command said.
pub(super) struct Answer {
    pub(super) code: i32,
    pub(super) stdout: String,
}

/// Runs netmesh as the operator of a machine would.
fn netmesh(folder: &Path, machine: &str, arguments: &[&str]) -> anyhow::Result<Answer> {
    let node = NODES
        .iter()
        .find(|(name, _)| *name == machine)
        .map_or("", |(_, node)| node);
    let output = Command::new("/proc/self/exe")
        .arg("--netns")
        .arg(machine)
        .arg("--config")
        .arg(folder.join(node))
        .args(arguments)
        .output()
        .context("netmesh could not be started")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code().unwrap_or(-1);
    if code != 0 && !arguments.contains(&"--exit-code") {
        bail!(
            "netmesh {} on {machine} ended with {code}:\n{stderr}",
            arguments.join(" ")
        );
    }
    Ok(Answer {
        code,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
    })
}

fn object(place: &Place, key: &str) -> String {
    let mut text = format!(
        "\n[[resource]]\nname       = \"{}\"\nnode       = \"node-{}\"\nprefix     = \"{}\"\n\
         public_key = \"{key}\"\n",
        place.name,
        place.node,
        place.prefix()
    );
    if !place.hidden {
        let port = if place.network == "alice" {
            51820
        } else {
            51821
        };
        text.push_str(&format!(
            "endpoint   = \"[2001:db8:0:1::1{}]:{port}\"\n",
            place.node
        ));
    }
    if place.exit {
        text.push_str("exit       = { }\n");
    }
    text
}

fn node_file(node: &str) -> String {
    match node {
        // One exit through a bridge and a veth, the other as a macvlan on the NIC.
        "node-1" => "node = \"node-1\"\n[segment]\nparent = \"br-seg\"\n".to_owned(),
        "node-2" => "node = \"node-2\"\n[segment]\nparent = \"eth1\"\n".to_owned(),
        "router" => format!(
            "node = \"router\"\n[router]\nallocations = [\"{ALLOCATION}\"]\nuplink = \"eth0\"\n\
             uplink_addresses = [\"2a02:1800:10:1052::5/127\"]\n\
             gateway = \"2a02:1800:10:1052::4\"\nsegment = \"eth1\"\n"
        ),
        other => format!("node = \"{other}\"\n"),
    }
}

/// Every name of the machine's that the demo takes.
fn names() -> Claim {
    let machines = MACHINES.iter().map(|machine| format!("{MACHINE}{machine}"));
    let resources = PLACES.iter().map(|place| place.namespace().to_string());
    Claim {
        namespaces: machines.chain(resources).collect(),
        tunnels: PLACES.iter().map(Place::tunnel).collect(),
    }
}

/// All machines and wires, as steps.
fn wires() -> Vec<Step> {
    let mut steps = Vec::new();
    for machine in MACHINES {
        steps.push(Step::AddNamespace {
            namespace: at(machine),
        });
    }
    steps.push(bridge("switch", "br0"));
    steps.push(bridge("segment", "br0"));
    steps.push(bridge("node-1", "br-seg"));
    for node in ["node-1", "node-2", "node-3"] {
        steps.extend(wire((node, "eth0", None), ("switch", node, Some("br0"))));
    }
    steps.extend(wire(
        ("node-1", "eth1", Some("br-seg")),
        ("segment", "node-1", Some("br0")),
    ));
    steps.extend(wire(
        ("node-2", "eth1", None),
        ("segment", "node-2", Some("br0")),
    ));
    steps.extend(wire(
        ("router", "eth1", None),
        ("segment", "router", Some("br0")),
    ));
    steps.extend(wire(("router", "eth0", None), ("provider", "eth0", None)));
    steps.extend(wire(("internet", "eth0", None), ("provider", "eth1", None)));
    for (machine, link, address) in [
        ("node-1", "eth0", "2001:db8:0:1::11/64"),
        ("node-2", "eth0", "2001:db8:0:1::12/64"),
        ("node-3", "eth0", "2001:db8:0:1::13/64"),
        ("provider", "eth0", "2a02:1800:10:1052::4/127"),
        ("provider", "eth1", "2a02:1800:20::1/64"),
        ("internet", "eth0", "2a02:1800:20::10/64"),
    ] {
        steps.extend(address.parse().ok().map(|address| Step::AddAddress {
            namespace: at(machine),
            address: Address {
                link: link.into(),
                address,
            },
        }));
    }
    steps.push(Step::SetSysctl {
        namespace: at("provider"),
        path: "net/ipv6/conf/all/forwarding".into(),
        value: "1".into(),
        old: None,
    });
    steps.extend(route(
        "provider",
        ALLOCATION,
        "2a02:1800:10:1052::5",
        "eth0",
    ));
    steps.extend(route("internet", "::/0", "2a02:1800:20::1", "eth0"));
    steps
}

fn at(machine: &str) -> Namespace {
    Namespace::Named(format!("{MACHINE}{machine}"))
}

fn bridge(machine: &str, name: &str) -> Step {
    let link = Link {
        kind: LinkKind::Bridge,
        alias: None,
        mtu: None,
        master: None,
        up: true,
    };
    Step::AddLink {
        namespace: at(machine),
        name: name.into(),
        link,
    }
}

/// One end of a wire: machine, interface, bridge it is plugged into.
type End<'a> = (&'a str, &'a str, Option<&'a str>);

fn wire(one: End<'_>, two: End<'_>) -> [Step; 2] {
    let link = |peer: End<'_>, master: Option<&str>| Link {
        kind: LinkKind::Veth {
            peer: peer.1.into(),
            peer_namespace: at(peer.0),
        },
        alias: None,
        mtu: None,
        master: master.map(ToOwned::to_owned),
        up: true,
    };
    [
        Step::AddLink {
            namespace: at(one.0),
            name: one.1.into(),
            link: link(two, one.2),
        },
        Step::SetLink {
            namespace: at(two.0),
            name: two.1.into(),
            link: link(one, two.2),
        },
    ]
}

fn route(machine: &str, destination: &str, gateway: &str, link: &str) -> Option<Step> {
    let destination: IpNet = destination.parse().ok()?;
    let action = RouteAction::Via {
        gateway: gateway.parse().ok(),
        link: link.into(),
    };
    let route = Route {
        action,
        source: None,
    };
    Some(Step::PutRoute {
        namespace: at(machine),
        key: RouteKey::new(destination),
        route,
        old: None,
    })
}

/// What a wire between real machines does: it carries whole checksums, and a port that takes
/// frames from XDP runs NAPI.
fn offloads() -> anyhow::Result<()> {
    for (machine, link) in [
        ("internet", "eth0"),
        ("provider", "eth0"),
        ("provider", "eth1"),
        ("node-1", "eth1"),
        ("node-2", "eth1"),
    ] {
        ethtool::set_tx_checksum(&at(machine), link, false)?;
    }
    for (machine, link) in [("segment", "router"), ("provider", "eth0")] {
        ethtool::set_gro(&at(machine), link, true)?;
    }
    Ok(())
}
