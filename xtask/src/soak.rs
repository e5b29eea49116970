//! `cargo xtask soak`: a node's day in minutes, checked after every step.

use anyhow::{Context as _, bail};

use crate::run::cargo;
use crate::{build, setup, sweep};

/// Builds and runs it; what it prints is for the reader. Nothing is left behind, however it ends.
pub(crate) fn run(minutes: u64, seed: u64) -> anyhow::Result<()> {
    setup::run()?;
    build::netmesh(false)?;
    let mut command = cargo(&["test", "--locked", "--package", "netmesh-tests"]);
    command.args(["--test", "soak", "--", "--nocapture", "--ignored"]);
    command.env("NETMESH_SOAK_SECONDS", (minutes * 60).to_string());
    command.env("NETMESH_SOAK_SEED", seed.to_string());
    let status = command.status().context("cargo could not be started");
    sweep::run();
    if !status?.success() {
        bail!("the node did not stand it; `cargo xtask soak --seed {seed}` does the same again");
    }
    Ok(())
}
