//! The project's own commands. CI and developers use the same words.
#![expect(clippy::print_stdout, reason = "these commands talk to people")]
#![expect(clippy::print_stderr, reason = "these commands talk to people")]

mod build;
mod demo;
mod lint;
mod progress;
mod run;
mod setup;
mod sweep;
mod test;

use std::process::ExitCode;

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
