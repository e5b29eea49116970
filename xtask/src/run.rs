//! Running other programs.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

/// The root of the work tree.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Cargo's target folder: the one this program was built into, wherever that was put.
pub(crate) fn target() -> PathBuf {
    env::current_exe()
        .ok()
        .and_then(|own| {
            own.ancestors()
                .find(|folder| folder.join("CACHEDIR.TAG").exists())
                .map(ToOwned::to_owned)
        })
        .unwrap_or_else(|| root().join("target"))
}

/// Where `setup` puts the tools it builds; `netmesh/build.rs` looks there too.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// The search path with our tools in front.
pub(crate) fn path() -> OsString {
    let mut path = tools().join("bin").into_os_string();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    path
}

/// A cargo command in the work tree.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(arguments)
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target())
        .env("PATH", path());
    command
}

/// Runs a step, its output passed through, and tells how long it took.
pub(crate) fn step(what: &str, command: &mut Command) -> anyhow::Result<()> {
    eprintln!("==> {what}");
    let started = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{what}: {:?} could not be started", command.get_program()))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    eprintln!("    {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// What a program prints; `None` when it is not there or fails.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", path())
        // Asking for a toolchain that is not there must not fetch it.
        .env("RUSTUP_AUTO_INSTALL", "0")
        .env("LC_ALL", "C")
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The triple of this machine.
pub(crate) fn host() -> anyhow::Result<String> {
    let version = output("rustc", &["-vV"]).context("rustc is not there")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

/// Whether this is root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Whether sudo makes root of us without asking anybody.
pub(crate) fn can_sudo() -> bool {
    output("sudo", &["-n", "true"]).is_some()
}
