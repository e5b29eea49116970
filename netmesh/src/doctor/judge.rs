//! What the facts about a machine mean: pure.

use std::collections::BTreeMap;

use serde::Serialize;

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

/// One port of the data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The device; `None` when it is gone.
    pub name: Option<String>,
    /// Its index.
    pub ifindex: u32,
    /// How the program is attached.
    pub link: &'static str,
    /// What an operator should know.
    pub warning: Option<&'static str>,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The kernel's release.
    pub release: String,
    /// We are root.
    pub root: bool,
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
    /// Link kinds and why they cannot be made.
    pub kinds: Result<BTreeMap<&'static str, Option<String>>, String>,
    /// Forwarding of IPv6 and IPv4 in this namespace.
    pub forwarding: [Option<String>; 2],
    /// Chains of this namespace that filter or translate what is forwarded.
    pub firewall: Result<Vec<String>, String>,
    /// Ports of the data plane in this namespace.
    pub ports: Result<Vec<Port>, String>,
}

/// The oldest kernel we promise.
const OLDEST: (u32, u32) = (6, 1);

/// Every finding, in the order in which they should be mended.
#[must_use]
pub fn judge(machine: &Machine) -> Vec<Finding> {
    let mut findings = vec![version(&machine.release), privileges(machine.root)];
    findings.extend([bpffs(machine.bpffs), jit(&machine.jit)]);
    findings.extend([attachment(machine), follower(&machine.follower)]);
    findings.extend(links(&machine.kinds));
    findings.extend(ports(&machine.ports));
    if machine.ports.as_ref().is_ok_and(|ports| !ports.is_empty()) {
        findings.extend(forwarding(&machine.forwarding));
        findings.push(firewall(&machine.firewall));
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

fn version(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    };
    let found = format!("Linux {release}");
    let finding = ok("kernel.version", found, "netmesh needs Linux 6.1 or later");
    match version {
        Some(version) if version >= OLDEST => finding,
        Some(_) => finding.but(Severity::Error, "install a newer kernel"),
        None => finding.but(Severity::Warning, "compare with `uname -r` yourself"),
    }
}

fn privileges(root: bool) -> Finding {
    let meaning = "namespaces, WireGuard and programs can be made by root only";
    if root {
        ok("privileges", "root", meaning)
    } else {
        ok("privileges", "not root", meaning).but(Severity::Error, "sudo netmesh doctor")
    }
}

fn bpffs(seen: Bpffs) -> Finding {
    let meaning = "pins live there: programs and tables outlive every process";
    match seen {
        Bpffs::Mounted => ok("bpf.fs", "mounted at /sys/fs/bpf", meaning),
        Bpffs::Missing => ok("bpf.fs", "not mounted; apply and attach mount it", meaning)
            .but(Severity::Note, "mount -t bpf -o mode=0700 bpf /sys/fs/bpf"),
        Bpffs::Hidden => ok(
            "bpf.fs",
            "not in this process' mounts, which are not the machine's (`ip netns exec`?)",
            meaning,
        )
        .but(Severity::Error, "from outside: netmesh -n NAME doctor"),
    }
}

fn jit(seen: &Jit) -> Finding {
    let meaning =
        "without it every instruction of the data plane is interpreted: many times slower";
    let value = match seen {
        Jit::Is(value) => value.as_str(),
        Jit::Missing => {
            return ok("bpf.jit", "this kernel has none", meaning)
                .but(Severity::Warning, "use a kernel with CONFIG_BPF_JIT");
        }
        Jit::Unseen => {
            return ok(
                "bpf.jit",
                "unknown: only the initial network namespace tells",
                meaning,
            )
            .but(Severity::Note, "there: sysctl net.core.bpf_jit_enable");
        }
    };
    match value {
        "0" => ok("bpf.jit", "off", meaning)
            .but(Severity::Warning, "sysctl -w net.core.bpf_jit_enable=1"),
        "2" => ok(
            "bpf.jit",
            "on, and writes every program to the kernel's log",
            meaning,
        )
        .but(Severity::Warning, "sysctl -w net.core.bpf_jit_enable=1"),
        _ => ok("bpf.jit", "on", meaning),
    }
}

fn attachment(machine: &Machine) -> Finding {
    let links = "TC programs are held by pinned links";
    let filters = "TC programs go into clsact filters, which cannot be pinned: what somebody else \
                   removes there is put back by the next apply";
    match (&machine.tcx, &machine.clsact) {
        (Seen::Yes, _) => ok("tc.attachment", "TCX", links),
        (_, Seen::Yes) => ok("tc.attachment", "clsact; no TCX (Linux 6.6)", filters).but(
            Severity::Note,
            "a kernel from 6.6 on has links; nothing needs to be done",
        ),
        (_, Seen::No(why)) => ok(
            "tc.attachment",
            format!("neither TCX nor clsact: {why}"),
            "no TC program can be attached: ports without native XDP, and WireGuard, stay with \
             the kernel",
        )
        .but(Severity::Error, "modprobe sch_ingress cls_bpf"),
        (_, Seen::Unknown(why)) => ok("tc.attachment", format!("not seen: {why}"), links)
            .but(Severity::Warning, "sudo netmesh doctor"),
    }
}

fn follower(seen: &Seen) -> Finding {
    let meaning = "a neighbour that changes is known in the data plane at once; without it, when \
                   its route is applied again";
    match seen {
        Seen::Yes => ok("bpf.btf", "describes the kernel's neighbours", meaning),
        Seen::No(why) | Seen::Unknown(why) => ok("bpf.btf", why.clone(), meaning).but(
            Severity::Warning,
            "use a kernel with CONFIG_DEBUG_INFO_BTF (/sys/kernel/btf/vmlinux)",
        ),
    }
}

/// A kind of link, how bad it is when it is missing, and for what it is needed.
const KINDS: [(&str, &str, Severity, &str); 6] = [
    (
        "veth",
        "link.veth",
        Severity::Error,
        "joins exits and segments that are on one node",
    ),
    (
        "wireguard",
        "link.wireguard",
        Severity::Warning,
        "the kernel's WireGuard; without it netmesh serves tunnels itself, in user space, slower \
         and each in a process of its own",
    ),
    (
        "bridge",
        "link.bridge",
        Severity::Warning,
        "segments with more than one exit on this node",
    ),
    (
        "vlan",
        "link.vlan",
        Severity::Note,
        "segments on a VLAN sub-interface",
    ),
    ("vrf", "link.vrf", Severity::Note, "ports in a VRF"),
    ("netkit", "link.netkit", Severity::Note, "ports of netkit"),
];

fn links(kinds: &Result<BTreeMap<&'static str, Option<String>>, String>) -> Vec<Finding> {
    let kinds = match kinds {
        Ok(kinds) => kinds,
        Err(why) => {
            let found = format!("no kind of link was tried: {why}");
            let meaning = "which links this kernel can make is not known";
            return vec![ok("link", found, meaning).but(Severity::Warning, "sudo netmesh doctor")];
        }
    };
    KINDS
        .iter()
        .map(|(kind, check, severity, meaning)| match kinds.get(kind) {
            Some(None) => ok(check, "can be made", meaning),
            Some(Some(why)) => ok(check, why.clone(), meaning).but(*severity, module(kind)),
            None => ok(check, "not tried", meaning).but(*severity, module(kind)),
        })
        .collect()
}

fn module(kind: &str) -> String {
    let module = if kind == "vlan" { "8021q" } else { kind };
    format!("modprobe {module}, or a kernel that has it")
}

fn ports(ports: &Result<Vec<Port>, String>) -> Vec<Finding> {
    let meaning = "where packets meet the data plane";
    match ports {
        Err(why) => vec![
            ok("ports", format!("not seen: {why}"), meaning)
                .but(Severity::Warning, "sudo netmesh doctor"),
        ],
        Ok(ports) => ports
            .iter()
            .map(|port| match (&port.name, port.warning) {
                (None, _) => ok(
                    "port",
                    format!("interface {} is gone or detached", port.ifindex),
                    "its packets take the kernel's way",
                )
                .but(
                    Severity::Error,
                    "netmesh apply, or dataplane attach --port DEV",
                ),
                (Some(name), Some(warning)) => {
                    ok("port", format!("{name} ({})", port.link), warning).but(
                        Severity::Warning,
                        "on its other end: ethtool -K DEV gro on tx off".to_owned(),
                    )
                }
                (Some(name), None) => ok("port", format!("{name} ({})", port.link), meaning),
            })
            .collect(),
    }
}

pub(super) fn forwarding(values: &[Option<String>; 2]) -> Vec<Finding> {
    let names = [
        ("forwarding.ipv6", "net.ipv6.conf.all.forwarding"),
        ("forwarding.ipv4", "net.ipv4.ip_forward"),
    ];
    let meaning = "what the fast path leaves to the kernel is forwarded by it, or dropped";
    names
        .into_iter()
        .zip(values)
        .map(|((check, sysctl), value)| match value.as_deref() {
            Some("0") | None => {
                ok(check, "off", meaning).but(Severity::Warning, format!("sysctl -w {sysctl}=1"))
            }
            Some(_) => ok(check, "on", meaning),
        })
        .collect()
}

fn firewall(chains: &Result<Vec<String>, String>) -> Finding {
    let meaning = "the fast path passes the kernel's firewall by: what a chain drops or \
                   translates on its way through is forwarded as it came";
    let check = "firewall.forward";
    match chains {
        Ok(chains) if chains.is_empty() => ok(check, "no chain for what is forwarded", meaning),
        Ok(chains) => ok(check, chains.join(", "), meaning).but(
            Severity::Warning,
            "filter on the hosts behind the ports, or leave it to the kernel: netmesh dataplane \
             detach",
        ),
        Err(why) => ok(check, format!("not seen: {why}"), meaning)
            .but(Severity::Warning, "sudo netmesh doctor; nft list ruleset"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Machine {
        Machine {
            release: "6.12.90-amd64".into(),
            root: true,
            bpffs: Bpffs::Mounted,
            tcx: Seen::Yes,
            clsact: Seen::Yes,
            follower: Seen::Yes,
            jit: Jit::Is("1".into()),
            kinds: Ok(KINDS.iter().map(|(kind, ..)| (*kind, None)).collect()),
            forwarding: [Some("1".into()), Some("1".into())],
            firewall: Ok(Vec::new()),
            ports: Ok(vec![Port {
                name: Some("eth0".into()),
                ifindex: 2,
                link: "xdp",
                warning: None,
            }]),
        }
    }

    /// The findings that are not as they should be.
    fn bad(change: impl FnOnce(&mut Machine)) -> Vec<(&'static str, Severity)> {
        let mut machine = good();
        change(&mut machine);
        judge(&machine)
            .into_iter()
            .filter(|finding| finding.severity != Severity::Ok)
            .inspect(|finding| assert!(finding.remedy.is_some(), "{finding:?}"))
            .map(|finding| (finding.check, finding.severity))
            .collect()
    }

    #[test]
    fn a_good_machine_has_nothing_to_mend() {
        assert_eq!(bad(|_| ()), []);
    }

    #[test]
    fn each_fault_is_one_finding_with_a_remedy() {
        use Severity::{Error, Note, Warning};
        type Change = fn(&mut Machine);
        let table: [(Change, &'static str, Severity); 17] = [
            (
                |m| m.release = "5.10.0-31-amd64".into(),
                "kernel.version",
                Error,
            ),
            (|m| m.release = "6.0.19".into(), "kernel.version", Error),
            (|m| m.release = "strange".into(), "kernel.version", Warning),
            (|m| m.root = false, "privileges", Error),
            (|m| m.bpffs = Bpffs::Missing, "bpf.fs", Note),
            (|m| m.bpffs = Bpffs::Hidden, "bpf.fs", Error),
            (|m| m.jit = Jit::Is("0".into()), "bpf.jit", Warning),
            (|m| m.jit = Jit::Missing, "bpf.jit", Warning),
            (|m| m.jit = Jit::Unseen, "bpf.jit", Note),
            (|m| m.tcx = Seen::No("6.6".into()), "tc.attachment", Note),
            (
                |m| {
                    m.tcx = Seen::No("6.6".into());
                    m.clsact = Seen::No("ENOENT".into());
                },
                "tc.attachment",
                Error,
            ),
            (
                |m| m.follower = Seen::No("no BTF".into()),
                "bpf.btf",
                Warning,
            ),
            (|m| m.kinds = Err("EPERM".into()), "link", Warning),
            (
                |m| m.forwarding[0] = Some("0".into()),
                "forwarding.ipv6",
                Warning,
            ),
            (
                |m| m.firewall = Ok(vec!["inet filter forward".into()]),
                "firewall.forward",
                Warning,
            ),
            (
                |m| m.firewall = Err("EPERM".into()),
                "firewall.forward",
                Warning,
            ),
            (|m| m.ports.as_mut().unwrap()[0].name = None, "port", Error),
        ];
        for (change, check, severity) in table {
            assert_eq!(bad(change), [(check, severity)]);
        }
    }

    #[test]
    fn a_kind_that_is_missing_is_as_bad_as_what_needs_it() {
        for (kind, check, severity, _) in KINDS {
            let lacks = |machine: &mut Machine| {
                let kinds = machine.kinds.as_mut().unwrap();
                kinds.insert(kind, Some("Operation not supported".into()));
            };
            assert_eq!(bad(lacks), [(check, severity)]);
        }
    }
}
