//! `cargo xtask bench`.

use std::env;

use anyhow::bail;
use clap::ValueEnum;

use crate::run::{cargo, root};
use crate::{build, setup};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Look-ups alone.
    LookUps,
    /// The whole way of a packet over veth.
    Forwarding,
    /// What it costs to ask for metrics.
    Scrapes,
}

/// Measures, and writes the results into the documentation.
pub(crate) fn run(what: Option<What>, sizes: &[u32]) -> anyhow::Result<()> {
    setup::run()?;
    let wanted = |kind| what.is_none_or(|what| what == kind);
    if wanted(What::LookUps) {
        measure(
            "look-ups",
            sizes,
            &[1, 1_000, 65_536, 200_000, 1_000_000, 16_777_216],
        )?;
    }
    if !wanted(What::Forwarding) && !wanted(What::Scrapes) {
        return Ok(());
    }
    if env::var_os("NETMESH_BIN").is_none() {
        build::netmesh(true)?;
    }
    if wanted(What::Forwarding) {
        measure("forwarding", sizes, &[1, 1_000, 65_536, 1_000_000])?;
    }
    if wanted(What::Scrapes) {
        measure("scrapes", sizes, &[1_000, 65_536, 1_000_000])?;
    }
    Ok(())
}

fn measure(what: &str, sizes: &[u32], usual: &[u32]) -> anyhow::Result<()> {
    let sizes = if sizes.is_empty() { usual } else { sizes };
    let mut command = cargo(&["run", "--release", "--package", "netmesh-bench", "--"]);
    if env::var_os("NETMESH_BIN").is_none() {
        command.env("NETMESH_BIN", root().join("target/release/netmesh"));
    }
    command
        .arg(root().join("docs/performance.md"))
        .arg(what)
        .args(sizes.iter().map(ToString::to_string));
    let status = command.status()?;
    if !status.success() {
        bail!("the measurement of {what} failed ({status})");
    }
    Ok(())
}
