//! `cargo xtask mutants`: breaks the router on purpose, one line at a time, in a copy of the tree,
//! and shows that the tests see it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::run::{path, root, target};
use crate::setup;

/// One line to break.
struct Mutant {
    name: &'static str,
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
}

const MUTANTS: [Mutant; 6] = [
    Mutant {
        name: "a packet with its last hop is forwarded",
        file: "netmesh-common/src/decide.rs",
        right: "if ip.hop_limit <= 1 {",
        wrong: "if ip.hop_limit < 1 {",
    },
    Mutant {
        name: "the MTU is compared with the payload, 40 bytes too late",
        file: "netmesh-common/src/decide.rs",
        right: "ip.wire.largest, next_hop.mtu)",
        wrong: "ip.wire.largest, next_hop.mtu + 40)",
    },
    Mutant {
        name: "the carries of the IPv4 checksum are lost",
        file: "netmesh-common/src/checksum.rs",
        right: "as u32 + new as u32;\n    sum = (sum & 0xffff) + (sum >> 16);\n    sum = (sum & 0xffff) \
                + (sum >> 16);\n",
        wrong: "as u32 + new as u32;\n    sum &= 0xffff;\n",
    },
    Mutant {
        name: "every source is believed",
        file: "netmesh-common/src/decide.rs",
        right: "Port::SOURCES_BEHIND != 0 && !behind {",
        wrong: "Port::SOURCES_BEHIND != 0 && false {",
    },
    Mutant {
        name: "options hide a spoofed source",
        file: "netmesh-common/src/decide.rs",
        right: "    check_source(&ip.source, &from, ingress, table)?;\n",
        wrong: "    if ip.oddity == header::Oddity::NONE {\n        check_source(&ip.source, &from, \
                ingress, table)?;\n    }\n",
    },
    Mutant {
        name: "what follows the packet is sent along",
        file: "netmesh-ebpf/src/xdp.rs",
        right: "if surplus == 0 {",
        wrong: "if surplus < usize::MAX {",
    },
];

/// Runs them all.
pub(crate) fn run() -> anyhow::Result<()> {
    setup::run()?;
    let tree = target().join("mutants");
    let suites: [(&str, &[&str]); 2] = [
        ("cases", &["test", "--quiet", "--package", "netmesh-common"]),
        (
            "conformance",
            &[
                "test",
                "--quiet",
                "--package",
                "netmesh-tests",
                "--test",
                "conformance",
            ],
        ),
    ];
    copy(&tree)?;
    let tools = tree.join("target").join("tools");
    if !tools.exists() {
        fs::create_dir_all(tree.join("target"))?;
        std::os::unix::fs::symlink(target().join("tools"), &tools)?;
    }
    for (suite, words) in suites {
        if !passes(&tree, words)? {
            bail!("{suite} fails on the tree as it is");
        }
    }
    let mut survived = Vec::new();
    for mutant in &MUTANTS {
        copy(&tree)?;
        mutant.apply(&tree)?;
        for (suite, words) in suites {
            let caught = !passes(&tree, words)?;
            let word = if caught { "caught" } else { "NOT caught" };
            println!("{word} by {suite}: {}", mutant.name);
            // What only the programs do the library's cases cannot see.
            let is_blind = suite == "cases" && mutant.file.starts_with("netmesh-ebpf");
            if !(caught || is_blind) {
                survived.push(format!("{} ({suite})", mutant.name));
            }
        }
    }
    fs::remove_dir_all(&tree).context("the copy could not be removed")?;
    if !survived.is_empty() {
        bail!("not caught: {}", survived.join(", "));
    }
    Ok(())
}

impl Mutant {
    fn apply(&self, tree: &Path) -> anyhow::Result<()> {
        let path = tree.join(self.file);
        let text = fs::read_to_string(&path)?;
        if text.matches(self.right).count() != 1 {
            bail!(
                "{}: {:?} is not there once; mend the list",
                self.file,
                self.right
            );
        }
        fs::write(&path, text.replace(self.right, self.wrong))?;
        Ok(())
    }
}

/// Copies the tree's own files. Time stamps go along, so that only what differs is built again.
fn copy(to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("git could not be started")?;
    let names = String::from_utf8(listed.stdout)?;
    for name in names.lines().map(PathBuf::from) {
        let (from, to) = (root().join(&name), to.join(&name));
        let Ok(text) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|old| old == text) {
            continue;
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&to, text)?;
    }
    Ok(())
}

/// The suite passes; a tree that does not build is neither.
fn passes(tree: &Path, words: &[&str]) -> anyhow::Result<bool> {
    let cargo = |words: &[&str], quiet: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(words).args(quiet).current_dir(tree);
        command.env("CARGO_TARGET_DIR", tree.join("target"));
        command.env("PATH", path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let built = cargo(&["build"], &["--quiet"]).status()?.success()
        && cargo(words, &["--no-run"]).status()?.success();
    if !built {
        bail!(
            "a mutant does not build: cd {} && cargo build",
            tree.display()
        );
    }
    Ok(cargo(words, &[]).status()?.success())
}
