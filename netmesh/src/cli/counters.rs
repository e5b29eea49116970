//! `netmesh counters`.

use std::collections::BTreeSet;
use std::time::Duration;

use netmesh_common::table::Origin;
use serde::Serialize;

use super::arguments::Counters;
use super::dataplane::look;
use super::exit::{Exit, Failure};
use super::output::Output;
use super::table::{bytes, table};
use crate::dataplane::counters::{PortCountersRow, PrefixRow};

#[derive(Debug, Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    prefixes: Option<Vec<PrefixRow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<PortCountersRow>>,
}

/// Runs the command.
pub(super) async fn run(arguments: &Counters, out: &mut Output) -> Result<Exit, Failure> {
    let Some(seconds) = arguments.watch else {
        let report = read(arguments).await?;
        unmatched(arguments, &report);
        show(&report, out)?;
        return Ok(Exit::Done);
    };
    let mut interval = tokio::time::interval(Duration::from_secs(seconds));
    loop {
        tokio::select! {
            _ = interval.tick() => {
                let report = read(arguments).await?;
                out.repaint()?;
                show(&report, out)?;
            }
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Done),
        }
    }
}

/// Says which prefixes nothing is counted for: an empty table may be a typo.
fn unmatched(arguments: &Counters, report: &Report) {
    let Some(rows) = report.prefixes.as_ref().filter(|_| arguments.top.is_none()) else {
        return;
    };
    for prefix in &arguments.prefixes {
        if !rows.iter().any(|row| prefix.contains(&row.prefix)) {
            tracing::warn!(
                "{prefix}: no route inside it is counted; `netmesh route list` shows all"
            );
        }
    }
}

/// Nothing is locked: writers never wait for a watcher.
async fn read(arguments: &Counters) -> Result<Report, Failure> {
    let (view, facts) = look().await?;
    if arguments.drops {
        return Ok(Report {
            prefixes: None,
            ports: Some(view.port_counters(&facts)?),
        });
    }
    // The node's own addresses and subnets are never forwarded to: they have nothing to count.
    let routed: BTreeSet<_> = view
        .routes(&facts)?
        .into_iter()
        .filter(|row| row.active && row.origin != Origin::Connected)
        .map(|row| row.prefix)
        .collect();
    let mut rows = view.prefix_counters()?;
    rows.retain(|row| {
        let wanted = arguments.prefixes.is_empty()
            || arguments
                .prefixes
                .iter()
                .any(|prefix| prefix.contains(&row.prefix));
        wanted && routed.contains(&row.prefix)
    });
    if let Some(top) = arguments.top {
        rows.sort_by_key(|row| std::cmp::Reverse(row.to.bytes + row.from.bytes));
        rows.truncate(top);
    }
    Ok(Report {
        prefixes: Some(rows),
        ports: None,
    })
}

/// One line an item, without a header: a prefix and packets and bytes to and from it; or a port, an
/// outcome, a reason and packets.
fn brief(report: &Report, out: &mut Output) -> Result<(), Failure> {
    for row in report.prefixes.iter().flatten() {
        let (to, from) = (row.to, row.from);
        let figures = [to.packets, to.bytes, from.packets, from.bytes];
        let figures = figures.map(|figure| figure.to_string()).join(" ");
        out.text(format_args!("{} {figures}\n", row.prefix))?;
    }
    for port in report.ports.iter().flatten() {
        for (what, reasons) in [("dropped", &port.dropped), ("punted", &port.punted)] {
            for reason in reasons {
                let (name, packets) = (reason.reason, reason.packets);
                out.text(format_args!("{} {what} {name} {packets}\n", port.port))?;
            }
        }
        if port.redirect_failed > 0 {
            let (name, packets) = (&port.port, port.redirect_failed);
            out.text(format_args!("{name} lost redirect_failed {packets}\n"))?;
        }
    }
    Ok(())
}

fn show(report: &Report, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() {
        return Ok(out.json(report)?);
    }
    if out.is_brief() {
        return brief(report, out);
    }
    if let Some(rows) = &report.prefixes {
        let lines = rows
            .iter()
            .map(|row| {
                vec![
                    row.prefix.to_string(),
                    row.to.packets.to_string(),
                    bytes(row.to.bytes),
                    row.from.packets.to_string(),
                    bytes(row.from.bytes),
                ]
            })
            .collect();
        let header = [
            "prefix",
            "packets to",
            "bytes to",
            "packets from",
            "bytes from",
        ];
        out.text(table(&header, lines, &[1, 2, 3, 4]))?;
    }
    if let Some(ports) = &report.ports {
        let mut lines = Vec::new();
        for port in ports {
            for (what, reasons) in [("dropped", &port.dropped), ("to kernel", &port.punted)] {
                for reason in reasons {
                    lines.push(vec![
                        port.port.clone(),
                        what.to_owned(),
                        reason.reason.to_owned(),
                        reason.packets.to_string(),
                        reason.sentence.trim().to_owned(),
                    ]);
                }
            }
            if port.redirect_failed > 0 {
                lines.push(vec![
                    port.port.clone(),
                    "lost".to_owned(),
                    "redirect_failed".to_owned(),
                    port.redirect_failed.to_string(),
                    "The device did not take it.".to_owned(),
                ]);
            }
        }
        if lines.is_empty() {
            out.text("nothing was dropped or left to the kernel\n")?;
        }
        out.text(table(
            &["port", "outcome", "reason", "packets", "meaning"],
            lines,
            &[3],
        ))?;
    }
    Ok(())
}
