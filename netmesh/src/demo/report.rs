//! What the demo tells: a picture, each check with its figure, a table of prefixes.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::ensure;
use serde::Serialize;
use serde_json::Value;

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// It held.
    pub ok: bool,
    /// The figure seen.
    pub detail: String,
}

/// The report as it grows.
pub(super) struct Report<'a, W: Write> {
    json: bool,
    stop: &'a AtomicBool,
    out: &'a mut W,
    checks: Vec<Check>,
    pub(super) prefixes: Vec<Value>,
}

const PICTURE: &str = r#"
              nmd-internet 2a02:1800:20::10
                     │
              nmd-provider 2a02:1800:10:1052::4/127
                     │
              nmd-router   2a02:1800:10:1052::5/127             XDP on both ports
                     │     fe80::1, 2a02:1802:5e::1/64
   segment ──────────┴───────┬──────────────────────┬────
                             │ fe80::101:1          │ fe80::201:1
   nmd-node-1         ┌──────┴───┐           ┌──────┴───┐       nmd-node-2
                      │ alice/gw │           │  bob/gw  │       TC on both ports
                      └──┬────┬──┘           └────┬─────┘
      WireGuard          │    │                   │   WireGuard
        ┌────────────┬───┘    └──────┐            │
   ┌────┴─────┐ ┌────┴─────┐ ┌───────┴───────┐ ┌──┴───────┐
   │alice/web │ │ alice/db │ │  alice/home   │ │ bob/shop │
   │  node-2  │ │  node-3  │ │node-3 (hidden)│ │  node-3  │
   └──────────┘ └──────────┘ └───────────────┘ └──────────┘
"#;

impl<'a, W: Write> Report<'a, W> {
    pub(super) fn new(json: bool, stop: &'a AtomicBool, out: &'a mut W) -> Self {
        Self {
            json,
            stop,
            out,
            checks: Vec::new(),
            prefixes: Vec::new(),
        }
    }

    pub(super) fn picture(&mut self) -> anyhow::Result<()> {
        if !self.json {
            writeln!(self.out, "{PICTURE}")?;
        }
        Ok(())
    }

    /// Fails once the user wants to stop.
    pub(super) fn go_on(&self) -> anyhow::Result<()> {
        ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Tells a check, and ends the demo when the user wants to stop.
    pub(super) fn check(
        &mut self,
        name: impl Into<String>,
        ok: bool,
        detail: impl Into<String>,
    ) -> anyhow::Result<()> {
        self.tell(name, ok, detail)?;
        self.go_on()
    }

    /// Tells what went wrong, also after an interrupt.
    pub(super) fn failed(
        &mut self,
        name: impl Into<String>,
        detail: impl Into<String>,
    ) -> anyhow::Result<()> {
        self.tell(name, false, detail)
    }

    fn tell(
        &mut self,
        name: impl Into<String>,
        ok: bool,
        detail: impl Into<String>,
    ) -> anyhow::Result<()> {
        let check = Check {
            name: name.into(),
            ok,
            detail: detail.into(),
        };
        if !self.json {
            let mark = if ok { " ok " } else { "FAIL" };
            writeln!(self.out, "[{mark}] {:<58} {}", check.name, check.detail)?;
            self.out.flush()?;
        }
        self.checks.push(check);
        Ok(())
    }

    /// Prints what is left to say; `true` when every check held.
    pub(super) fn finish(&mut self) -> anyhow::Result<bool> {
        let ok = !self.checks.is_empty() && self.checks.iter().all(|check| check.ok);
        if self.json {
            let document = serde_json::json!({
                "schema_version": 1,
                "ok": ok,
                "checks": self.checks,
                "prefixes": self.prefixes,
            });
            writeln!(self.out, "{document}")?;
            return Ok(ok);
        }
        writeln!(
            self.out,
            "\n{:<26} {:>22} {:>22}",
            "prefix", "to (packets, bytes)", "from"
        )?;
        for row in &self.prefixes {
            let flow = |direction: &str| {
                format!(
                    "{} {:>12}",
                    row[direction]["packets"],
                    row[direction]["bytes"].to_string()
                )
            };
            let prefix = row["prefix"].as_str().unwrap_or_default();
            writeln!(
                self.out,
                "{prefix:<26} {:>22} {:>22}",
                flow("to"),
                flow("from")
            )?;
        }
        let failed = self.checks.iter().filter(|check| !check.ok).count();
        writeln!(self.out, "\n{} checks, {failed} failed", self.checks.len())?;
        Ok(ok)
    }

    pub(super) fn hints(&mut self, folder: &Path) -> anyhow::Result<()> {
        if self.json {
            return Ok(());
        }
        let folder = folder.display();
        let program = std::env::current_exe()?;
        let netmesh = program.display();
        writeln!(
            self.out,
            "\nIt stands. Try:\n  \
             {netmesh} -n nmd-router counters --watch\n  \
             {netmesh} -n nmd-router route\n  \
             {netmesh} -n nm-alice-gw counters --drops\n  \
             {netmesh} -n nmd-node-1 --config {folder}/node-1 status\n  \
             ip netns exec nm-alice-web ping -I 2a02:1802:5e:10a::1 2a02:1800:20::10\n  \
             {netmesh} demo --clean"
        )?;
        Ok(())
    }
}
