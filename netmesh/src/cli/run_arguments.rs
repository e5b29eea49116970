//! Words and flags of `netmesh run`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::metrics::Selection;
use crate::plan::state::ROUTE_PROTOCOL;

/// `netmesh run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// How to write the log, on stderr.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Remove what netmesh made on this node when stopped; it stays otherwise.
    #[arg(long)]
    pub flush_on_exit: bool,
    /// Look at everything when nothing has happened for so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub resync: u64,
    /// Forward by the kernel's routes of these protocols too (main table): names or numbers, as
    /// `ip route` prints them.
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    pub mirror: Vec<RouteProtocol>,
    /// Serve metrics for Prometheus at /metrics: PORT on 127.0.0.1, or ADDRESS:PORT.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "9586")]
    pub metrics: Option<Listen>,
    /// Prefixes with series of their own: those with the most bytes, or `all`. Every network has
    /// its sums.
    #[arg(long, value_name = "N", default_value = "1000")]
    pub metrics_prefixes: Selection,
    /// Have names of namespaces made by whoever listens there: for a service with mounts of its own,
    /// see netmesh-names.socket.
    #[arg(long, value_name = "SOCKET")]
    pub names: Option<PathBuf>,
}

/// A route's protocol: who put it into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteProtocol(pub u8);

/// Names of `/etc/iproute2/rt_protos`.
const PROTOCOLS: [(&str, u8); 14] = [
    ("boot", 3),
    ("static", 4),
    ("gated", 8),
    ("ra", 9),
    ("zebra", 11),
    ("bird", 12),
    ("dhcp", 16),
    ("keepalived", 18),
    ("openr", 99),
    ("bgp", 186),
    ("isis", 187),
    ("ospf", 188),
    ("rip", 189),
    ("eigrp", 192),
];

impl std::str::FromStr for RouteProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = PROTOCOLS.iter().find(|(name, _)| *name == text);
        let number = known
            .map(|(_, number)| *number)
            .or_else(|| text.parse().ok());
        match number {
            // The kernel's own, and ours, are in the table by other origins.
            Some(2 | ROUTE_PROTOCOL) => Err("these routes are followed anyway".into()),
            Some(number) if number > 2 => Ok(Self(number)),
            _ => {
                let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
                Err(format!(
                    "a number from 3 to 255, or one of {}",
                    names.join(", ")
                ))
            }
        }
    }
}

/// `PORT` or `ADDRESS:PORT`.
#[derive(Clone, Copy, Debug)]
pub struct Listen(pub SocketAddr);

impl std::str::FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.parse() {
            return Ok(Self(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        }
        let address = text.parse().map(Self);
        address.map_err(|_| "a port, or an address and a port: 9586, [::1]:9586".into())
    }
}

/// How a log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
