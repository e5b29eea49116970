//! `cargo xtask build`.

use std::path::PathBuf;

use crate::run::{cargo, step, target};
use crate::setup;

/// Builds the `netmesh` binary, programs included, and prints where it is.
pub(crate) fn run(release: bool) -> anyhow::Result<()> {
    setup::run()?;
    let binary = netmesh(release)?;
    println!("{}", binary.display());
    Ok(())
}

/// Builds the `netmesh` binary and tells where it is.
pub(crate) fn netmesh(release: bool) -> anyhow::Result<PathBuf> {
    let mut command = cargo(&["build", "--quiet", "--locked", "--package", "netmesh"]);
    let profile = if release {
        command.arg("--release");
        "release"
    } else {
        "debug"
    };
    step("build netmesh", &mut command)?;
    Ok(target().join(profile).join("netmesh"))
}
