//! `cargo xtask package`: a Debian package, put together by cargo-deb and looked into.
//!
//! What goes where is said in `netmesh/Cargo.toml`. Nothing is started by installing: the first
//! start of a router moves traffic, so it is the administrator's (`systemctl enable --now netmesh`).
//! There are no maintainer scripts, so none can fail; systemd's own dpkg trigger reads the unit.

mod check;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::run::{cargo, output, root, step, target, tools};
use crate::{build, setup};

const CARGO_DEB: &str = "3.6.3";
/// Shells, and what their completions are called where Debian looks for them.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "netmesh"),
    ("zsh", "_netmesh"),
    ("fish", "netmesh.fish"),
];

/// Builds a release and its package, unless only the package that is there is to be checked; then
/// checks it.
pub(crate) fn run(only_check: bool) -> anyhow::Result<()> {
    let package = target().join("debian").join("netmesh.deb");
    if !only_check {
        setup::run()?;
        let binary = build::netmesh(true)?;
        generate(&binary)?;
        install_tool()?;
        let mut command = cargo(&[
            "deb",
            "--no-build",
            "--strip",
            "--package",
            "netmesh",
            "--output",
        ]);
        command.arg(&package);
        step("put the package together", &mut command)?;
    }
    if !package.exists() {
        bail!("{} is not there; cargo xtask package", package.display());
    }
    check::check(&package)?;
    println!("{}", package.display());
    Ok(())
}

/// What the binary says of itself: manual pages and completions.
fn generate(binary: &Path) -> anyhow::Result<()> {
    let folder = made();
    // Pages of commands that are no more must not get into the package.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("man"))?;
    let mut command = Command::new(binary);
    command.arg("man").arg("--dir").arg(folder.join("man"));
    step("write the manual pages", &mut command)?;
    // As Debian's policy (12.1) asks for; without a time, so that the same sources give the same.
    let mut gzip = Command::new("gzip");
    gzip.args(["--best", "--no-name", "--recursive"]);
    step("press them", gzip.arg(folder.join("man")))?;
    for (shell, file) in SHELLS {
        let text = Command::new(binary).args(["completions", shell]).output()?;
        if !text.status.success() {
            bail!("netmesh completions {shell}: {}", text.status);
        }
        let at = folder.join("completions").join(shell);
        fs::create_dir_all(&at)?;
        fs::write(at.join(file), text.stdout)?;
    }
    Ok(())
}

/// Where cargo-deb finds what was generated.
fn made() -> PathBuf {
    target().join("release").join("package")
}

fn install_tool() -> anyhow::Result<()> {
    if output("cargo-deb", &["--version"]).is_some_and(|version| version.trim() == CARGO_DEB) {
        return Ok(());
    }
    let mut command = cargo(&["install", "cargo-deb", "--version", CARGO_DEB, "--locked"]);
    command
        .args(["--force", "--root"])
        .arg(tools())
        // Built where cargo builds tools, not among this work tree's artifacts.
        .env_remove("CARGO_TARGET_DIR");
    step("build cargo-deb (some minutes, once)", &mut command)
        .with_context(|| format!("cargo install cargo-deb --version {CARGO_DEB}"))
}

/// The example configuration of the work tree.
fn example() -> PathBuf {
    root().join("packaging/examples/node.toml")
}
