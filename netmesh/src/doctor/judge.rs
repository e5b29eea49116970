//! What the facts about a machine mean: pure, one kind of facts a file.

mod clock;
mod forward;
mod kernel;
mod keys;
mod limits;
mod links;
mod pins;
mod ports;
mod tables;
#[cfg(test)]
mod tests;
mod tunnels;

use std::collections::BTreeMap;

use serde::Serialize;

pub use clock::Clock;
pub use forward::WayOut;
pub(super) use forward::forwarding;
pub use keys::{Held, Kind};
pub use limits::Limits;
pub use pins::{Leftover, Serves};
pub use ports::{Below, Occupied, Offers, Port};
pub use tables::{Fill, Tables};
pub use tunnels::{Listener, Tunnel, Way};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Works in another way; nothing to do.
    Note,
    /// Works, slower or with less.
    Warning,
    /// Does not work.
    Error,
}

impl Severity {
    /// As people read it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name: `kernel.version`. Never changes.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen.
    pub found: String,
    /// What it means for us.
    pub meaning: &'static str,
    /// What mends it: a command, where there is one.
    pub remedy: Option<String>,
}

/// An answer that may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is there.
    Yes,
    /// It is not, and why.
    No(String),
    /// It could not be looked at, and why.
    Unknown(String),
}

/// Where pins go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bpffs {
    /// It is mounted.
    Mounted,
    /// It is not; it will be.
    Missing,
    /// It is not among this process' mounts, which are not the machine's.
    Hidden,
}

/// `net.core.bpf_jit_enable`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jit {
    /// Its value.
    Is(String),
    /// This kernel has no such setting.
    Missing,
    /// The namespace that would tell cannot be looked at.
    Unseen,
}

/// What the kernel offers, and how it is set.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its release.
    pub release: String,
    /// The bpf file system.
    pub bpffs: Bpffs,
    /// Links for TC programs.
    pub tcx: Seen,
    /// The clsact qdisc.
    pub clsact: Seen,
    /// Neighbour follower.
    pub follower: Seen,
    /// The compiler of programs.
    pub jit: Jit,
    /// `kernel.unprivileged_bpf_disabled`; `None` where there is no such setting.
    pub unprivileged: Option<String>,
    /// `/sys/kernel/security/lockdown`; `None` where it is not there.
    pub lockdown: Option<String>,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The kernel.
    pub kernel: Kernel,
    /// We are root.
    pub root: bool,
    /// What this process may take.
    pub limits: Limits,
    /// Link kinds and why they cannot be made.
    pub kinds: Result<BTreeMap<&'static str, Option<String>>, String>,
    /// The clock.
    pub clock: Clock,
    /// Why the objects are rejected; `None` where there are none.
    pub objects: Option<Result<(), String>>,
    /// Objects, keys and their folders.
    pub files: Vec<Held>,
    /// UDP ports that the objects ask for.
    pub listeners: Vec<Listener>,
    /// WireGuard devices of this node.
    pub tunnels: Vec<Tunnel>,
    /// Data planes that nobody needs, or that this netmesh does not know.
    pub leftovers: Result<Vec<Leftover>, String>,
    /// Forwarding of IPv6 and IPv4 in this namespace.
    pub forwarding: [Option<String>; 2],
    /// Chains of this namespace that filter or translate what is forwarded.
    pub firewall: Result<Vec<String>, String>,
    /// Ports of the data plane in this namespace.
    pub ports: Result<Vec<Port>, String>,
    /// Devices that have an XDP program of somebody else's.
    pub occupied: Vec<Occupied>,
    /// The kernel's way to the internet by IPv6.
    pub way_out: WayOut,
    /// The tables of the data plane in this namespace, if there is one.
    pub tables: Option<Tables>,
}

/// Every check there is.
pub const CHECKS: [&str; 42] = [
    "kernel.version",
    "kernel.lockdown",
    "kernel.unprivileged_bpf",
    "privileges",
    "bpf.fs",
    "bpf.jit",
    "bpf.btf",
    "limits.files",
    "limits.memlock",
    "tc.attachment",
    "link",
    "link.veth",
    "link.wireguard",
    "link.bridge",
    "link.vlan",
    "link.vrf",
    "link.netkit",
    "clock.time",
    "clock.sync",
    "objects",
    "config.files",
    "keys.files",
    "keys.folders",
    "wireguard.port",
    "mtu.tunnel",
    "pins",
    "pins.dead",
    "pins.layout",
    "ports",
    "port",
    "xdp.mode",
    "xdp.transmit",
    "xdp.tags",
    "xdp.other",
    "forwarding.ipv6",
    "forwarding.ipv4",
    "firewall.forward",
    "sysctl.accept_ra",
    "sysctl.rp_filter",
    "table.fill",
    "neighbours.ipv6",
    "neighbours.ipv4",
];

/// Every finding, in the order in which they should be mended.
#[must_use]
pub fn judge(machine: &Machine) -> Vec<Finding> {
    let mut findings = kernel::judge(&machine.kernel, machine.root);
    findings.extend(limits::judge(&machine.limits, &machine.kernel.release));
    findings.extend(links::judge(&machine.kinds));
    let tunnels = !machine.tunnels.is_empty() || !machine.listeners.is_empty();
    findings.extend(clock::judge(&machine.clock, tunnels));
    findings.extend(keys::judge(machine.objects.as_ref(), &machine.files));
    findings.extend(tunnels::judge(&machine.listeners, &machine.tunnels));
    findings.extend(pins::judge(&machine.leftovers));
    findings.extend(ports::judge(&machine.ports, &machine.occupied));
    if let Ok(ports) = &machine.ports
        && !ports.is_empty()
    {
        findings.extend(forwarding(&machine.forwarding));
        findings.push(forward::firewall(&machine.firewall));
        let routes = machine.forwarding.each_ref().map(|value| {
            let value = value.as_deref();
            value.is_some_and(|value| value != "0")
        });
        findings.extend(forward::advertisements(ports, routes[0], machine.way_out));
        findings.extend(forward::reverse_path(ports, routes[1]));
    }
    if let Some(tables) = &machine.tables {
        findings.extend(tables::judge(tables));
    }
    findings
}

fn ok(check: &'static str, found: impl Into<String>, meaning: &'static str) -> Finding {
    Finding {
        check,
        severity: Severity::Ok,
        found: found.into(),
        meaning,
        remedy: None,
    }
}

impl Finding {
    fn but(mut self, severity: Severity, remedy: impl Into<String>) -> Self {
        self.severity = severity;
        self.remedy = Some(remedy.into());
        self
    }
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    }
}

/// A word as a shell takes it for one.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}
