//! `cargo xtask vm`: the same tests on the kernels of the distributions, as root, in a virtual
//! machine that sees this machine's files and changes none of them.

mod image;
mod qemu;
mod unpack;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::ValueEnum;

use crate::run::{cargo, root, target};
use crate::setup::packages::{Package, install};
use crate::{build, setup};

/// A kernel we promise to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's: no TCX, an older verifier.
    #[value(name = "6.1")]
    V6_1,
    /// The long-term one, as in Debian 13 and the backports of 12.
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// As it is written on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// What runs inside.
#[derive(Debug)]
pub(crate) struct Options {
    /// Which kernels.
    pub(crate) kernels: Vec<Kernel>,
    /// Names, or parts of names, of tests, and names of test programs; all when there are none.
    pub(crate) tests: Vec<String>,
    /// Test programs that are left out.
    pub(crate) skip: Vec<String>,
    /// The machine is killed after this.
    pub(crate) limit: Duration,
}

/// One program to run inside.
#[derive(Debug)]
struct Job {
    name: String,
    program: PathBuf,
    arguments: String,
}

/// Runs one program. An emulated machine can stand still for seconds whenever the one below it is
/// busy, so a test that failed has one more try, alone, and is named in the end: what fails twice
/// is broken, what passes the second time is for the reader to judge. A program that died, or that
/// counts other failures than it names, has tests nobody has seen: it fails as a whole.
const AGAIN: &str = r#"from=$(sed -n 's/.* netmesh.from=\([^ ]*\).*/\1/p' /proc/cmdline)
attempt() {
    name=$1; program=$2; shift 2
    # A machine that is started once more goes on where it died.
    [ -z "$from" ] || [ "$name" = "$from" ] || return
    from=; echo "--- $name"; SECONDS=0
    try "$name" "$program" "$@"
    echo "    $name: $SECONDS s"
}
try() {
    name=$1; program=$2; shift 2
    "$program" "$@" </dev/null 2>&1 | tee /run/said
    [ "${PIPESTATUS[0]}" = 0 ] && return
    again=$(sed -n 's/^test \([^ ]*\) .*FAILED$/\1/p' /run/said)
    counted=$(sed -n 's/^test result: FAILED.* \([0-9]*\) failed;.*/\1/p' /run/said)
    if [ "$(echo $again | wc -w)" != "$counted" ]; then
        failed=1; echo "failed: $name"; return
    fi
    for test in $again; do
        echo "once more, alone: $test"
        if "$program" --color=never --include-ignored --exact "$test" </dev/null 2>&1; then
            late="$late $name::$test"
        else
            failed=1; echo "failed twice: $name::$test"
        fi
    done
}"#;

/// How many times as long a test waits in one emulated machine on two cores.
const PATIENCE: usize = 8;

/// Runs the demo and the tests on every kernel asked for, at once.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    setup::run()?;
    install(&missing())?;
    let emulator = qemu::find()?;
    let netmesh = build::netmesh(false)?;
    let mut found = binaries()?;
    for name in &options.skip {
        if !found.iter().any(|(known, _)| known == name) {
            let known: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
            bail!(
                "no test program is called {name}; there are {}",
                known.join(", ")
            );
        }
        if options.tests.contains(name) {
            bail!("{name} is asked for and left out");
        }
    }
    found.retain(|(name, _)| !options.skip.contains(name));
    for word in &options.tests {
        if !is_met(word, &found)? {
            bail!("no test program is called {word}, and no test's name contains it");
        }
    }
    let patience = PATIENCE * options.kernels.len();
    let mut machines = Vec::new();
    for kernel in &options.kernels {
        let name = kernel.name();
        let mut jobs = jobs(*kernel, &netmesh, &found, &options.tests);
        jobs.retain(|job| !options.skip.contains(&job.name));
        let image = image::prepare(*kernel, &script(&jobs, patience))
            .with_context(|| format!("the machine for Linux {name} could not be made"))?;
        machines.push((name, image));
    }
    // One machine alone keeps less than one of two cores busy: its tests wait for timers.
    let ends: Vec<_> = thread::scope(|scope| {
        let runs: Vec<_> = machines
            .iter()
            .map(|(name, image)| {
                let run = || qemu::run(&emulator, image, name, options.limit);
                (*name, scope.spawn(run))
            })
            .collect();
        runs.into_iter()
            .map(|(name, run)| (name, run.join()))
            .collect()
    });
    let mut failed = Vec::new();
    for (name, end) in ends {
        if !end.map_err(|_| anyhow!("the run of Linux {name} panicked"))?? {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("not all is well on Linux {}", failed.join(" and "));
    }
    Ok(())
}

/// Whether a word is a program's name, or a part of a test's.
fn is_met(word: &str, found: &[(String, PathBuf)]) -> anyhow::Result<bool> {
    if word == "demo" || found.iter().any(|(name, _)| name == word) {
        return Ok(true);
    }
    for (name, path) in found {
        let listed = Command::new(path)
            .args(["--list", "--format=terse"])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("the tests of {name} cannot be listed"))?;
        let text = String::from_utf8_lossy(&listed.stdout);
        if text.lines().any(|line| line.contains(word)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The tests that need a kernel, and without names of tests the demo before them.
fn jobs(kernel: Kernel, netmesh: &Path, found: &[(String, PathBuf)], tests: &[String]) -> Vec<Job> {
    let mut jobs = Vec::new();
    let demo = |word: &String| word == "demo";
    if tests.is_empty() || tests.iter().any(demo) {
        jobs.push(Job {
            name: "demo".into(),
            program: netmesh.to_owned(),
            arguments: "demo".into(),
        });
    }
    let names: Vec<&str> = tests.iter().map(String::as_str).collect();
    // A word that is a program's name stands for that program alone.
    let is_program = |word: &str| word == "demo" || found.iter().any(|(name, _)| name == word);
    let words: Vec<&str> = names
        .iter()
        .copied()
        .filter(|word| !is_program(word))
        .collect();
    for (name, path) in found {
        // Of the library only what meets the kernel; the rest is the same everywhere.
        let filter = match (name.as_str(), names.is_empty()) {
            ("netmesh", true) => "dataplane:: kernel::".to_owned(),
            ("netmesh_tests", _) => continue,
            // It is a job of its own.
            ("demo", true) => continue,
            ("demo", false) if names.contains(&"demo") => continue,
            // Bulk transfers of an emulated machine: by name only.
            ("stacks", true) => continue,
            // A program's own name stands for all of it.
            (name, true) => whole(kernel, name).to_owned(),
            (name, false) if names.contains(&name) => whole(kernel, name).to_owned(),
            (_, _) if words.is_empty() => continue,
            (_, _) => words.join(" "),
        };
        jobs.push(Job {
            name: name.clone(),
            program: path.clone(),
            arguments: format!("--color=never --test-threads=2 {filter}"),
        });
    }
    jobs
}

/// How a test program is run as a whole.
fn whole(kernel: Kernel, name: &str) -> &'static str {
    match (name, kernel) {
        // What this machine's kernel lacks these have; only one of them has netkit.
        ("kinds", Kernel::V6_1) => "--include-ignored --skip netkit",
        ("kinds" | "vlans" | "conformance", _) => "--include-ignored",
        // What the verifier said is for the reader.
        ("programs", _) => "--nocapture",
        _ => "",
    }
}

/// Builds the test programs and finds them.
fn binaries() -> anyhow::Result<Vec<(String, PathBuf)>> {
    eprintln!("==> test programs");
    let output = cargo(&["test", "--no-run", "--locked", "--message-format=json"])
        .args(["--package", "netmesh-tests", "--package", "netmesh"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo could not be started")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let (Some(path), Some(name), Some(true)) = (
            message["executable"].as_str(),
            message["target"]["name"].as_str(),
            message["profile"]["test"].as_bool(),
        ) else {
            continue;
        };
        let is_program = message["target"]["kind"][0] == "bin";
        if !is_program {
            found.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    Ok(found)
}

/// What the machine does once it has this machine's files.
fn script(jobs: &[Job], patience: usize) -> String {
    let mut script = format!(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n\
         export RUST_BACKTRACE=0 NETMESH_FRAMES=10000 TMPDIR=/run/tmp\n\
         export NETMESH_TEST_PATIENCE={patience}\n\
         cd {} || exit 1\nfailed=0\nlate=\n{AGAIN}\n",
        root().display()
    );
    for job in jobs {
        // A String takes whatever is written to it.
        let _ = writeln!(
            script,
            "attempt {name} {program} {arguments}",
            name = job.name,
            program = job.program.display(),
            arguments = job.arguments,
        );
    }
    script.push_str("[ -z \"$late\" ] || echo \"passed only when run again alone:$late\"\n");
    script.push_str("echo $failed > /dev/ttyS1\necho o > /proc/sysrq-trigger\nsleep 60\n");
    script
}

/// Where the kernels and machines are kept.
fn folder(kernel: Kernel) -> PathBuf {
    cache().join(kernel.name())
}

fn cache() -> PathBuf {
    target().join("vm")
}

fn missing() -> Vec<Package> {
    let needed = [
        ("kmod", "depmod", "which module needs which"),
        ("xz-utils", "xz", "to unpack modules"),
        ("cpio", "cpio", "to pack the machine's first files"),
    ];
    needed
        .into_iter()
        .filter(|(_, program, _)| !is_there(program))
        .map(|(package, _, reason)| Package::new(package, reason))
        .collect()
}

fn is_there(program: &str) -> bool {
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}
