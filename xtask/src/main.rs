//! The project's own commands. CI and developers use the same words.
#![expect(clippy::print_stdout, reason = "these commands talk to people")]
#![expect(clippy::print_stderr, reason = "these commands talk to people")]

mod bench;
mod build;
mod conformance;
mod demo;
mod fuzz;
mod lint;
mod mutants;
mod package;
mod progress;
mod run;
mod setup;
mod soak;
mod sweep;
mod test;
mod vm;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find or install what building and testing need.
    Setup,
    /// Build the netmesh binary, eBPF programs included.
    Build {
        /// Optimise it.
        #[arg(long)]
        release: bool,
    },
    /// Build, then show the whole mesh on this machine with real traffic.
    Demo {
        /// Passed on to `netmesh demo`: --keep, --clean, --json.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run everything: format, lints, unit, property and end-to-end tests.
    Test {
        /// Only tests whose name contains this; leaves out format and lints.
        filter: Option<String>,
    },
    /// Check what no compiler checks: who imports whom, file sizes, words.
    Lint {
        /// Print the sizes of files and functions.
        #[arg(long)]
        stats: bool,
    },
    /// Run the demo and the tests on a distribution's kernel, in a virtual machine.
    Vm {
        /// Which kernel; both when none is named.
        #[arg(long, value_enum)]
        kernel: Vec<vm::Kernel>,
        /// The machine is killed after this many minutes.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
        minutes: u64,
        /// Leave these test programs out: names, with commas between them.
        #[arg(long, value_delimiter = ',')]
        skip: Vec<String>,
        /// Only tests whose name contains one of these, and the test programs of these names; `demo`
        /// is the demo, `netmesh` the library's own tests.
        #[arg(last = true)]
        tests: Vec<String>,
    },
    /// Measure what look-ups and forwarding cost and write it into docs/performance.md. Needs root.
    Bench {
        /// Only this.
        #[arg(long, value_enum)]
        only: Option<bench::What>,
        /// Numbers of prefixes.
        sizes: Vec<u32>,
    },
    /// Send random packets through the kernel's router and ours and compare what comes out.
    Conformance {
        /// Packets, over all ways to attach.
        #[arg(long)]
        cases: Option<u64>,
        /// Another seed, other packets.
        #[arg(long)]
        seed: Option<u64>,
        /// How our router is attached: xdp, xdp-generic, tc; all of them when none is named.
        #[arg(long, value_delimiter = ',')]
        modes: Vec<String>,
        /// Other routes that both routers hold: 1000000, say. With one mode: they are put in for each.
        #[arg(long)]
        routes: Option<u64>,
        /// Change our router's tables all the time.
        #[arg(long)]
        churn: bool,
    },
    /// Break the router on purpose, in a copy, and show that the tests see it.
    Mutants {
        /// Only these breaks; all of them when none is named.
        #[arg(value_parser = mutants::NAMES)]
        names: Vec<String>,
    },
    /// Fuzz the forwarding decision and the object files, guided by coverage.
    Fuzz {
        /// Minutes for each target.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
        minutes: u64,
        /// Only this target; all of them when none is named.
        #[arg(value_parser = fuzz::TARGETS.map(|(name, ..)| name))]
        target: Option<String>,
    },
    /// Run random frames through the loaded programs and the library, and compare.
    Frames {
        /// How many.
        #[arg(long, default_value_t = 10_000_000)]
        frames: u64,
        /// The first router's seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Build a release as a Debian package, and install it below a folder to look at it.
    Package {
        /// Only look at the package that is there.
        #[arg(long)]
        check: bool,
    },
    /// Change objects, kill daemons, flap links, import routes, and look after each of it. Needs root.
    Soak {
        /// How long.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
        minutes: u64,
        /// Another seed, other things in another order.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Remove what test runs that were killed left behind.
    Sweep,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup => setup::run(),
        Command::Build { release } => build::run(release),
        Command::Demo { arguments } => demo::run(&arguments),
        Command::Test { filter } => test::run(filter.as_deref()),
        Command::Lint { stats } => lint::run(stats),
        Command::Vm {
            kernel,
            minutes,
            skip,
            tests,
        } => vm::run(&vm::Options {
            kernels: match kernel.is_empty() {
                true => vm::Kernel::ALL.to_vec(),
                false => kernel,
            },
            tests,
            skip,
            limit: Duration::from_secs(minutes * 60),
        }),
        Command::Bench { only, sizes } => bench::run(only, &sizes),
        Command::Conformance {
            cases,
            seed,
            modes,
            routes,
            churn,
        } => conformance::run(&conformance::Options {
            cases,
            seed,
            modes,
            routes,
            churn,
        }),
        Command::Mutants { names } => mutants::run(&names),
        Command::Fuzz { minutes, target } => fuzz::run(target.as_deref(), minutes),
        Command::Frames { frames, seed } => fuzz::frames(frames, seed),
        Command::Package { check } => package::run(check),
        Command::Soak { minutes, seed } => soak::run(minutes, seed),
        Command::Sweep => {
            sweep::run();
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
