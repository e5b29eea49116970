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
    /// What it is called on the command line.
    name: &'static str,
    /// What is wrong then.
    sentence: &'static str,
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
    /// The suites that must see it.
    suites: &'static [Suite],
}

/// Packets and what must become of them, in user space; the same frames on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Suite {
    Cases,
    Conformance,
}

const ALL: &[Suite] = &[Suite::Cases, Suite::Conformance];

const MUTANTS: [Mutant; 7] = [
    Mutant {
        name: "hop-limit",
        sentence: "a packet with its last hop is forwarded",
        file: "netmesh-common/src/decide.rs",
        right: "if ip.hop_limit <= 1 {",
        wrong: "if ip.hop_limit < 1 {",
        suites: ALL,
    },
    Mutant {
        name: "mtu",
        sentence: "the MTU is compared with the payload, 40 bytes too late",
        file: "netmesh-common/src/decide.rs",
        right: "ip.wire.largest, next_hop.mtu)",
        wrong: "ip.wire.largest, next_hop.mtu + 40)",
        suites: ALL,
    },
    Mutant {
        name: "checksum",
        sentence: "the carries of the IPv4 checksum are lost",
        file: "netmesh-common/src/checksum.rs",
        right: "as u32 + new as u32;\n    sum = (sum & 0xffff) + (sum >> 16);\n    sum = (sum & 0xffff) \
                + (sum >> 16);\n",
        wrong: "as u32 + new as u32;\n    sum &= 0xffff;\n",
        suites: ALL,
    },
    Mutant {
        name: "source",
        sentence: "every source is believed",
        file: "netmesh-common/src/decide.rs",
        right: "Port::SOURCES_BEHIND != 0 && !behind {",
        wrong: "Port::SOURCES_BEHIND != 0 && false {",
        suites: ALL,
    },
    Mutant {
        name: "options",
        sentence: "options hide a spoofed source",
        file: "netmesh-common/src/decide.rs",
        right: "    check_source(&ip.source, &from, ingress, table)?;\n",
        wrong: "    if ip.oddity == header::Oddity::NONE {\n        check_source(&ip.source, &from, \
                ingress, table)?;\n    }\n",
        suites: ALL,
    },
    Mutant {
        name: "tags",
        sentence: "a priority tag hides a spoofed source",
        file: "netmesh-common/src/header.rs",
        right: "ETHERTYPE_VLAN | ETHERTYPE_QINQ if ingress.port.is_checked() => {",
        wrong: "ETHERTYPE_VLAN | ETHERTYPE_QINQ if false => {",
        suites: ALL,
    },
    Mutant {
        name: "trailer",
        sentence: "what follows the packet is sent along",
        file: "netmesh-ebpf/src/xdp.rs",
        right: "if surplus == 0 {",
        wrong: "if surplus < usize::MAX {",
        // What only the programs do nothing in user space can see.
        suites: &[Suite::Conformance],
    },
];

/// Every mutant's name.
pub(crate) const NAMES: [&str; MUTANTS.len()] = {
    let mut names = [""; MUTANTS.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = MUTANTS[i].name;
        i += 1;
    }
    names
};

/// Runs those of these names, or all.
pub(crate) fn run(wanted: &[String]) -> anyhow::Result<()> {
    setup::run()?;
    let tree = target().join("mutants");
    copy(&tree)?;
    seed(&tree)?;
    let mutants = || {
        let chosen =
            |mutant: &&Mutant| wanted.is_empty() || wanted.iter().any(|w| w == mutant.name);
        MUTANTS.iter().filter(chosen)
    };
    for suite in [Suite::Cases, Suite::Conformance] {
        if mutants().any(|mutant| mutant.suites.contains(&suite))
            && let Some(said) = suite.fails(&tree)?
        {
            bail!("{} fails on the tree as it is: {said}", suite.name());
        }
    }
    let mut survived = Vec::new();
    for mutant in mutants() {
        copy(&tree)?;
        mutant.apply(&tree)?;
        for suite in mutant.suites {
            match suite.fails(&tree)? {
                Some(said) => println!(
                    "{}: {}: caught by {}: {said}",
                    mutant.name,
                    mutant.sentence,
                    suite.name()
                ),
                None => survived.push(format!("{} ({})", mutant.name, suite.name())),
            }
        }
    }
    copy(&tree)?;
    if !survived.is_empty() {
        bail!("not caught: {}", survived.join(", "));
    }
    Ok(())
}

impl Suite {
    const fn name(self) -> &'static str {
        match self {
            Self::Cases => "cases",
            Self::Conformance => "conformance",
        }
    }

    const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Cases => &["--package", "netmesh-common", "--test", "decide"],
            Self::Conformance => &["--package", "netmesh-tests", "--test", "conformance"],
        }
    }

    /// What it says when it fails; `None` when it passes. A tree that does not build does neither.
    fn fails(self, tree: &Path) -> anyhow::Result<Option<String>> {
        eprintln!("==> {}", self.name());
        if self == Self::Conformance {
            // The suite starts the command line tool.
            let built = cargo(tree, &["build", "--quiet", "--package", "netmesh"]).status()?;
            if !built.success() {
                bail!("it does not build: cd {} && cargo build", tree.display());
            }
        }
        let test = [&["test", "--quiet"], self.words()].concat();
        let built = cargo(tree, &[&test[..], &["--no-run"]].concat()).status()?;
        if !built.success() {
            bail!("it does not build: cd {} && cargo build", tree.display());
        }
        let output = cargo(tree, &test).stdout(Stdio::piped()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            return Ok(None);
        }
        // A test that could not begin has seen nothing.
        let mut lines = text
            .lines()
            .skip_while(|line| !line.contains("panicked at"));
        match lines.nth(1) {
            Some(said) => Ok(Some(said.trim().chars().take(120).collect())),
            None => bail!("{} ended without a word of why", self.name()),
        }
    }
}

/// The workspace's own packages.
const MEMBERS: [&str; 5] = [
    "netmesh",
    "netmesh-common",
    "netmesh-ebpf",
    "netmesh-tests",
    "xtask",
];

/// What others have written is built once: hard links, as nobody changes it. What is built of the
/// workspace has the same names in both trees and must not be shared.
fn seed(tree: &Path) -> anyhow::Result<()> {
    let (from, to) = (target(), tree.join("target"));
    if to.join("debug").exists() {
        return Ok(());
    }
    // Under another name until nothing is shared that could be written to.
    let new = tree.join("target").join("linked");
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(new.join("debug"))?;
    for folder in ["build", "deps", ".fingerprint"] {
        let mut link = Command::new("cp");
        link.args(["--archive", "--link"]);
        link.arg(from.join("debug").join(folder));
        link.arg(new.join("debug").join(folder));
        // What goes away meanwhile, as a build runs, is built again here.
        link.stderr(Stdio::null());
        link.status().context("cp could not be started")?;
    }
    let mut clean = cargo(tree, &["clean"]);
    clean.env("CARGO_TARGET_DIR", &new);
    for member in MEMBERS {
        clean.args(["--package", member]);
    }
    if !clean.status()?.success() {
        bail!("cargo clean failed in {}", tree.display());
    }
    let tools = to.join("tools");
    if !tools.exists() {
        std::os::unix::fs::symlink(from.join("tools"), &tools)?;
    }
    fs::rename(new.join("debug"), to.join("debug"))?;
    fs::remove_dir_all(&new)?;
    Ok(())
}

/// A cargo command in the copy, without a word.
fn cargo(tree: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command
        .args(words)
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", tree.join("target"))
        .env("PATH", path())
        .env("RUST_BACKTRACE", "0")
        // As few as show the breaks, by one hook.
        .env("NETMESH_CONFORMANCE_CASES", "6000")
        .env("NETMESH_CONFORMANCE_MODES", "xdp")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
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
    // Cases that a break before this one has left behind.
    let _ = fs::remove_dir_all(to.join("tests").join("conformance"));
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
