//! `cargo xtask setup`: what building and testing need, found or installed.
//!
//! Beyond stable Rust that is a compiler with the source of `core` (for `-Z build-std`), and
//! `bpf-linker` with an LLVM at least as new as that compiler's. Every compiler that is there or
//! can be had is a candidate; the first one for which a linker can be had, too, is taken.

mod linker;
pub(crate) mod packages;
mod toolchain;

use std::fs;
use std::time::Instant;

use anyhow::bail;

use crate::run::{output, tools};
use linker::Linker;
use packages::Package;
use toolchain::{Candidate, Source};

/// Sets up what is missing; costs nothing when all is there.
pub(crate) fn run() -> anyhow::Result<()> {
    let started = Instant::now();
    if output("rustup", &["--version"]).is_none() {
        bail!("rustup is not there; install it from https://rustup.rs and run this again");
    }
    let missing = packages::missing();
    let present = toolchain::present()?;
    let linker = Linker::find();
    let ready = present.iter().find(|compiler| linker.takes(compiler));
    let (said, compiler) = match ready.cloned() {
        Some(compiler) if missing.is_empty() => ("everything is there", compiler),
        Some(compiler) => {
            packages::install(&missing)?;
            ("done", compiler)
        }
        None => ("done", obtain(present, &missing)?),
    };
    remember(&compiler)?;
    eprintln!(
        "setup: {said} (toolchain {}, LLVM {}; {:.1} s)",
        compiler.name,
        compiler.llvm,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Takes the best compiler that works out, trying one after the other.
fn obtain(present: Vec<Candidate>, missing: &[Package]) -> anyhow::Result<Candidate> {
    // Without lists of packages, or with old ones, a system offers less than it has.
    packages::update();
    let mut candidates = present;
    candidates.extend(toolchain::obtainable());
    for compiler in &candidates {
        if !linker::can_be_built(compiler.llvm) {
            eprintln!(
                "setup: {} needs LLVM {}, which this system does not offer",
                compiler.name, compiler.llvm
            );
            continue;
        }
        if compiler.source == Source::Component && !toolchain::is_reachable() {
            eprintln!("setup: rustup's server does not answer; looking elsewhere");
            continue;
        }
        eprintln!(
            "setup: taking toolchain {} (LLVM {}), {}",
            compiler.name,
            compiler.llvm,
            match compiler.source {
                Source::Present => "which is there",
                Source::Component => "for which rustup has the sources",
                Source::Distribution(_) => "the distribution's compiler",
            }
        );
        let mut wanted = missing.to_vec();
        wanted.extend(toolchain::packages(compiler));
        if !Linker::find().takes(compiler) {
            wanted.extend(linker::packages(compiler.llvm));
        }
        packages::install(&wanted)?;
        if let Err(error) = toolchain::complete(compiler) {
            eprintln!("setup: {error:#}; looking elsewhere");
            continue;
        }
        return with_linker(compiler);
    }
    packages::install(missing)?;
    install_nightly(&candidates)
}

/// The last resort: a nightly from rustup, for the linker or the LLVM that is there.
fn install_nightly(tried: &[Candidate]) -> anyhow::Result<Candidate> {
    let is_new = tried.iter().all(|compiler| compiler.name != "nightly");
    if is_new && toolchain::is_reachable() {
        toolchain::install_nightly()?;
        if let Some(nightly) = toolchain::present()?.first() {
            return with_linker(nightly);
        }
    }
    if let Some(compiler) = tried.first() {
        bail!(
            "no bpf-linker for toolchain {}: {}",
            compiler.name,
            linker::by_hand(compiler.llvm)
        );
    }
    bail!(
        "there is no compiler for the BPF target, and none can be had from here. Where rustup \
         can download, run\n  rustup toolchain install nightly --profile minimal --component \
         rust-src\n  cargo install bpf-linker --version {}\n  cargo xtask setup",
        linker::VERSION
    );
}

/// Gives a compiler its linker.
fn with_linker(compiler: &Candidate) -> anyhow::Result<Candidate> {
    if !Linker::find().takes(compiler) {
        linker::build(compiler)?;
    }
    Ok(compiler.clone())
}

/// Writes the choice down: `netmesh/build.rs` makes the same one by reading it. A file that is
/// touched makes cargo build again.
fn remember(compiler: &Candidate) -> anyhow::Result<()> {
    let file = tools().join("toolchain");
    if fs::read_to_string(&file).is_ok_and(|name| name == compiler.name) {
        return Ok(());
    }
    fs::create_dir_all(tools())?;
    fs::write(file, &compiler.name)?;
    Ok(())
}
