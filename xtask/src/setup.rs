//! `cargo xtask setup`: the eBPF toolchain, found or installed.
//!
//! Two things are needed beyond stable Rust: a compiler that has the source of `core` (for
//! `-Z build-std`), and `bpf-linker` with an LLVM at least as new as that compiler's.

use std::env;
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
    if output("rustup", &["--version"]).is_none() {
        bail!("rustup is not there; install it from https://rustup.rs");
    }
    let toolchain = choose()?;
    let llvm = llvm_of(&toolchain)
        .with_context(|| format!("`rustc -vV` of {toolchain} names no LLVM version"))?;
    if !linker_takes(llvm) {
        install_linker(llvm)?;
    }
    // `netmesh/build.rs` makes the same choice by reading it.
    fs::create_dir_all(tools())?;
    fs::write(tools().join("toolchain"), &toolchain)?;
    eprintln!("setup: eBPF is built by rustup toolchain {toolchain} and bpf-linker, LLVM {llvm}");
    Ok(())
}

/// The toolchain to use: one that a linker is there for, else one that a linker can be built
/// for, else one that is installed now.
fn choose() -> anyhow::Result<String> {
    if let Ok(named) = env::var("NETMESH_BPF_TOOLCHAIN") {
        if !has_core_source(&named) {
            bail!("NETMESH_BPF_TOOLCHAIN names {named}, which has no source of `core`");
        }
        return Ok(named);
    }
    let present: Vec<(String, u32)> = ["nightly", LINKED]
        .iter()
        .filter(|name| has_core_source(name))
        .filter_map(|name| Some(((*name).to_owned(), llvm_of(name)?)))
        .collect();
    if let Some((name, _)) = present.iter().find(|(_, llvm)| linker_takes(*llvm)) {
        return Ok(name.clone());
    }
    if let Some((name, _)) = present.iter().find(|(_, llvm)| llvm_is_to_be_had(*llvm)) {
        return Ok(name.clone());
    }
    for (name, llvm) in &present {
        eprintln!("setup: {name} needs LLVM {llvm}, which this system does not offer");
    }
    if present.iter().all(|(name, _)| name != "nightly")
        && let Some(nightly) = nightly_with_source()
        && llvm_of(&nightly).is_some_and(llvm_is_to_be_had)
    {
        return Ok(nightly);
    }
    eprintln!("setup: taking the distribution's compiler");
    distribution_toolchain()
}

fn has_core_source(toolchain: &str) -> bool {
    output("rustup", &["run", toolchain, "rustc", "--print", "sysroot"]).is_some_and(|root| {
        Path::new(root.trim())
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .exists()
    })
}

/// The usual way, where rustup can download: it fails where it cannot, and leaves a nightly that
/// is there as it is.
fn nightly_with_source() -> Option<String> {
    let there = output("rustup", &["run", "nightly", "rustc", "--version"]).is_some();
    let arguments: &[&str] = if there {
        &["component", "add", "rust-src", "--toolchain", "nightly"]
    } else {
        &[
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]
    };
    eprintln!("setup: trying rustup {}", arguments.join(" "));
    output("rustup", arguments)?;
    has_core_source("nightly").then(|| "nightly".to_owned())
}

/// The distribution's compiler and its sources, linked as a rustup toolchain.
fn distribution_toolchain() -> anyhow::Result<String> {
    let recent =
        |packages: &&[&str; 3]| candidate(packages[0]).is_some_and(|minor| minor >= OLDEST_MINOR);
    let packages = match COMPILERS.iter().find(recent) {
        Some(packages) => packages,
        None => {
            apt_update()?;
            COMPILERS.iter().find(recent).context(
                "neither rustup nor this distribution offers a compiler with its sources and a \
                 matching LLVM; run\n  rustup toolchain install nightly --component rust-src\n  \
                 cargo install bpf-linker\non a machine that can download them",
            )?
        }
    };
    apt_install(packages)?;
    let mut link = Command::new("rustup");
    step(
        "link /usr as a rustup toolchain",
        link.args(["toolchain", "link", LINKED, "/usr"]),
    )?;
    if !has_core_source(LINKED) {
        bail!(
            "{} are installed and /usr/lib/rustlib/src is still missing",
            packages.join(", ")
        );
    }
    Ok(LINKED.to_owned())
}

/// A linker that is there takes the bitcode of this LLVM: its own is as new or newer.
fn linker_takes(llvm: u32) -> bool {
    output("bpf-linker", &["--version"]).is_some() && linker_llvm().is_some_and(|own| own >= llvm)
}

/// The LLVM of the linker in use. It does not tell by itself: ours is written down, for another
/// the library it loads tells (`libLLVM.so.22.1`, `libLLVM-22.so.1`).
fn linker_llvm() -> Option<u32> {
    if tools().join("bin/bpf-linker").exists() {
        return fs::read_to_string(tools().join("llvm"))
            .ok()?
            .trim()
            .parse()
            .ok();
    }
    let path = output("sh", &["-c", "command -v bpf-linker"])?;
    let libraries = output("ldd", &[path.trim()])?;
    let name = libraries.split("libLLVM").nth(1)?;
    name.split(|c: char| !c.is_ascii_digit())
        .find(|digits| !digits.is_empty())?
        .parse()
        .ok()
}

fn llvm_is_to_be_had(llvm: u32) -> bool {
    llvm_is_there(llvm)
        || candidate(&format!("llvm-{llvm}-dev")).is_some()
        || (is_root() && apt_update().is_ok() && candidate(&format!("llvm-{llvm}-dev")).is_some())
}

fn llvm_is_there(llvm: u32) -> bool {
    Path::new(&format!("/usr/lib/llvm-{llvm}/bin/llvm-config")).exists()
}

fn install_linker(llvm: u32) -> anyhow::Result<()> {
    let dev = format!("llvm-{llvm}-dev");
    let polly = format!("libpolly-{llvm}-dev");
    if !llvm_is_there(llvm) || !Path::new("/usr/include/zstd.h").exists() {
        apt_install(&[&dev, &polly, "libzstd-dev"])?;
    }
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
        .args([
            "--features",
            &format!("llvm-{llvm}"),
            "--locked",
            "--force",
            "--root",
        ])
        .arg(&root)
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
    step("build bpf-linker (about a minute, once)", &mut command)?;
    fs::write(root.join("llvm"), llvm.to_string())?;
    if !linker_takes(llvm) {
        bail!(
            "bpf-linker was built into {} and does not run",
            root.display()
        );
    }
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
