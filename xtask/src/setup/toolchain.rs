//! A compiler that can build for the BPF target: one that has the source of `core`.

use std::env;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::packages::{self, Package};
use crate::progress;
use crate::run::output;

/// The rustup name under which the distribution's compiler is linked; `netmesh/build.rs` knows it.
const LINKED: &str = "netmesh-bpf";
const NIGHTLY: &str = "nightly";
/// The distribution's compilers that carry their sources, best first.
const COMPILERS: [[&str; 3]; 2] = [
    ["rustc-web", "cargo-web", "rust-web-src"],
    ["rustc", "cargo", "rust-src"],
];
/// The first compiler that knows edition 2024.
const OLDEST: (u32, u32) = (1, 85);
/// A component is 3 MB, a toolchain 200.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// A compiler that is there, or that can be had.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Candidate {
    /// The rustup toolchain it is, or will be.
    pub(crate) name: String,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
    /// How to get it.
    pub(crate) source: Source,
}

/// How to get a compiler.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    /// It is complete.
    Present,
    /// rustup adds the source of `core` to a nightly that is there.
    Component,
    /// The distribution's packages, linked as a rustup toolchain.
    Distribution([&'static str; 3]),
}

/// The compilers that are complete, best first.
///
/// # Errors
/// When `NETMESH_BPF_TOOLCHAIN` names one that is not.
pub(crate) fn present() -> anyhow::Result<Vec<Candidate>> {
    let named = env::var("NETMESH_BPF_TOOLCHAIN").ok();
    let names = named
        .as_deref()
        .map_or_else(|| vec![NIGHTLY, LINKED], |name| vec![name]);
    let found: Vec<Candidate> = names
        .into_iter()
        .filter(|name| has_core_source(name))
        .filter_map(|name| {
            Some(Candidate {
                name: name.to_owned(),
                llvm: llvm_of(name)?,
                source: Source::Present,
            })
        })
        .collect();
    if let Some(named) = named
        && found.is_empty()
    {
        bail!(
            "NETMESH_BPF_TOOLCHAIN names {named}, which rustup does not have or which lacks the \
             source of `core`; unset the variable or run\n  rustup toolchain install {named} \
             --component rust-src"
        );
    }
    Ok(found)
}

/// The compilers that can be had, best first.
pub(crate) fn obtainable() -> Vec<Candidate> {
    if env::var_os("NETMESH_BPF_TOOLCHAIN").is_some() {
        return Vec::new();
    }
    let nightly = (!has_core_source(NIGHTLY)).then(|| llvm_of(NIGHTLY));
    let nightly = nightly.flatten().map(|llvm| Candidate {
        name: NIGHTLY.to_owned(),
        llvm,
        source: Source::Component,
    });
    let distribution = COMPILERS.iter().filter_map(|packages| {
        let version = packages::candidate(packages[0])?;
        (rust_version(&version)? >= OLDEST).then_some(())?;
        Some(Candidate {
            name: LINKED.to_owned(),
            llvm: distribution_llvm(packages[0])?,
            source: Source::Distribution(*packages),
        })
    });
    nightly.into_iter().chain(distribution).collect()
}

/// The packages a compiler comes in.
pub(crate) fn packages(of: &Candidate) -> Vec<Package> {
    match of.source {
        Source::Present | Source::Component => Vec::new(),
        Source::Distribution([compiler, cargo, source]) => vec![
            Package::new(compiler, "compiles the programs that run in the kernel"),
            Package::new(cargo, "builds `core` for them"),
            Package::new(source, "the source of `core`"),
        ],
    }
}

/// Completes a compiler whose packages are there.
///
/// # Errors
/// When it cannot be had after all.
pub(crate) fn complete(candidate: &Candidate) -> anyhow::Result<()> {
    let name = candidate.name.as_str();
    match candidate.source {
        Source::Present => return Ok(()),
        Source::Component => rustup(&["component", "add", "rust-src", "--toolchain", name])?,
        Source::Distribution(_) => rustup(&["toolchain", "link", name, "/usr"])?,
    }
    if !has_core_source(name) {
        bail!("toolchain {name} has no source of `core` although it was just installed");
    }
    Ok(())
}

/// A whole nightly, where there is neither one nor a distribution's compiler.
///
/// # Errors
/// When it cannot be fetched.
pub(crate) fn install_nightly() -> anyhow::Result<()> {
    rustup(&[
        "toolchain",
        "install",
        NIGHTLY,
        "--profile=minimal",
        "--component=rust-src",
        // Which rustup this machine has is not for us to change.
        "--no-self-update",
    ])
}

/// Whether rustup's server answers; a proxy or a mirror is believed to.
pub(crate) fn is_reachable() -> bool {
    let elsewhere = [
        "RUSTUP_DIST_SERVER",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
    ];
    let answers = |address| TcpStream::connect_timeout(&address, Duration::from_secs(3)).is_ok();
    elsewhere.iter().any(|name| env::var_os(name).is_some())
        || ("static.rust-lang.org", 443)
            .to_socket_addrs()
            .is_ok_and(|mut addresses| addresses.any(answers))
}

fn rustup(arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("rustup");
    command.args(arguments).env("RUSTUP_MAX_RETRIES", "0");
    let what = format!("rustup {}", arguments.join(" "));
    progress::step(&what, &mut command, PATIENCE).context("rustup could not provide it")
}

/// The toolchain exists and carries the standard library's source, without which
/// `-Z build-std=core` cannot work.
fn has_core_source(toolchain: &str) -> bool {
    output("rustup", &["run", toolchain, "rustc", "--print", "sysroot"]).is_some_and(|root| {
        Path::new(root.trim())
            .join("lib/rustlib/src/rust/library/core/src/lib.rs")
            .exists()
    })
}

/// Major version of a compiler's LLVM.
fn llvm_of(toolchain: &str) -> Option<u32> {
    let text = output("rustup", &["run", toolchain, "rustc", "-vV"])?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// Major version of the LLVM that a distribution's compiler is linked with: what its library
/// depends on tells, before it is installed.
fn distribution_llvm(compiler: &str) -> Option<u32> {
    let mut packages = vec![compiler.to_owned()];
    // rustc -> libstd-rust-dev -> libstd-rust-1.96 -> libllvm22
    for _ in 0..3 {
        let depends: Vec<String> = packages.iter().flat_map(|p| packages::depends(p)).collect();
        let found = depends.iter().find_map(|name| library_version(name));
        if found.is_some() {
            return found;
        }
        packages = depends
            .into_iter()
            .filter(|name| name.starts_with("libstd-rust"))
            .collect();
    }
    None
}

/// `libllvm22`, `libllvm19t64` and `libllvm19:amd64` are packages of LLVM 22 and 19.
fn library_version(package: &str) -> Option<u32> {
    package
        .strip_prefix("libllvm")?
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// `1.96.0+dfsg1-1~deb12u2` is Rust 1.96.
fn rust_version(package: &str) -> Option<(u32, u32)> {
    let (_, version) = package.split_once(':').unwrap_or(("", package));
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_packages_are_compared_as_numbers() {
        assert_eq!(rust_version("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(rust_version("2:1.100.1-1"), Some((1, 100)));
        assert_eq!(rust_version("unknown"), None);
        assert!(rust_version("1.63.0+dfsg1-2") < Some(OLDEST));
        assert!(rust_version("1.100.0-1") > Some(OLDEST));
    }

    #[test]
    fn a_library_tells_the_version_of_llvm() {
        assert_eq!(library_version("libllvm22"), Some(22));
        assert_eq!(library_version("libllvm19t64"), Some(19));
        assert_eq!(library_version("libstd-rust-1.96"), None);
    }
}
