//! `netmesh check`: parse, derive, validate; offline and unprivileged.

use serde::Serialize;

use super::arguments::Check;
use super::config::{self, Objects};
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::model::derive::Derived;

/// Runs the command.
pub(super) fn run(
    folder: &std::path::Path,
    arguments: &Check,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let objects = config::load(folder, &arguments.files, config::Need::Networks)?;
    let report = Report::of(&objects);
    if out.is_json() {
        out.json(&report)?;
        return Ok(Exit::Done);
    }
    if report.networks.is_empty() && report.node.is_none() {
        out.text(format_args!(
            "nothing to check: no object in {}/networks and none named\n",
            folder.display()
        ))?;
    }
    for network in &report.networks {
        if arguments.print {
            out.text(network.print())?;
        } else {
            out.text(format_args!(
                "network {}: {} resources in {}, ok\n",
                network.network,
                network.resources.len(),
                network.allocation,
            ))?;
        }
    }
    if let Some(node) = &report.node {
        out.text(format_args!("node {node}: ok\n"))?;
    }
    Ok(Exit::Done)
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    networks: Vec<NetworkReport>,
    node: Option<String>,
}

#[derive(Debug, Serialize)]
struct NetworkReport {
    network: String,
    allocation: String,
    resources: Vec<ResourceReport>,
}

#[derive(Debug, Serialize)]
struct ResourceReport {
    name: String,
    node: String,
    prefix: String,
    exit: bool,
    /// The exit it uses.
    uses: Option<String>,
    derived: Derived,
}

impl Report {
    fn of(objects: &Objects) -> Self {
        let networks = objects
            .networks
            .iter()
            .map(|network| NetworkReport {
                network: network.name.to_string(),
                allocation: network.allocation.to_string(),
                resources: network
                    .resources
                    .iter()
                    .map(|resource| ResourceReport {
                        name: resource.name.to_string(),
                        node: resource.node.to_string(),
                        prefix: resource.prefix.to_string(),
                        exit: resource.exit.is_some(),
                        uses: network.exit_for(resource).map(|exit| exit.name.to_string()),
                        derived: network.derive(resource),
                    })
                    .collect(),
            })
            .collect();
        Self {
            ok: true,
            networks,
            node: objects.node.as_ref().map(|node| node.node.to_string()),
        }
    }
}

impl NetworkReport {
    fn print(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "network {} in {}", self.network, self.allocation);
        for resource in &self.resources {
            let derived = &resource.derived;
            let kind = if resource.exit { " (exit)" } else { "" };
            let _ = writeln!(text, "  {}{kind} on {}", resource.name, resource.node);
            let _ = writeln!(text, "    namespace   {}", derived.netns);
            let _ = writeln!(
                text,
                "    prefix      {} {}",
                derived.prefix_v6, derived.prefix_v4
            );
            let _ = writeln!(
                text,
                "    bridge      {} {} {}",
                derived.bridge, derived.bridge_v6, derived.bridge_v4
            );
            let _ = writeln!(
                text,
                "    wireguard   {} {} {}",
                derived.wireguard, derived.wireguard_v6, derived.wireguard_v4
            );
            if let Some(exit) = &resource.uses {
                let _ = writeln!(text, "    internet    by exit {exit}");
            }
            if resource.exit {
                let _ = writeln!(
                    text,
                    "    segment     {} {} {} via {} or {}",
                    derived.exit_port,
                    derived.segment_link_local,
                    derived.segment_address,
                    derived.router_link_local,
                    derived.router_segment_address,
                );
            }
        }
        text
    }
}
