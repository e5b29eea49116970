//! Packages of the distribution: which are missing, why they are needed, and getting them.

use std::env;
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use anyhow::bail;

use crate::progress;
use crate::run::{is_root, output};

/// A package that is missing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Package {
    /// Its name in Debian.
    pub(crate) name: String,
    /// What cannot be done without it.
    reason: &'static str,
}

/// Packages, the reason for them, and whether what they bring is there.
type Needed = (&'static [&'static str], &'static str, fn() -> bool);

/// What is needed whatever the compiler.
const NEEDED: [Needed; 5] = [
    (
        &["gcc", "libc6-dev"],
        "to link what rustc compiles, and to compile the C in ring",
        compiles_c,
    ),
    (
        &["iproute2"],
        "`ip` and `tc`: the tests' second opinion on what netmesh did",
        has_ip,
    ),
    (
        &["nftables"],
        "a firewall for `netmesh doctor` to find, in the tests",
        has_nft,
    ),
    (
        &["wireguard-tools", "wireguard-go"],
        "a member set up by hand, and another implementation, for the tests to meet",
        has_wireguard,
    ),
    (
        &["systemd"],
        "the units run under a systemd of their own, in the tests",
        has_systemd,
    ),
];

const PATIENCE: Duration = Duration::from_secs(15 * 60);
static UPDATE: Once = Once::new();

impl Package {
    pub(crate) fn new(name: impl Into<String>, reason: &'static str) -> Self {
        Self {
            name: name.into(),
            reason,
        }
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<17} {}", self.name, self.reason)
    }
}

/// The packages that are needed whatever the compiler, and are not there.
pub(crate) fn missing() -> Vec<Package> {
    NEEDED
        .iter()
        .filter(|(_, _, is_there)| !is_there())
        .flat_map(|(names, reason, _)| names.iter().map(|name| Package::new(*name, reason)))
        .collect()
}

/// Installs packages, or says how.
///
/// # Errors
/// When this is no Debian, or not root; the commands to run are in the error.
pub(crate) fn install(packages: &[Package]) -> anyhow::Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    eprintln!("setup: needs of the distribution");
    for package in packages {
        eprintln!("    {package}");
    }
    if !is_debian() {
        bail!(
            "this is not Debian: install what corresponds to\n  {}\nand run\n  cargo xtask setup",
            names.join(" ")
        );
    }
    // Setup adds to a machine and takes nothing away.
    let by_hand = format!(
        "apt-get install -y --no-install-recommends --no-remove {}",
        names.join(" ")
    );
    if !is_root() {
        bail!(
            "packages are missing and this is not root; run\n  sudo apt-get update\n  sudo \
             {by_hand}\n  cargo xtask setup"
        );
    }
    if names.iter().any(|name| candidate(name).is_none()) {
        update();
    }
    let mut command = apt();
    command
        .args(["install", "-y", "--no-install-recommends", "--no-remove"])
        .args(&names);
    progress::step(&by_hand, &mut command, PATIENCE)
}

/// The version apt would install.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let policy = output("apt-cache", &["policy", package])?;
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// What a package depends on directly.
pub(crate) fn depends(package: &str) -> Vec<String> {
    output("apt-cache", &["depends", "--important", package])
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .map(ToOwned::to_owned)
        .collect()
}

/// Fetches the lists of packages, once, where that is possible.
pub(crate) fn update() {
    UPDATE.call_once(|| {
        if !is_root() || !is_debian() {
            return;
        }
        let mut command = apt();
        command.arg("update");
        // The lists that are there may do.
        if let Err(error) = progress::step("apt-get update", &mut command, PATIENCE) {
            eprintln!("    {error}; going on with the lists that are there");
        }
    });
}

/// Whether packages come through apt.
fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && output("apt-get", &["--version"]).is_some()
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// A compiler is there, and the headers of libc.
fn compiles_c() -> bool {
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    Command::new(compiler)
        .args(["-E", "-include", "stdlib.h", "-x", "c", "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn has_wireguard() -> bool {
    output("wg", &["--version"]).is_some() && output("wireguard-go", &["--version"]).is_some()
}

fn has_systemd() -> bool {
    Path::new("/lib/systemd/systemd").exists()
        && output("systemd-analyze", &["--version"]).is_some()
}

fn has_nft() -> bool {
    output("nft", &["--version"]).is_some()
}

fn has_ip() -> bool {
    output("ip", &["-V"]).is_some() && output("tc", &["-V"]).is_some()
}
