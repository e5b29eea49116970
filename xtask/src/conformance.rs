//! `cargo xtask conformance`: as many cases against the kernel's own router as are asked for.

use anyhow::{Context as _, bail};

use crate::run::cargo;
use crate::{build, setup};

/// What to run.
#[derive(Debug)]
pub(crate) struct Options {
    /// Cases, over all modes.
    pub(crate) cases: Option<u64>,
    /// The seed.
    pub(crate) seed: Option<u64>,
    /// How our router is attached; every way when none is named.
    pub(crate) modes: Vec<String>,
    /// Other routes in both routers.
    pub(crate) routes: Option<u64>,
    /// A writer changes our tables meanwhile.
    pub(crate) churn: bool,
}

/// Builds and runs the suite; what it prints is for the reader.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    setup::run()?;
    build::netmesh(false)?;
    let mut command = cargo(&["test", "--locked", "--package", "netmesh-tests"]);
    command.args(["--test", "conformance", "--", "--nocapture"]);
    command.args(["--exact", "whatever_comes_out_is_what_the_kernel_sends"]);
    command.env("NETMESH_CONFORMANCE_MODES", options.modes.join(","));
    command.env("NETMESH_CONFORMANCE_CHURN", options.churn.to_string());
    if let Some(routes) = options.routes {
        command.env("NETMESH_CONFORMANCE_ROUTES", routes.to_string());
    }
    if let Some(cases) = options.cases {
        command.env("NETMESH_CONFORMANCE_CASES", cases.to_string());
    }
    if let Some(seed) = options.seed {
        command.env("NETMESH_CONFORMANCE_SEED", seed.to_string());
    }
    let status = command.status().context("cargo could not be started")?;
    if !status.success() {
        bail!("the router is not the kernel's in everything; cases are kept in tests/conformance");
    }
    Ok(())
}
