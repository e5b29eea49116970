//! Words and flags of `netmesh dataplane`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use ipnet::IpNet;

/// `netmesh dataplane`.
#[derive(Debug, Subcommand)]
pub enum Dataplane {
    /// Load the programs for this namespace if need be and attach them to ports.
    Attach {
        /// A port; give it several times.
        #[arg(long = "port", required = true, value_name = "DEV")]
        ports: Vec<String>,
        /// Where the program sits; by the port's kind when left out.
        #[arg(long, value_enum)]
        hook: Option<Hook>,
        /// Which sources are believed; left out, a port that is attached keeps its own, with its
        /// martians, and any other believes all.
        #[arg(long, value_enum)]
        sources: Option<SourcesArgument>,
        /// With `--sources external`: a prefix that must not cross, besides the special-purpose
        /// ones (RFC 6890); give it several times.
        #[arg(long = "martian", value_name = "PREFIX")]
        martians: Vec<IpNet>,
        /// With `--sources external`: a special-purpose prefix that may cross; give it several
        /// times. The longest match of both lists counts.
        #[arg(long = "not-martian", value_name = "PREFIX")]
        not_martians: Vec<IpNet>,
        /// Show what would be done and touch nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Detach ports; without any, everything: the kernel forwards alone.
    Detach {
        /// A port; give it several times.
        #[arg(long = "port", value_name = "DEV")]
        ports: Vec<String>,
        /// Show what would be done and touch nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Put this binary's programs in the place of those that run: ports, routes, counters and
    /// traffic stay. What the kernel refuses, or decides wrongly when it is tried, changes nothing.
    Upgrade {
        /// The programs of this file in their place: an object that netmesh-ebpf was built into.
        #[arg(long, value_name = "FILE")]
        object: Option<PathBuf>,
        /// In the namespaces of this node's resources too.
        #[arg(long)]
        all: bool,
        /// Show what would be done and touch nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show instances, ports, hooks, modes and their counters.
    Status,
}

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Hook {
    /// XDP in the driver.
    Xdp,
    /// Generic XDP.
    XdpGeneric,
    /// TC ingress.
    Tc,
}

/// Which sources a port believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourcesArgument {
    /// All.
    Any,
    /// Only prefixes that live behind the port.
    Behind,
    /// All but our own prefixes and martians.
    External,
}
