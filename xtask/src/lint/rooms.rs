//! Who may import whom: the table of ARCHITECTURE.md as data.

use super::path::Named;

/// A room of the library: the rooms it may name, itself left out.
const ROOMS: [(&str, &[&str]); 12] = [
    ("model", &[]),
    ("plan", &["model"]),
    ("kernel", &["plan"]),
    ("wireguard", &["plan"]),
    ("dataplane", &["plan"]),
    ("reconcile", &["plan", "kernel", "wireguard", "dataplane"]),
    (
        "demo",
        &[
            "model",
            "plan",
            "kernel",
            "wireguard",
            "dataplane",
            "reconcile",
        ],
    ),
    (
        "daemon",
        &[
            "plan",
            "kernel",
            "wireguard",
            "dataplane",
            "reconcile",
            "metrics",
        ],
    ),
    (
        "metrics",
        &["plan", "kernel", "wireguard", "dataplane", "reconcile"],
    ),
    (
        "top",
        &["plan", "kernel", "wireguard", "dataplane", "reconcile"],
    ),
    ("doctor", &["plan", "kernel", "dataplane", "reconcile"]),
    (
        "cli",
        &[
            "model",
            "plan",
            "kernel",
            "wireguard",
            "dataplane",
            "reconcile",
            "demo",
            "daemon",
            "metrics",
            "doctor",
            "top",
        ],
    ),
];

/// What a room may name all the same, and why.
const EXCEPTIONS: [(&str, &str); 2] = [
    // The one type the two pure rooms share.
    ("model", "crate::plan::state::PublicKey"),
    // What must not be told.
    ("daemon", "crate::model::fault::hidden"),
];

/// Crates only some rooms may name.
const CRATES: [(&str, &[&str]); 20] = [
    ("aya", &["dataplane"]),
    ("aya_log", &["dataplane"]),
    ("log", &["dataplane"]),
    ("aya_obj", &["dataplane"]),
    ("rtnetlink", &["kernel"]),
    ("netlink_packet_core", &["kernel"]),
    ("genetlink", &["kernel"]),
    ("netlink_packet_generic", &["kernel"]),
    ("netlink_packet_netfilter", &["kernel"]),
    ("netlink_packet_route", &["kernel"]),
    ("netlink_sys", &["kernel"]),
    ("wireguard_control", &["wireguard"]),
    ("boringtun", &["wireguard"]),
    ("clap", &["cli"]),
    ("notify", &["daemon"]),
    ("sd_notify", &["daemon"]),
    ("prometheus_client", &["metrics"]),
    ("hyper", &["metrics"]),
    ("hyper_util", &["metrics"]),
    ("ratatui", &["top"]),
];

/// Rooms without a kernel, a file or a clock, and what they may not name for that.
const PURE: [&str; 2] = ["model", "plan"];
const IMPURE: [&str; 13] = [
    "libc",
    "nix",
    "rustix",
    "std::env",
    "std::fs",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio",
];

/// What the crates that run in the kernel may name; `netmesh-common` runs in user space as well.
const KERNEL_CRATES: [(&str, &[&str]); 2] = [
    ("netmesh-common/src/", &["core"]),
    (
        "netmesh-ebpf/src/",
        &["core", "netmesh_common", "aya_ebpf", "aya_log_ebpf"],
    ),
];
/// The one file of `netmesh-common` that knows user space.
const USER_SIDE: (&str, &str) = ("netmesh-common/src/pod.rs", "aya");
/// Crates that any file might name; the ones a kernel crate may not are told by this.
const OUTSIDE: [&str; 6] = ["std", "alloc", "aya", "netmesh", "libc", "nix"];

/// The room a file belongs to.
pub(crate) fn room(file: &str) -> Option<&str> {
    let rest = file.strip_prefix("netmesh/src/")?;
    let first = rest.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    ROOMS
        .iter()
        .map(|(room, _)| *room)
        .find(|room| *room == name)
}

/// Why a file may not name a path.
pub(crate) fn fault(file: &str, named: &Named) -> Option<String> {
    if let Some((_, allowed)) = KERNEL_CRATES
        .iter()
        .find(|(folder, _)| file.starts_with(folder))
    {
        return kernel_fault(file, named, allowed);
    }
    let room = room(file)?;
    let path = named.segments.join("::");
    if EXCEPTIONS.contains(&(room, path.as_str())) {
        return None;
    }
    if let [first, other, ..] = named.segments.as_slice()
        && first == "crate"
    {
        let is_room = ROOMS.iter().any(|(name, _)| name == other);
        let may = other == room
            || ROOMS
                .iter()
                .any(|(name, allowed)| *name == room && allowed.contains(&other.as_str()));
        return (is_room && !may).then(|| format!("{room} may not know {other}"));
    }
    let outside = named.segments.first()?;
    if let Some((name, rooms)) = CRATES.iter().find(|(name, _)| name == outside)
        && !rooms.contains(&room)
    {
        return Some(format!("{room} may not use {name}"));
    }
    let impure = IMPURE
        .iter()
        .find(|name| path == **name || path.starts_with(&format!("{name}::")))?;
    (PURE.contains(&room) && !named.in_test)
        .then(|| format!("{room} is pure and may not use {impure}"))
}

fn kernel_fault(file: &str, named: &Named, allowed: &[&str]) -> Option<String> {
    let outside = named.segments.first()?.as_str();
    let is_known = OUTSIDE.contains(&outside) || CRATES.iter().any(|(name, _)| *name == outside);
    let may = allowed.contains(&outside) || named.in_test || (file, outside) == USER_SIDE;
    (is_known && !may).then(|| format!("this runs in the kernel and may not use {outside}"))
}

#[cfg(test)]
mod tests {
    use super::super::path::paths;
    use super::super::token::tokens;
    use super::*;

    fn faults(file: &str, text: &str) -> Vec<String> {
        let module: Vec<String> = file
            .trim_end_matches(".rs")
            .split('/')
            .skip(2)
            .map(ToOwned::to_owned)
            .collect();
        paths(&tokens(text), &module)
            .iter()
            .filter_map(|named| fault(file, named))
            .collect()
    }

    #[test]
    fn what_points_back_is_found_however_it_is_written() {
        let says = ["kernel may not know dataplane"];
        for text in [
            "use crate::dataplane::Instance;",
            "use crate::{dataplane::Instance, plan::state::State};",
            "use crate::{\n    plan,\n    dataplane,\n};",
            "use super::super::dataplane;",
            "fn f() -> crate::dataplane::Error { loop {} }",
            "mod tests { use super::super::super::dataplane::Fib; }",
        ] {
            assert_eq!(faults("netmesh/src/kernel/x.rs", text), says, "{text}");
        }
    }

    #[test]
    fn each_room_keeps_to_its_crates() {
        for (file, text, says) in [
            (
                "netmesh/src/cli/x.rs",
                "let x = aya::Ebpf::load(b);",
                "cli may not use aya",
            ),
            (
                "netmesh/src/dataplane/x.rs",
                "use rtnetlink::Handle;",
                "dataplane may not use rtnetlink",
            ),
            (
                "netmesh/src/reconcile.rs",
                "use clap::Parser;",
                "reconcile may not use clap",
            ),
            (
                "netmesh/src/reconcile.rs",
                "use crate::model::Network;",
                "reconcile may not know model",
            ),
            (
                "netmesh/src/plan/x.rs",
                "use std::{fmt, fs::File};",
                "plan is pure and may not use std::fs",
            ),
            (
                "netmesh/src/model/x.rs",
                "let t = std::time::Instant::now();",
                "model is pure and may not use std::time::Instant",
            ),
            (
                "netmesh-common/src/x.rs",
                "use std::vec::Vec;",
                "this runs in the kernel and may not use std",
            ),
            (
                "netmesh-ebpf/src/x.rs",
                "use aya::Pod;",
                "this runs in the kernel and may not use aya",
            ),
        ] {
            assert_eq!(faults(file, text), [says], "{file}: {text}");
        }
    }

    #[test]
    fn what_the_table_allows_passes() {
        for (file, text) in [
            (
                "netmesh/src/reconcile.rs",
                "use crate::{kernel, wireguard, dataplane, plan};",
            ),
            (
                "netmesh/src/dataplane/x.rs",
                "use aya::Ebpf; // crate::cli\nlet s = \"crate::cli\";",
            ),
            (
                "netmesh/src/model/x.rs",
                "use crate::plan::state::PublicKey;",
            ),
            (
                "netmesh/src/plan/x.rs",
                "use std::fmt; use crate::planet::X;",
            ),
            (
                "netmesh-common/src/x.rs",
                "use core::fmt;\n#[cfg(test)]\nmod tests { use std::vec; }",
            ),
            ("netmesh-common/src/pod.rs", "unsafe impl aya::Pod for X {}"),
        ] {
            assert_eq!(faults(file, text), [""; 0], "{file}: {text}");
        }
    }
}
