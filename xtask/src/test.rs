//! `cargo xtask test`: everything.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::run::{cargo, is_root, step};
use crate::{lint, setup, sweep};

/// Runs all of it, or only the tests that match.
pub(crate) fn run(filter: Option<&str>) -> anyhow::Result<()> {
    setup::run()?;
    setup::test_packages()?;
    if !is_root() {
        bail!(
            "the end-to-end tests make network namespaces and load programs: run as root\n  \
             sudo -E env PATH=$PATH cargo xtask test"
        );
    }
    sweep::run();
    if filter.is_none() {
        step("format", &mut cargo(&["fmt", "--all", "--check"]))?;
        let clippy = ["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"];
        step("clippy", &mut cargo(&clippy))?;
        eprintln!("==> house rules");
        lint::run(false)?;
    }
    step(
        "build",
        &mut cargo(&["build", "--quiet", "--package", "netmesh"]),
    )?;
    let mut totals = Totals::default();
    let packages = [
        "--package",
        "netmesh-common",
        "--package",
        "netmesh",
        "--package",
        "xtask",
    ];
    let mut arguments = vec!["test", "--quiet", "--no-fail-fast"];
    arguments.extend(packages);
    tests("unit and property tests", &arguments, filter, &mut totals)?;
    let end_to_end = [
        "test",
        "--quiet",
        "--no-fail-fast",
        "--package",
        "netmesh-tests",
    ];
    tests("end-to-end tests", &end_to_end, filter, &mut totals)?;
    sweep::run();
    println!("{} passed, {} failed", totals.passed, totals.failed);
    if totals.failed > 0 || totals.broken {
        bail!("not all tests passed");
    }
    if totals.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

#[derive(Default)]
struct Totals {
    passed: u32,
    failed: u32,
    broken: bool,
}

/// Runs a `cargo test`, passing its output through and adding up its totals.
fn tests(
    what: &str,
    arguments: &[&str],
    filter: Option<&str>,
    totals: &mut Totals,
) -> anyhow::Result<()> {
    eprintln!("==> {what}");
    let mut command: Command = cargo(arguments);
    let mut child = command
        .args(filter)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what} could not be started"))?;
    let stdout = child.stdout.take().context("no stdout")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if let Some(result) = line.strip_prefix("test result: ") {
            let number = |word: &str| -> u32 {
                result
                    .split(';')
                    .find_map(|part| {
                        part.trim()
                            .trim_start_matches("ok. ")
                            .trim_start_matches("FAILED. ")
                            .strip_suffix(word)?
                            .trim()
                            .parse()
                            .ok()
                    })
                    .unwrap_or(0)
            };
            totals.passed += number(" passed");
            totals.failed += number(" failed");
        }
        println!("{line}");
    }
    let status = child.wait()?;
    totals.broken |= !status.success();
    Ok(())
}
