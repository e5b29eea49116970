//! `cargo xtask lint`: the import table of ARCHITECTURE.md as data, and rules no compiler knows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::run::root;

/// A room of the library and the rooms it may name.
const ROOMS: [(&str, &[&str]); 8] = [
    // `plan::state::PublicKey` is the one type the two pure rooms share.
    ("model", &["model", "plan"]),
    ("plan", &["plan", "model"]),
    ("kernel", &["kernel", "plan"]),
    ("wireguard", &["wireguard", "plan"]),
    ("dataplane", &["dataplane", "plan"]),
    (
        "reconcile",
        &["reconcile", "plan", "kernel", "wireguard", "dataplane"],
    ),
    ("demo", &["demo", "plan", "kernel", "wireguard"]),
    (
        "cli",
        &[
            "cli",
            "demo",
            "reconcile",
            "model",
            "plan",
            "kernel",
            "wireguard",
            "dataplane",
        ],
    ),
];

/// Crates only some rooms may name.
const CRATES: [(&str, &[&str]); 6] = [
    ("aya", &["dataplane"]),
    ("rtnetlink", &["kernel"]),
    ("netlink_packet_route", &["kernel"]),
    ("wireguard_control", &["wireguard"]),
    ("boringtun", &["wireguard"]),
    ("clap", &["cli"]),
];

/// Rooms without a kernel, a file or a clock.
const PURE: [&str; 2] = ["model", "plan"];
const IMPURE: [&str; 6] = [
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "tokio",
    "std::time::SystemTime",
];

/// A file that is longer has more than one job.
const MAX_LINES: usize = 620;

/// Checks the work tree.
pub(crate) fn run(stats: bool) -> anyhow::Result<()> {
    let root = root();
    let mut faults = Vec::new();
    let mut files = Vec::new();
    for folder in [
        "netmesh/src",
        "netmesh-common/src",
        "netmesh-ebpf/src",
        "xtask/src",
        "tests",
    ] {
        sources(&root.join(folder), &mut files)?;
    }
    let mut sizes = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file)?;
        let name = file
            .strip_prefix(&root)
            .unwrap_or(file)
            .display()
            .to_string();
        sizes.push(text.lines().count());
        faults.extend(check(&name, &text));
    }
    if stats {
        sizes.sort_unstable();
        let at = |percent: usize| {
            sizes
                .get(sizes.len() * percent / 100)
                .or(sizes.last())
                .copied()
        };
        println!(
            "files {}: lines median {:?}, 90% {:?}, largest {:?}",
            sizes.len(),
            at(50).unwrap_or(0),
            at(90).unwrap_or(0),
            sizes.last().copied().unwrap_or(0)
        );
    }
    for fault in &faults {
        println!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} house rules broken", faults.len());
    }
    println!("    {} files keep the house rules", files.len());
    Ok(())
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The faults of one file.
fn check(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if text.lines().count() > MAX_LINES {
        faults.push(format!(
            "{name}: longer than {MAX_LINES} lines; split it by job"
        ));
    }
    let room = name.strip_prefix("netmesh/src/").map(|rest| {
        rest.split('/')
            .next()
            .unwrap_or_default()
            .trim_end_matches(".rs")
            .to_owned()
    });
    for (i, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let at = format!("{name}:{}", i + 1);
        if let Some(room) = &room {
            faults.extend(imports(&at, room, code));
        }
        // Split, so that this file does not find itself.
        for word in [
            concat!("TO", "DO"),
            concat!("FIX", "ME"),
            concat!("X", "XX"),
        ] {
            if line.contains(word) {
                faults.push(format!("{at}: {word}: finish it or open an issue"));
            }
        }
    }
    faults
}

fn imports(at: &str, room: &str, code: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) {
        for (other, _) in ROOMS {
            if code.contains(&format!("crate::{other}")) && !allowed.contains(&other) {
                faults.push(format!("{at}: {room} may not know {other}"));
            }
        }
    }
    for (name, rooms) in CRATES {
        let named = code.contains(&format!("{name}::")) && !code.contains(&format!("_{name}::"));
        if named && !rooms.contains(&room) {
            faults.push(format!("{at}: {room} may not use {name}"));
        }
    }
    if PURE.contains(&room) {
        for name in IMPURE {
            if code.contains(name) {
                faults.push(format!("{at}: {room} is pure and may not use {name}"));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_import_is_found() {
        let faults = check(
            "netmesh/src/kernel/x.rs",
            "use crate::dataplane::Instance;\n",
        );
        assert_eq!(
            faults,
            ["netmesh/src/kernel/x.rs:1: kernel may not know dataplane"]
        );
        let faults = check("netmesh/src/plan/x.rs", "use std::fs;\n");
        assert_eq!(faults.len(), 1);
        let faults = check("netmesh/src/cli/x.rs", "let x = aya::Ebpf::load(b);\n");
        assert_eq!(faults, ["netmesh/src/cli/x.rs:1: cli may not use aya"]);
    }

    #[test]
    fn what_is_allowed_passes() {
        assert!(check("netmesh/src/reconcile.rs", "use crate::kernel::Kernel;\n").is_empty());
        assert!(
            check(
                "netmesh/src/dataplane/x.rs",
                "use aya::Ebpf; // crate::cli\n"
            )
            .is_empty()
        );
    }

    #[test]
    fn a_long_file_and_a_loose_end_are_found() {
        assert_eq!(
            check("xtask/src/x.rs", &"\n".repeat(MAX_LINES + 1)).len(),
            1
        );
        let text = format!("// {}: later\n", concat!("TO", "DO"));
        assert_eq!(check("xtask/src/x.rs", &text).len(), 1);
    }
}
