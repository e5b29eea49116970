//! `cargo xtask fuzz` and `cargo xtask frames`: random input, longer than a test may take.
//!
//! The fuzz crates are workspaces of their own, built by stable Rust with LLVM's coverage
//! instrumentation and linked with libFuzzer; cargo-fuzz, which does the same, is not needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::run::{cargo, host, root, step, target};
use crate::test::as_root;

/// The crate of the decision's targets.
const DECISION: &str = "netmesh-common/fuzz";
/// The crate of the objects' target.
const OBJECTS: &str = "netmesh/fuzz";

/// Every target: its name, its crate, and the longest input that is worth trying.
pub(crate) const TARGETS: [(&str, &str, u32); 5] = [
    ("decide", DECISION, 2048),
    ("tables", DECISION, 8192),
    ("headers", DECISION, 512),
    ("rewrite", DECISION, 512),
    ("objects", OBJECTS, 4096),
];

/// What cargo-fuzz passes to the compiler, without a sanitizer: there is no `unsafe` to watch.
const INSTRUMENTED: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Cdebug-assertions --cfg fuzzing";

/// Lines of a failed run that are shown.
const TAIL: usize = 120;

/// Runs each target, or the one that is named, for so many minutes.
pub(crate) fn run(only: Option<&str>, minutes: u64) -> anyhow::Result<()> {
    let chosen: Vec<_> = TARGETS
        .into_iter()
        .filter(|(name, ..)| only.is_none_or(|only| only == *name))
        .collect();
    let mut broken = Vec::new();
    for (name, folder, longest) in chosen {
        let binary = build(folder, name)?;
        if !fuzz(&binary, name, longest, minutes)? {
            broken.push(name);
        }
    }
    if !broken.is_empty() {
        bail!("{} found something", broken.join(", "));
    }
    Ok(())
}

/// Builds a target: its path.
fn build(folder: &str, name: &str) -> anyhow::Result<PathBuf> {
    let host = host()?;
    let manifest = root().join(folder).join("Cargo.toml");
    let into = target().join("fuzz");
    step(
        &format!("build {name}"),
        cargo(&["build", "--quiet", "--locked", "--release", "--bin", name])
            // Without a target the compiler would instrument build scripts as well.
            .args(["--target", &host, "--manifest-path"])
            .arg(manifest)
            .env("CARGO_TARGET_DIR", &into)
            .env("RUSTFLAGS", INSTRUMENTED)
            // Objects are read without any program.
            .env("AYA_BUILD_SKIP", "1"),
    )?;
    Ok(into.join(host).join("release").join(name))
}

/// Whether the targets compile: they are no members of the workspace, and nobody else would notice.
pub(crate) fn check() -> anyhow::Result<()> {
    for folder in ["netmesh-common/fuzz", "netmesh/fuzz"] {
        step(
            &format!("fuzz targets of {folder}"),
            cargo(&["check", "--quiet", "--locked", "--manifest-path"])
                .arg(root().join(folder).join("Cargo.toml"))
                .env("CARGO_TARGET_DIR", target().join("fuzz"))
                // Nothing is linked, so that libFuzzer need not be compiled.
                .env("CUSTOM_LIBFUZZER_PATH", "/dev/null")
                .env("AYA_BUILD_SKIP", "1"),
        )?;
    }
    Ok(())
}

/// Whether a target ran its time without finding anything.
fn fuzz(binary: &Path, name: &str, longest: u32, minutes: u64) -> anyhow::Result<bool> {
    let folder = target().join("fuzz");
    let corpus = folder.join("corpus").join(name);
    let artifacts = folder.join("artifacts").join(name);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let log = folder.join(format!("{name}.log"));
    eprintln!("==> fuzz {name}: {minutes} min, {}", log.display());
    let started = Instant::now();
    let status = Command::new(binary)
        .arg(&corpus)
        // Its first corpus, it writes itself.
        .env("NETMESH_SEEDS", &corpus)
        .arg(format!("-max_total_time={}", minutes * 60))
        .arg(format!("-max_len={longest}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-print_final_stats=1", "-timeout=20"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .status()
        .with_context(|| format!("{name} could not be started"))?;
    let said = fs::read(&log)?;
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    if !status.success() {
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            println!("{line}");
        }
        println!("{name}: {status}; the input is in {}", artifacts.display());
        return Ok(false);
    }
    let runs = lines
        .iter()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let done = lines.iter().rev().find(|line| line.contains("\tDONE"));
    println!(
        "{name}: {} runs in {} s, nothing found; {}",
        runs.unwrap_or("?").trim(),
        started.elapsed().as_secs(),
        done.map_or("", |line| line.trim())
    );
    Ok(true)
}

/// Random frames through the loaded programs and through the library.
pub(crate) fn frames(frames: u64, seed: u64) -> anyhow::Result<()> {
    let mut command = cargo(&["test", "--quiet", "--locked", "--package", "netmesh"]);
    command
        .args(["--test", "frames", "--", "--nocapture"])
        .env("NETMESH_FRAMES", frames.to_string())
        .env("NETMESH_SEED", seed.to_string());
    as_root(&mut command)?;
    step(&format!("{frames} frames from seed {seed}"), &mut command)
}
