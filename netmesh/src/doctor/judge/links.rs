//! Which kinds of links the kernel can make.

use std::collections::BTreeMap;

use super::{Finding, Severity, ok};

/// A kind of link, how bad it is when it is missing, and for what it is needed.
pub(super) const KINDS: [(&str, &str, Severity, &str); 6] = [
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

pub(super) fn judge(
    kinds: &Result<BTreeMap<&'static str, Option<String>>, String>,
) -> Vec<Finding> {
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
