//! `netmesh doctor`.

use std::fmt::Write as _;

use serde::Serialize;

use super::arguments::Doctor;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::doctor::examine;
use crate::doctor::judge::{Finding, Severity, judge};

#[derive(Debug, Serialize)]
struct Report {
    healthy: bool,
    findings: Vec<Finding>,
}

/// Runs the command; 4 when something does not work.
pub(super) async fn run(doctor: &Doctor, out: &mut Output) -> Result<Exit, Failure> {
    let mut findings = judge(&examine().await);
    if !doctor.only.is_empty() {
        let wanted = |check: &str| doctor.only.iter().any(|part| is_part(part, check));
        let mut known: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
        known.dedup(); // Ports share a name.
        if let Some(part) = doctor
            .only
            .iter()
            .find(|part| !known.iter().any(|check| is_part(part, check)))
        {
            return Err(Failure::rejected(anyhow::anyhow!(
                "--only {part}: no check has that name; there are {}",
                known.join(", ")
            )));
        }
        findings.retain(|finding| wanted(finding.check));
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

/// `link` names `link.vlan` as well.
fn is_part(part: &str, check: &str) -> bool {
    check
        .strip_prefix(part)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What is wrong comes with what it means and what mends it; what is well is one line.
fn text(findings: &[Finding], brief: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let severity = finding.severity.word();
        let _ = writeln!(
            text,
            "{severity:<8} {:<16} {}",
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
