//! `cargo xtask setup`: the eBPF toolchain, found or installed.
//!
//! Two things are needed beyond stable Rust: a compiler that has the source of `core` (for
//! `-Z build-std`), and `bpf-linker` with an LLVM at least as new as that compiler's.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::run::{is_root, output, step, tools};

/// The rustup name under which the distribution's compiler is linked.
const LINKED: &str = "netmesh-bpf";
/// The linker's version; any LLVM can be chosen for it.
const BPF_LINKER: &str = "0.13.0";
/// The distribution's compilers that carry their sources, best first.
const COMPILERS: [[&str; 3]; 2] = [
    ["rustc-web", "cargo-web", "rust-web-src"],
    ["rustc", "cargo", "rust-src"],
];
/// Edition 2024.
const OLDEST_MINOR: u32 = 85;

/// Sets up what is missing; costs nothing when all is there.
pub(crate) fn run() -> anyhow::Result<()> {
    let toolchain = match toolchain() {
        Some(found) => found,
        None => install_toolchain()?,
    };
    let llvm = llvm_of(&toolchain)
        .with_context(|| format!("`rustc -vV` of {toolchain} names no LLVM version"))?;
    println!("setup: compiler for eBPF: rustup toolchain {toolchain} (LLVM {llvm})");
    match output("bpf-linker", &["--version"]) {
        Some(version) => println!("setup: {}", version.trim()),
        None => install_linker(llvm)?,
    }
    Ok(())
}

/// A toolchain that has the source of `core`; the same choice as `netmesh/build.rs` makes.
fn toolchain() -> Option<String> {
    let named = std::env::var("NETMESH_BPF_TOOLCHAIN").ok();
    let candidates = named
        .into_iter()
        .chain(["nightly".to_owned(), LINKED.to_owned()]);
    candidates.into_iter().find(|name| has_core_source(name))
}

fn has_core_source(toolchain: &str) -> bool {
    output("rustup", &["run", toolchain, "rustc", "--print", "sysroot"]).is_some_and(|root| {
        Path::new(root.trim())
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .exists()
    })
}

fn install_toolchain() -> anyhow::Result<String> {
    if output("rustup", &["--version"]).is_none() {
        bail!("rustup is not there; install it from https://rustup.rs");
    }
    // The usual way, where rustup can download. It fails fast where it cannot.
    let nightly = [
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ];
    println!("setup: trying rustup {}", nightly.join(" "));
    if output("rustup", &nightly).is_some() && has_core_source("nightly") {
        return Ok("nightly".to_owned());
    }
    println!("setup: rustup cannot download it; taking the distribution's compiler");
    let packages = COMPILERS
        .iter()
        .find(|packages| candidate(packages[0]).is_some_and(|minor| minor >= OLDEST_MINOR));
    let packages = match packages {
        Some(packages) => packages,
        None => {
            apt_update()?;
            COMPILERS
                .iter()
                .find(|packages| candidate(packages[0]).is_some_and(|minor| minor >= OLDEST_MINOR))
                .context(
                    "neither rustup nor this distribution offers a compiler with its sources; run\n  \
                     rustup toolchain install nightly --component rust-src\n\
                     on a machine that can download it",
                )?
        }
    };
    apt_install(packages)?;
    step(
        "link /usr as a rustup toolchain",
        Command::new("rustup").args(["toolchain", "link", LINKED, "/usr"]),
    )?;
    if !has_core_source(LINKED) {
        bail!(
            "{} are installed and /usr/lib/rustlib/src is still missing",
            packages.join(", ")
        );
    }
    Ok(LINKED.to_owned())
}

fn install_linker(llvm: u32) -> anyhow::Result<()> {
    let dev = format!("llvm-{llvm}-dev");
    let polly = format!("libpolly-{llvm}-dev");
    if !Path::new(&format!("/usr/lib/llvm-{llvm}/bin/llvm-config")).exists()
        || !Path::new("/usr/include/zstd.h").exists()
    {
        apt_install(&[&dev, &polly, "libzstd-dev"])?;
    }
    fs::create_dir_all(tools())?;
    let root = tools();
    let mut command = Command::new("cargo");
    command
        .args([
            "install",
            "bpf-linker",
            "--version",
            BPF_LINKER,
            "--no-default-features",
        ])
        .args(["--features", &format!("llvm-{llvm}"), "--locked", "--root"])
        .arg(&root)
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
    step("build bpf-linker (about a minute, once)", &mut command)?;
    output("bpf-linker", &["--version"]).with_context(|| {
        format!(
            "bpf-linker was built into {} and does not run",
            root.display()
        )
    })?;
    Ok(())
}

/// Packages the tests use beyond the product's own needs.
pub(crate) fn test_packages() -> anyhow::Result<()> {
    // `ip` and `tc`: the tests' second opinion on what netmesh did.
    if output("ip", &["-V"]).is_none() {
        apt_install(&["iproute2"])?;
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> anyhow::Result<()> {
    let by_hand = format!(
        "apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if output("apt-get", &["--version"]).is_none() {
        bail!("this is no Debian: install what corresponds to\n  {by_hand}");
    }
    if !is_root() {
        bail!("packages are missing and this is not root; run\n  sudo {by_hand}");
    }
    if packages.iter().any(|package| candidate(package).is_none()) {
        apt_update()?;
    }
    let mut command = Command::new("apt-get");
    command
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    step(&by_hand, &mut command)
}

fn apt_update() -> anyhow::Result<()> {
    if !is_root() {
        bail!("the package lists are missing and this is not root; run\n  sudo apt-get update");
    }
    step(
        "apt-get update",
        Command::new("apt-get").args(["update", "-q"]),
    )
}

/// Minor version of the package apt would install; 0 when it is no Rust version.
fn candidate(package: &str) -> Option<u32> {
    let policy = output("apt-cache", &["policy", package])?;
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    if version == "(none)" {
        return None;
    }
    Some(
        version
            .split('.')
            .nth(1)
            .and_then(|minor| minor.parse().ok())
            .unwrap_or(0),
    )
}

/// Major version of a compiler's LLVM.
fn llvm_of(toolchain: &str) -> Option<u32> {
    let text = output("rustup", &["run", toolchain, "rustc", "-vV"])?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}
