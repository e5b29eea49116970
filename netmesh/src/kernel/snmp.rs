//! The kernel's own counters of a namespace: what it forwarded, what a device refused.

use std::fs;

use super::{Error, netns};
use crate::plan::state::Namespace;

/// Packets the kernel itself forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelForwarded {
    /// `Ip6OutForwDatagrams` of `/proc/net/snmp6`.
    pub ipv6: u64,
    /// `ForwDatagrams` of `/proc/net/snmp`.
    pub ipv4: u64,
}

/// Reads them.
///
/// # Errors
/// When the namespace is not there.
pub fn forwarded(namespace: &Namespace) -> Result<KernelForwarded, Error> {
    let read = |file: &'static str| {
        netns::run_in(namespace, || fs::read_to_string(file))?.map_err(|source| Error::File {
            action: "cannot read",
            path: file.into(),
            source,
        })
    };
    let ipv6 = read("/proc/thread-self/net/snmp6")?
        .lines()
        .find_map(|line| {
            line.strip_prefix("Ip6OutForwDatagrams")?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let text = read("/proc/thread-self/net/snmp")?;
    let mut rows = text.lines().filter(|line| line.starts_with("Ip:"));
    let ipv4 = match (rows.next(), rows.next()) {
        (Some(names), Some(values)) => names
            .split_whitespace()
            .zip(values.split_whitespace())
            .find_map(|(name, value)| (name == "ForwDatagrams").then(|| value.parse().ok())?)
            .unwrap_or(0),
        _ => 0,
    };
    Ok(KernelForwarded { ipv6, ipv4 })
}

/// Packets that a device received and could not use (`rx_errors`, `/proc/net/dev`). The kernel's
/// WireGuard counts here what a peer sent from an address that is not its own.
///
/// # Errors
/// When the namespace is not there. A device that is not there has refused nothing.
pub fn receive_errors(namespace: &Namespace, link: &str) -> Result<u64, Error> {
    let file = "/proc/thread-self/net/dev";
    let text =
        netns::run_in(namespace, || fs::read_to_string(file))?.map_err(|source| Error::File {
            action: "cannot read",
            path: file.into(),
            source,
        })?;
    // Received bytes, packets, errors; the name ends in a colon.
    Ok(text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(link)?.strip_prefix(':'))
        .find_map(|values| values.split_whitespace().nth(2)?.parse().ok())
        .unwrap_or(0))
}
