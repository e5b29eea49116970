//! `cargo xtask test`: everything.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::thread::available_parallelism;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::run::{can_sudo, cargo, host, is_root, step};
use crate::{build, fuzz, lint, setup, sweep};

/// Labs at a time: each is a handful of namespaces, and waits more than it computes.
const MOST_LABS: usize = 8;

/// Runs all of it, or only the tests that match.
pub(crate) fn run(filter: Option<&str>) -> anyhow::Result<()> {
    let started = Instant::now();
    setup::run()?;
    if !is_root() && !can_sudo() {
        bail!(
            "the tests make network namespaces and load programs, which takes root, and there is \
             no sudo that does without a password; run as root, or\n  sudo -v && cargo xtask test"
        );
    }
    sweep::run();
    if filter.is_none() {
        checks()?;
    }
    build::netmesh(false)?;
    let mut totals = Totals::default();
    let quick = ["netmesh-common", "netmesh", "xtask"];
    tests("unit and property tests", &quick, filter, &mut totals)?;
    tests("end-to-end tests", &["netmesh-tests"], filter, &mut totals)?;
    sweep::run();

    eprintln!("==> {} s in all", started.elapsed().as_secs());
    for name in totals.names.iter().chain(&totals.broken) {
        println!("failed: {name}");
    }
    if totals.ignored > 0 {
        println!("ignored: {}", totals.ignored);
    }
    println!("{} passed, {} failed", totals.passed, totals.failed);
    if totals.failed > 0 || !totals.broken.is_empty() {
        bail!("not all tests passed");
    }
    if totals.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// What needs no test to be seen.
fn checks() -> anyhow::Result<()> {
    step("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--quiet", "--locked", "--all-targets"];
    let deny = ["--", "--deny", "warnings"];
    step("clippy", cargo(&clippy).args(deny))?;
    // For the host, where clippy is; a panic does not unwind, as on the BPF target.
    let programs = ["clippy", "--quiet", "--locked", "--package", "netmesh-ebpf"];
    step(
        "clippy on the eBPF programs",
        cargo(&programs)
            .args(deny)
            .env("CARGO_PROFILE_DEV_PANIC", "abort"),
    )?;
    fuzz::check()?;
    eprintln!("==> house rules");
    lint::run(false)?;
    let doc = ["doc", "--quiet", "--locked", "--no-deps"];
    step(
        "documentation",
        cargo(&doc)
            .args(["--package", "netmesh", "--package", "netmesh-common"])
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )
}

#[derive(Debug, Default)]
struct Totals {
    passed: u32,
    failed: u32,
    ignored: u32,
    /// Tests that failed.
    names: Vec<String>,
    /// What ended otherwise than by tests that failed: it did not build, or it crashed.
    broken: Vec<String>,
    /// Within the list of tests that failed.
    in_list: bool,
}

impl Totals {
    /// Takes in a line of the test harness.
    fn read(&mut self, line: &str) {
        let name = line.strip_prefix("    ").unwrap_or_default();
        if line == "failures:" {
            self.in_list = true;
        } else if self.in_list && !name.is_empty() {
            self.names.push(name.to_owned());
        } else if !line.is_empty() || !self.names.is_empty() {
            self.in_list = false;
        }
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let counts = result.split_once(". ").map_or(result, |(_, counts)| counts);
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let number: u32 = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// Runs a `cargo test`, passing its output through and adding up its totals.
fn tests(
    what: &str,
    packages: &[&str],
    filter: Option<&str>,
    totals: &mut Totals,
) -> anyhow::Result<()> {
    eprintln!("==> {what}");
    let started = Instant::now();
    let before = totals.failed;
    let mut command = cargo(&["test", "--quiet", "--locked", "--no-fail-fast"]);
    for package in packages {
        command.args(["--package", package]);
    }
    as_root(&mut command)?;
    let threads = available_parallelism()
        .map_or(1, usize::from)
        .min(MOST_LABS);
    let mut child = command
        .arg("--")
        .args(filter)
        .arg(format!("--test-threads={threads}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{what} could not be started"))?;
    let stdout = child.stdout.take().context("no stdout")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        totals.read(&line);
        println!("{line}");
    }
    let status = child.wait()?;
    if !status.success() && totals.failed == before {
        totals.broken.push(format!("{what} ({status})"));
    }
    eprintln!("    {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Has cargo run the test binaries by sudo; what it builds stays the user's.
pub(crate) fn as_root(command: &mut Command) -> anyhow::Result<()> {
    if is_root() {
        return Ok(());
    }
    let host = host()?;
    let host = host.to_uppercase().replace('-', "_");
    command.env(format!("CARGO_TARGET_{host}_RUNNER"), "sudo -n -E");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_are_those_of_the_harness() {
        let mut totals = Totals::default();
        let said = "\
running 3 tests
..F
failures:

---- a::b stdout ----
    words
        deep

failures:
    a::b
    a::c

test result: FAILED. 2 passed; 2 failed; 4 ignored; 0 measured; 9 filtered out; finished in 0.00s

    more
test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s
";
        said.lines().for_each(|line| totals.read(line));
        assert_eq!((totals.passed, totals.failed, totals.ignored), (14, 2, 4));
        assert_eq!(totals.names, ["a::b", "a::c"]);
    }
}
