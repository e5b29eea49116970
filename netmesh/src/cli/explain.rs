//! `netmesh explain`.

use std::net::IpAddr;

use anyhow::{anyhow, bail};
use etherparse::PacketBuilder;
use netmesh_common::verdict::Outcome;
use serde::Serialize;

use super::arguments::{Explain, ProtocolArgument};
use super::dataplane::look;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::dataplane::View;
use crate::dataplane::attach::PortRow;
use crate::dataplane::explain::{SENDER, Trial};
use crate::dataplane::fib::{Match, origin_name};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::FibRoute;

/// A packet and what became of it.
#[derive(Debug, Serialize)]
struct Report {
    source: IpAddr,
    destination: IpAddr,
    protocol: &'static str,
    /// IP length.
    size: usize,
    hop_limit: u8,
    port: String,
    hook: &'static str,
    program: &'static str,
    tag: String,
    matched: Matched,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<Egress>,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meaning: Option<&'static str>,
    counted: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Matched {
    source: Option<Match>,
    destination: Option<Match>,
}

#[derive(Debug, Serialize)]
struct Egress {
    device: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
}

/// Runs the command.
pub(super) async fn run(arguments: &Explain, out: &mut Output) -> Result<Exit, Failure> {
    let (view, facts) = look().await?;
    let (source, destination) = (arguments.source, arguments.destination);
    if source.is_ipv4() != destination.is_ipv4() {
        let error = anyhow!("{source} and {destination} are not of one address family");
        return Err(Failure::rejected(error));
    }
    let matched = Matched {
        source: view.get(source, &facts)?,
        destination: view.get(destination, &facts)?,
    };
    let port = port(arguments, &view, &facts, &matched)?;
    let address = view.address_for(&port)?;
    let frame = frame(arguments, address).map_err(Failure::rejected)?;
    let trial = view.try_frame(&port, &frame)?;
    let report = report(arguments, &port, &facts, matched, &trial, frame.len() - 14);
    if out.is_json() {
        out.json(&report)?;
    } else if out.is_brief() {
        out.text(brief(&report))?;
    } else {
        out.text(text(&report))?;
    }
    Ok(Exit::Done)
}

/// The port asked for; otherwise the one behind which the source lives, or the only one.
fn port(
    arguments: &Explain,
    view: &View,
    facts: &NamespaceFacts,
    matched: &Matched,
) -> Result<PortRow, Failure> {
    let ports = view.ports(facts)?;
    let names: Vec<&str> = ports
        .iter()
        .filter_map(|row| Some(row.name.as_ref()?.as_str()))
        .collect();
    let behind = matched
        .source
        .as_ref()
        .and_then(|found| link(&found.row.route));
    let wanted = arguments.ingress.as_deref().or(behind);
    let found = match (wanted, ports.as_slice()) {
        (Some(wanted), _) => ports.iter().find(|row| row.name.as_deref() == Some(wanted)),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    found.cloned().ok_or_else(|| {
        let what = match &arguments.ingress {
            Some(name) => format!("{name} is no port of this data plane"),
            None => "nothing tells through which port the packet comes in".to_owned(),
        };
        Failure::rejected(anyhow!("{what}; name one by --in: {}", names.join(", ")))
    })
}

fn link(route: &FibRoute) -> Option<&str> {
    match route {
        FibRoute::Via { link, .. } | FibRoute::Connected { link } => Some(link),
        _ => None,
    }
}

/// The packet behind an Ethernet header, padded with zeros to the size asked for.
fn frame(arguments: &Explain, address: [u8; 6]) -> anyhow::Result<Vec<u8>> {
    let hop_limit = arguments.hop_limit;
    let ethernet = PacketBuilder::ethernet2(SENDER, address);
    let (builder, header) = match (arguments.source, arguments.destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => (
            ethernet.ipv6(source.octets(), destination.octets(), hop_limit),
            40,
        ),
        (IpAddr::V4(source), IpAddr::V4(destination)) => (
            ethernet.ipv4(source.octets(), destination.octets(), hop_limit),
            20,
        ),
        _ => bail!("source and destination are not of one address family"),
    };
    let transport = match arguments.proto {
        ProtocolArgument::Udp | ProtocolArgument::Icmp => 8,
        ProtocolArgument::Tcp => 20,
    };
    let least = header + transport;
    let size = arguments.size.map_or(100, usize::from);
    let Some(payload) = size.checked_sub(least) else {
        bail!("--size {size} is too small: the headers alone are {least} bytes");
    };
    let payload = vec![0; payload];
    let (from, to) = (arguments.sport, arguments.dport);
    let mut frame = Vec::with_capacity(14 + size);
    match (arguments.proto, arguments.source) {
        (ProtocolArgument::Udp, _) => builder.udp(from, to).write(&mut frame, &payload)?,
        (ProtocolArgument::Tcp, _) => builder.tcp(from, to, 0, 0).write(&mut frame, &payload)?,
        (ProtocolArgument::Icmp, IpAddr::V6(_)) => {
            builder
                .icmpv6_echo_request(1, 1)
                .write(&mut frame, &payload)?;
        }
        (ProtocolArgument::Icmp, IpAddr::V4(_)) => {
            builder
                .icmpv4_echo_request(1, 1)
                .write(&mut frame, &payload)?;
        }
    }
    Ok(frame)
}

fn report(
    arguments: &Explain,
    port: &PortRow,
    facts: &NamespaceFacts,
    matched: Matched,
    trial: &Trial,
    size: usize,
) -> Report {
    let name = port.name.as_deref().unwrap_or_default().to_owned();
    let (decision, reason, meaning) = match trial.outcome {
        Outcome::Forward => ("forward", None, None),
        Outcome::Punt(reason) => ("punt", Some(reason.name()), Some(reason.sentence())),
        Outcome::Drop(reason) => ("drop", Some(reason.name()), Some(reason.sentence())),
    };
    let counted = match reason {
        Some(reason) => vec![format!("port {name}, {decision} {reason}")],
        None => {
            let prefix = |found: &Option<Match>, side: &str| {
                let found = found.as_ref().filter(|found| found.counted)?;
                Some(format!("prefix {}, {side}", found.row.prefix))
            };
            let both = [
                prefix(&matched.destination, "to"),
                prefix(&matched.source, "from"),
            ];
            let port = Some(format!("port {name}, forwarded"));
            [port].into_iter().chain(both).flatten().collect()
        }
    };
    let egress = matched.destination.as_ref().and_then(|found| {
        let (gateway, link) = match &found.row.route {
            FibRoute::Via { gateway, link } => (gateway, link),
            FibRoute::Paths(paths) if matches!(trial.outcome, Outcome::Forward) => {
                let chosen = chosen(found, &trial.frame, facts)?;
                let path = paths
                    .iter()
                    .find(|path| (path.link.as_str(), path.gateway) == chosen)?;
                (&path.gateway, &path.link)
            }
            _ => return None,
        };
        // A frame that was forwarded names its next hop itself.
        let address = match (trial.outcome, trial.frame.first_chunk::<6>()) {
            (Outcome::Forward, Some(address))
                if found.link_address.is_some() || !found.next_hops.is_empty() =>
            {
                Some(*address)
            }
            _ => found.link_address,
        };
        Some(Egress {
            device: link.to_string(),
            gateway: *gateway,
            link_address: address.map(mac),
            mtu: facts.devices.get(link).map(|device| device.mtu),
        })
    });
    Report {
        source: arguments.source,
        destination: arguments.destination,
        protocol: arguments.proto.name(),
        size,
        hop_limit: arguments.hop_limit,
        port: name,
        hook: port.link,
        program: trial.program,
        tag: format!("{:016x}", trial.tag),
        matched,
        egress,
        decision,
        reason,
        meaning: meaning.map(str::trim),
        counted,
    }
}

/// Which of several next hops a frame was sent to: its addresses say so. Nobody can tell from a
/// packet without a link-layer header.
fn chosen<'a>(
    found: &Match,
    frame: &[u8],
    facts: &'a NamespaceFacts,
) -> Option<(&'a str, Option<IpAddr>)> {
    let [to, from] = [frame.get(..6)?, frame.get(6..12)?];
    found.next_hops.iter().find_map(|(ifindex, gateway, link)| {
        let mut devices = facts.devices.iter();
        let (name, device) = devices.find(|(_, device)| device.ifindex == *ifindex)?;
        let is_it = link.is_some_and(|link| link[..] == *to)
            && device.mac.is_some_and(|mac| mac[..] == *from);
        is_it.then_some((name.as_str(), *gateway))
    })
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// One line: what becomes of it.
fn brief(report: &Report) -> String {
    match (report.reason, &report.egress) {
        (Some(reason), _) => format!("{} {reason}\n", report.decision),
        (None, Some(egress)) => {
            let via = egress
                .gateway
                .map_or_else(String::new, |via| format!(" via {via}"));
            format!("{}{via} dev {}\n", report.decision, egress.device)
        }
        (None, None) => format!("{}\n", report.decision),
    }
}

fn text(report: &Report) -> String {
    let matched = |found: &Option<Match>| match found {
        None => "no prefix matches".to_owned(),
        Some(found) => {
            let row = &found.row;
            let stale = if found.stale {
                " (the table is being changed)"
            } else {
                ""
            };
            format!(
                "{} {} [{}]{stale}",
                row.prefix,
                row.route,
                origin_name(row.origin)
            )
        }
    };
    let mut lines = vec![
        (
            "packet",
            format!(
                "{} > {}, {}, {} bytes, hop limit {}",
                report.source, report.destination, report.protocol, report.size, report.hop_limit
            ),
        ),
        ("in", format!("{} ({})", report.port, report.hook)),
        ("source", matched(&report.matched.source)),
        ("destination", matched(&report.matched.destination)),
    ];
    if let Some(egress) = &report.egress {
        let mut text = egress.device.clone();
        if let Some(gateway) = egress.gateway {
            text = format!("{gateway} dev {text}");
        }
        if let Some(address) = &egress.link_address {
            text.push_str(&format!(" lladdr {address}"));
        }
        if let Some(mtu) = egress.mtu {
            text.push_str(&format!(" mtu {mtu}"));
        }
        lines.push(("next hop", text));
    }
    let decision = match (report.reason, report.meaning) {
        (Some(reason), Some(meaning)) => format!("{} {reason}: {meaning}", report.decision),
        _ => report.decision.to_owned(),
    };
    lines.push(("decision", decision));
    lines.push(("counted", report.counted.join("; ")));
    lines.push(("program", format!("{} tag {}", report.program, report.tag)));
    let mut text = String::new();
    for (name, value) in lines {
        text.push_str(&format!("{name:<12} {value}\n"));
    }
    text
}
