//! `cargo xtask bench`.

use anyhow::bail;

use crate::run::{cargo, root};
use crate::setup;

/// Measures, and writes the results into the documentation.
pub(crate) fn run(sizes: &[u32]) -> anyhow::Result<()> {
    setup::run()?;
    let mut command = cargo(&["run", "--release", "--package", "netmesh-bench", "--"]);
    command
        .arg(root().join("docs/performance.md"))
        .args(sizes.iter().map(ToString::to_string));
    let status = command.status()?;
    if !status.success() {
        bail!("the measurement failed ({status})");
    }
    Ok(())
}
