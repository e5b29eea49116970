//! `netmesh trace`.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use etherparse::{LaxSlicedPacket, TransportSlice};
use ipnet::IpNet;
use netmesh_common::trace::{TraceEvent, TraceFilter, outcome_bit, outcome_of};
use netmesh_common::verdict::{DropReason, Outcome, PuntReason};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::arguments::Trace;
use super::dataplane::look;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::dataplane::trace::Tracer;
use crate::plan::facts::NamespaceFacts;

/// One decision, for people and for JSON.
#[derive(Debug, Serialize)]
struct Line {
    /// Seconds since 1970.
    time: f64,
    port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<String>,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<IpAddr>,
    what: String,
    /// Bytes from the first header on.
    length: u32,
}

/// Runs the command.
pub(super) async fn run(arguments: &Trace, out: &mut Output) -> Result<Exit, Failure> {
    let (view, facts) = look().await?;
    let filter = filter(arguments, &facts).map_err(Failure::rejected)?;
    let mut tracer = Tracer::start(&view, filter)?;
    tracing::info!("the question stands");
    let mut left = arguments.count.unwrap_or(u64::MAX);
    // The ring has room for much more than comes in between.
    let mut look = tokio::time::interval(Duration::from_millis(10));
    let mut again = tokio::time::interval(Duration::from_secs(1));
    let end = tokio::time::sleep(Duration::from_secs(
        arguments.seconds.unwrap_or(u64::MAX >> 8),
    ));
    tokio::pin!(end);
    let boot = since_1970();
    let mut last = false;
    while left > 0 && !last {
        tokio::select! {
            _ = again.tick() => tracer.keep()?,
            _ = tokio::signal::ctrl_c() => last = true,
            () = &mut end => last = true,
            _ = look.tick() => {}
        }
        let mut some = false;
        while left > 0
            && let Some(event) = tracer.answer()
        {
            show(&line(&event, boot, &facts), out)?;
            left -= 1;
            some = true;
        }
        if some {
            out.flush()?;
        }
    }
    let missed = tracer.missed()?;
    if missed > 0 {
        tracing::warn!(
            missed,
            "more decisions were wanted than --rate let through ({} a second)",
            arguments.rate
        );
    }
    Ok(Exit::Done)
}

fn filter(arguments: &Trace, facts: &NamespaceFacts) -> anyhow::Result<TraceFilter> {
    let mut filter = TraceFilter {
        limit: arguments.rate,
        ..TraceFilter::default()
    };
    if let Some(name) = &arguments.port {
        let device = facts
            .devices
            .get(name)
            .ok_or_else(|| anyhow!("there is no device {name} in this namespace"))?;
        filter.ifindex = device.ifindex;
    }
    match arguments.prefix {
        None => {}
        Some(IpNet::V6(net)) => {
            filter.family = 6;
            filter.network = net.network().octets();
            filter.mask = net.netmask().octets();
        }
        Some(IpNet::V4(net)) => {
            filter.family = 4;
            filter.network[..4].copy_from_slice(&net.network().octets());
            filter.mask[..4].copy_from_slice(&net.netmask().octets());
        }
    }
    for word in &arguments.reasons {
        filter.outcomes |= outcomes(word)?;
    }
    if arguments.reasons.is_empty() {
        filter.outcomes = u64::MAX;
    }
    Ok(filter)
}

/// The outcomes of a word: a decision, or a reason.
fn outcomes(word: &str) -> anyhow::Result<u64> {
    let punts = || PuntReason::ALL.iter().copied().map(Outcome::Punt);
    let drops = || DropReason::ALL.iter().copied().map(Outcome::Drop);
    let bits = match word {
        "forward" => outcome_bit(Outcome::Forward),
        "punt" => punts().map(outcome_bit).sum(),
        "drop" => drops().map(outcome_bit).sum(),
        _ => punts()
            .chain(drops())
            .filter(|outcome| names(*outcome).1 == Some(word))
            .map(outcome_bit)
            .sum(),
    };
    if bits == 0 {
        let all: Vec<&str> = punts()
            .chain(drops())
            .filter_map(|one| names(one).1)
            .collect();
        return Err(anyhow!(
            "no decision or reason is called {word}; there are forward, punt, drop, {}",
            all.join(", ")
        ));
    }
    Ok(bits)
}

const fn names(outcome: Outcome) -> (&'static str, Option<&'static str>) {
    match outcome {
        Outcome::Forward => ("forward", None),
        Outcome::Punt(reason) => ("punt", Some(reason.name())),
        Outcome::Drop(reason) => ("drop", Some(reason.name())),
    }
}

/// Seconds from 1970 to the start of the monotonic clock.
fn since_1970() -> f64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let up = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.unwrap_or_default().as_secs_f64() - up.unwrap_or_default().as_secs_f64()
}

fn line(event: &TraceEvent, boot: f64, facts: &NamespaceFacts) -> Line {
    let name = |ifindex| {
        facts
            .name_of(ifindex)
            .map_or_else(|| format!("if{ifindex}"), ToString::to_string)
    };
    let (decision, reason) = outcome_of(event.outcome).map_or(("unknown", None), names);
    let data = &event.data[..usize::from(event.captured).min(event.data.len())];
    let (source, destination, what) = describe(data, event.layer3 != 0);
    Line {
        time: boot + event.time as f64 / 1e9,
        port: name(event.ifindex),
        egress: (event.egress != 0 && decision == "forward").then(|| name(event.egress)),
        decision,
        reason,
        source,
        destination,
        what,
        length: event.length,
    }
}

/// Addresses and what else the headers say.
fn describe(data: &[u8], layer3: bool) -> (Option<IpAddr>, Option<IpAddr>, String) {
    let sliced = if layer3 {
        LaxSlicedPacket::from_ip(data).map_err(|_| ())
    } else {
        LaxSlicedPacket::from_ethernet(data).map_err(|_| ())
    };
    let Ok(packet) = sliced else {
        return (None, None, "no readable header".to_owned());
    };
    let (source, destination, protocol) = match &packet.net {
        Some(etherparse::LaxNetSlice::Ipv4(ip)) => (
            Some(IpAddr::from(ip.header().source_addr())),
            Some(IpAddr::from(ip.header().destination_addr())),
            ip.header().protocol().0,
        ),
        Some(etherparse::LaxNetSlice::Ipv6(ip)) => (
            Some(IpAddr::from(ip.header().source_addr())),
            Some(IpAddr::from(ip.header().destination_addr())),
            ip.header().next_header().0,
        ),
        _ => (None, None, 0),
    };
    let what = match &packet.transport {
        Some(TransportSlice::Udp(udp)) => {
            format!("udp {} > {}", udp.source_port(), udp.destination_port())
        }
        Some(TransportSlice::Tcp(tcp)) => {
            format!("tcp {} > {}", tcp.source_port(), tcp.destination_port())
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            format!("icmpv6 type {} code {}", icmp.type_u8(), icmp.code_u8())
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            format!("icmp type {} code {}", icmp.type_u8(), icmp.code_u8())
        }
        _ if source.is_some() => format!("protocol {protocol}"),
        _ => "not IP".to_owned(),
    };
    (source, destination, what)
}

fn show(line: &Line, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() {
        return Ok(out.json(line)?);
    }
    let seconds = line.time.rem_euclid(86_400.0);
    let (hours, minutes) = ((seconds / 3600.0) as u32, (seconds / 60.0) as u32 % 60);
    let way = match &line.egress {
        Some(egress) => format!("{} > {egress}", line.port),
        None => line.port.clone(),
    };
    let decision = match line.reason {
        Some(reason) => format!("{} {reason}", line.decision),
        None => line.decision.to_owned(),
    };
    let addresses = match (line.source, line.destination) {
        (Some(source), Some(destination)) => format!("{source} > {destination} "),
        _ => String::new(),
    };
    Ok(out.text(format_args!(
        "{hours:02}:{minutes:02}:{:09.6} {way}: {decision}: {addresses}{}, {} bytes\n",
        seconds % 60.0,
        line.what,
        line.length
    ))?)
}
