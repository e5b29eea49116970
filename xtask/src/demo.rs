//! `cargo xtask demo`.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::run::is_root;
use crate::{build, setup};

/// Builds and runs `netmesh demo`. The tests' build serves: it is there the soonest, and the
/// programs in the kernel are optimised in every build.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    setup::run()?;
    let binary = build::netmesh(false)?;
    let mut command = if is_root() {
        Command::new(&binary)
    } else {
        eprintln!("the demo makes network namespaces and loads programs: it runs by sudo");
        let mut sudo = Command::new("sudo");
        sudo.arg(&binary);
        sudo
    };
    let status = command
        .arg("demo")
        .args(arguments)
        .status()
        .with_context(|| format!("{} could not be started as root", binary.display()))?;
    if !status.success() {
        bail!("the demo failed ({status})");
    }
    Ok(())
}
