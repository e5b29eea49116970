//! `netmesh status`: problems first.

use serde::Serialize;

use super::apply::{Node, load};
use super::arguments::{Global, Health, Status};
use super::confirm;
use super::dataplane::{InstanceReport, all};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::table::{bytes, table};
use crate::kernel::netns;
use crate::plan::state::{LinkKind, Namespace, PublicKey, State};
use crate::reconcile::{self, Record};
use crate::wireguard::device;

#[derive(Debug, Serialize)]
struct Report {
    node: String,
    ready: bool,
    problems: Vec<String>,
    pending: usize,
    /// The change that waits to be confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmation: Option<Confirmation>,
    networks: Vec<NetworkReport>,
    tunnels: Vec<TunnelReport>,
    dataplanes: Vec<DataplaneReport>,
}

#[derive(Debug, Serialize)]
struct Confirmation {
    seconds_left: u64,
    /// What is undone: back to the objects before, or all of it.
    undone_to: &'static str,
}

#[derive(Debug, Serialize)]
struct NetworkReport {
    network: String,
    allocation: String,
    resources: usize,
    here: usize,
    /// The exits in use.
    exits: Vec<String>,
}

#[derive(Debug, Serialize)]
struct TunnelReport {
    namespace: String,
    interface: String,
    peer: String,
    public_key: String,
    endpoint: Option<String>,
    handshake_seconds_ago: Option<u64>,
    received_bytes: u64,
    sent_bytes: u64,
}

#[derive(Debug, Serialize)]
struct DataplaneReport {
    namespace: String,
    #[serde(flatten)]
    instance: InstanceReport,
}

/// Runs the command.
pub(super) async fn run(
    global: &Global,
    status: &Status,
    out: &mut Output,
) -> Result<Exit, Failure> {
    if status.check.is_none() && !global.config.join("node.toml").exists() {
        // No objects: at most a plain router, and that has a status too.
        tracing::info!("no node.toml in {}", global.config.display());
        return super::dataplane::run(None, out).await;
    }
    let mut node = load(global, &[]).await?;
    let report = report(&mut node).await?;
    let exit = match status.check {
        Some(Health::Live) => return Ok(Exit::Done),
        Some(Health::Ready) if report.ready => return Ok(Exit::Done),
        Some(Health::Ready) => return Ok(Exit::Unhealthy),
        None if report.problems.is_empty() => Exit::Done,
        None => Exit::Unhealthy,
    };
    if out.is_json() {
        out.json(&report)?;
    } else {
        out.text(text(&report, out.is_brief()))?;
    }
    Ok(exit)
}

async fn report(node: &mut Node) -> Result<Report, Failure> {
    let mut problems = Vec::new();
    let pending = match node.reconciler.plan(&node.desired).await {
        Ok(steps) if steps.is_empty() => 0,
        Ok(steps) => {
            problems.push(format!(
                "{} steps pending: the node is not what its objects say; see `netmesh plan`",
                steps.len()
            ));
            steps.len()
        }
        Err(error) => {
            problems.push(error.to_string());
            0
        }
    };
    let confirmation = confirmation(&mut problems)?;
    let observed = node.reconciler.observe(&node.desired).await?;
    let namespaces: Vec<Namespace> = observed.namespaces.keys().cloned().collect();
    let dataplanes: Vec<DataplaneReport> = all(node.reconciler.kernel(), &namespaces)
        .await?
        .into_iter()
        .map(|(namespace, instance)| DataplaneReport {
            namespace: namespace.to_string(),
            instance,
        })
        .collect();
    for plane in &dataplanes {
        if plane.instance.unresolved > 0 {
            problems.push(format!(
                "data plane {}: {} next hops unresolved: their packets take the kernel's path",
                plane.instance.name, plane.instance.unresolved
            ));
        }
    }
    Ok(Report {
        node: node.config.node.to_string(),
        ready: problems.is_empty(),
        problems,
        pending,
        confirmation,
        networks: node
            .networks
            .iter()
            .map(|network| NetworkReport {
                network: network.name.to_string(),
                allocation: network.allocation.to_string(),
                resources: network.resources.len(),
                here: network.resources_of(&node.config.node).count(),
                exits: network.exits().map(|exit| exit.name.to_string()).collect(),
            })
            .collect(),
        tunnels: tunnels(node, &observed)?,
        dataplanes,
    })
}

/// The change that waits to be confirmed; one whose time is over is a problem.
fn confirmation(problems: &mut Vec<String>) -> Result<Option<Confirmation>, Failure> {
    let Some(pending) = confirm::seen(&Record::open()?)? else {
        return Ok(None);
    };
    let now = reconcile::now()?;
    let left = pending.left(now);
    if left.is_none() {
        problems.push(format!(
            "a change was not confirmed and should have been undone {} s ago: netmesh rollback",
            pending.over(now).as_secs()
        ));
    }
    Ok(Some(Confirmation {
        seconds_left: left.unwrap_or_default().as_secs(),
        undone_to: if pending.before.is_some() {
            "the objects before"
        } else {
            "nothing"
        },
    }))
}

fn tunnels(node: &Node, observed: &State) -> Result<Vec<TunnelReport>, Failure> {
    let name_of = |key: &PublicKey| {
        node.networks
            .iter()
            .flat_map(|network| {
                network
                    .resources
                    .iter()
                    .map(move |resource| (network, resource))
            })
            .find(|(_, resource)| resource.public_key == *key)
            .map_or_else(
                || "?".to_owned(),
                |(network, resource)| format!("{}/{}", network.name, resource.name),
            )
    };
    let mut rows = Vec::new();
    for (namespace, state) in &observed.namespaces {
        for (interface, link) in &state.links {
            if link.kind != LinkKind::Wireguard {
                continue;
            }
            let Ok(peers) = netns::run_in(namespace, || device::status(interface))? else {
                continue;
            };
            for (key, peer) in peers {
                rows.push(TunnelReport {
                    namespace: namespace.to_string(),
                    interface: interface.clone(),
                    peer: name_of(&key),
                    public_key: key.0,
                    endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
                    handshake_seconds_ago: peer.handshake_age.map(|age| age.as_secs()),
                    received_bytes: peer.received,
                    sent_bytes: peer.sent,
                });
            }
        }
    }
    Ok(rows)
}

fn text(report: &Report, brief: bool) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        text.push_str(&format!("problem: {problem}\n"));
    }
    let state = if report.ready { "ready" } else { "not ready" };
    text.push_str(&format!("node {}: {state}\n", report.node));
    if let Some(Confirmation {
        seconds_left: left @ 1..,
        undone_to,
    }) = &report.confirmation
    {
        text.push_str(&format!(
            "a change waits to be confirmed: undone to {undone_to} in {left} s\n"
        ));
    }
    for network in &report.networks {
        text.push_str(&format!(
            "network {} in {}: {} resources, {} here, exit {}\n",
            network.network,
            network.allocation,
            network.resources,
            network.here,
            if network.exits.is_empty() {
                "none".to_owned()
            } else {
                network.exits.join(", ")
            },
        ));
    }
    if brief {
        return text;
    }
    let rows = report
        .tunnels
        .iter()
        .map(|tunnel| {
            vec![
                tunnel.namespace.clone(),
                tunnel.interface.clone(),
                tunnel.peer.clone(),
                tunnel.endpoint.clone().unwrap_or_else(|| "hidden".into()),
                tunnel
                    .handshake_seconds_ago
                    .map_or_else(|| "never".into(), |age| format!("{age} s ago")),
                bytes(tunnel.received_bytes),
                bytes(tunnel.sent_bytes),
            ]
        })
        .collect();
    let header = [
        "namespace",
        "tunnel",
        "peer",
        "endpoint",
        "handshake",
        "received",
        "sent",
    ];
    let tunnels = table(&header, rows, &[5, 6]);
    if !tunnels.is_empty() {
        text.push_str(&format!("\n{tunnels}"));
    }
    for plane in &report.dataplanes {
        text.push_str(&format!(
            "\n[{}] {}",
            plane.namespace,
            plane.instance.text()
        ));
    }
    text
}
