//! `netmesh doctor`.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use super::apply;
use super::arguments::{Doctor, Global};
use super::config::{self, Need};
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::doctor::judge::{CHECKS, Finding, Severity, judge};
use crate::doctor::{Node, Objects, examine};
use crate::model::derive::NAMESPACE_PREFIX;
use crate::reconcile::NODE_FILE;

#[derive(Debug, Serialize)]
struct Report {
    healthy: bool,
    findings: Vec<Finding>,
}

/// Runs the command; 4 when something does not work.
pub(super) async fn run(
    global: &Global,
    doctor: &Doctor,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let unknown = |part: &&String| !CHECKS.iter().any(|check| is_part(part, check));
    if let Some(part) = doctor.only.iter().find(unknown) {
        return Err(Failure::rejected(anyhow::anyhow!(
            "--only {part}: no check has that name; there are {}",
            CHECKS.join(", ")
        )));
    }
    let node = Node {
        folder: &global.config,
        objects: objects(global).await,
    };
    let mut findings = judge(&examine(&node).await);
    if !doctor.only.is_empty() {
        let wanted = |check: &str| doctor.only.iter().any(|part| is_part(part, check));
        findings.retain(|finding| wanted(finding.check));
    }
    if let Some(netns) = &global.netns {
        findings
            .iter_mut()
            .for_each(|finding| there(finding, netns));
    }
    let healthy = findings
        .iter()
        .all(|finding| finding.severity < Severity::Error);
    let report = Report { healthy, findings };
    if out.is_json() {
        out.json(&report)?;
    } else {
        out.text(text(&report.findings, out.is_brief()))?;
    }
    Ok(if healthy { Exit::Done } else { Exit::Unhealthy })
}

/// What the objects ask for and what is there, where there are any. They speak of the node's
/// namespace, not of one of its resources'.
async fn objects(global: &Global) -> Option<Result<Objects, String>> {
    let netns = global.netns.as_deref().map(Path::new);
    let netns = netns.and_then(Path::file_name).unwrap_or_default();
    let is_resource = netns.to_string_lossy().starts_with(NAMESPACE_PREFIX);
    if is_resource || !global.config.join(NODE_FILE).exists() {
        return None;
    }
    let look = async || -> Result<Objects, Failure> {
        let (objects, _) = config::load_quietly(&global.config, &[], Need::Node)?;
        let mut node = apply::node(global, objects).await?;
        // What `apply` would refuse is told: keys that are missing or another's, what is in the way.
        let _ = node.reconciler.plan(&node.desired).await?;
        let observed = node.reconciler.observe(&node.desired).await?;
        Ok(Objects {
            desired: node.desired,
            observed,
        })
    };
    Some(look().await.map_err(|failure| {
        let text = format!("{:#}", failure.error);
        text.lines().next().unwrap_or_default().to_owned()
    }))
}

/// Settings of a namespace are mended there.
fn there(finding: &mut Finding, netns: &str) {
    let remedy = finding.remedy.take();
    let here = |remedy: &String| remedy.starts_with("sysctl -w net.");
    finding.remedy = match remedy {
        Some(remedy) if !here(&remedy) || finding.check.starts_with("bpf") => Some(remedy),
        Some(remedy) if netns.contains('/') => Some(format!("nsenter --net={netns} {remedy}")),
        Some(remedy) => Some(format!("ip netns exec {netns} {remedy}")),
        None => None,
    };
}

/// `link` names `link.vlan` as well.
fn is_part(part: &str, check: &str) -> bool {
    check
        .strip_prefix(part)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What is wrong comes with what it means and what mends it; what is well is one line.
fn text(findings: &[Finding], brief: bool) -> String {
    let mut text = String::new();
    let checks = findings.iter().map(|finding| finding.check.len());
    let width = checks.max().unwrap_or(0);
    for finding in findings {
        let severity = finding.severity.word();
        let _ = writeln!(
            text,
            "{severity:<8} {:<width$} {}",
            finding.check, finding.found
        );
        if finding.severity == Severity::Ok || brief {
            continue;
        }
        let _ = writeln!(text, "         {}", finding.meaning);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "         mend: {remedy}");
        }
    }
    text
}
