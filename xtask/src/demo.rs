//! `cargo xtask demo`.

use std::process::Command;

use anyhow::bail;

use crate::run::{cargo, is_root, root, step};
use crate::setup;

/// Builds and runs `netmesh demo`.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    setup::run()?;
    step(
        "build netmesh",
        &mut cargo(&["build", "--quiet", "--package", "netmesh"]),
    )?;
    let target = crate::run::tools();
    let binary = target
        .parent()
        .map_or_else(|| root().join("target"), ToOwned::to_owned)
        .join("debug/netmesh");
    let mut command = if is_root() {
        Command::new(&binary)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg(&binary);
        sudo
    };
    let status = command.arg("demo").args(arguments).status()?;
    if !status.success() {
        bail!("the demo failed ({status})");
    }
    Ok(())
}
