//! The results as tables of a document, between two marks that name them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::forward;
use crate::sets::Kind;

/// Times of one method on one set: nanoseconds a look-up.
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) size: usize,
    pub(crate) traffic: &'static str,
    pub(crate) method: &'static str,
    /// Look-ups the CPU may overlap.
    pub(crate) independent: Cell,
    /// Each waits for the one before, as packets do.
    pub(crate) dependent: Cell,
}

/// Samples in short.
#[derive(Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) median: f64,
    least: f64,
    most: f64,
}

impl Cell {
    pub(crate) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
        Self {
            median: at(sorted.len() / 2),
            least: at(0),
            most: at(sorted.len().saturating_sub(1)),
        }
    }

    /// Without what the loop itself takes.
    pub(crate) fn without(self, nanoseconds: f64) -> Self {
        Self {
            median: self.median - nanoseconds,
            least: self.least - nanoseconds,
            most: self.most - nanoseconds,
        }
    }

    /// The median, and between what the samples were.
    fn spread(self, digits: usize) -> String {
        let Self {
            median,
            least,
            most,
        } = self;
        format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
    }

    fn text(self, ours: Self) -> String {
        if self.median.is_nan() {
            return "not measured |".to_owned();
        }
        let ratio = self.median / ours.median;
        format!(
            "{:.0} ({:.0}–{:.0}) | {ratio:.2}",
            self.median, self.least, self.most
        )
    }
}

/// What a CPU takes alone, and while another does the same.
pub(crate) struct Both {
    pub(crate) traffic: &'static str,
    pub(crate) name: &'static str,
    pub(crate) alone: Cell,
    pub(crate) beside: Cell,
}

/// Two CPUs.
pub(crate) fn both(rows: &[Both]) -> anyhow::Result<String> {
    let mut text =
        String::from("\n| both CPUs | | one alone, ns | beside the other, ns | : alone |\n");
    writeln!(text, "|---|---|---|---|---|")?;
    for row in rows {
        writeln!(
            text,
            "| {} | {} | {} | {} | {:.2} |",
            row.traffic,
            row.name,
            row.alone.spread(0),
            row.beside.spread(0),
            row.beside.median / row.alone.median
        )?;
    }
    writeln!(text)?;
    Ok(text)
}

/// Puts tables into the file, in the place of those that are there under this name.
pub(crate) fn write(file: &Path, name: &str, tables: &str) -> anyhow::Result<()> {
    let begin = format!("<!-- {name}: written by `cargo xtask bench` -->");
    let end = format!("<!-- end of {name} -->");
    let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    let (before, rest) = text
        .split_once(&begin)
        .with_context(|| format!("the file has no place for {name}"))?;
    let (_, after) = rest.split_once(&end).context("the tables have no end")?;
    let text = format!("{before}{begin}\n{tables}{end}{after}");
    Ok(fs::write(file, text)?)
}

/// Ways to forward, in turn: what a packet takes, and how many times as long as ours.
pub(crate) fn forwarding(rows: &[forward::Row]) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut last = None;
    for row in rows {
        let here = Some((row.hook, row.routes, row.traffic));
        if last != here {
            last = here;
            let plural = if row.routes == 1 { "" } else { "s" };
            let (hook, routes, traffic) = (row.hook, row.routes, row.traffic);
            writeln!(
                text,
                "\n{hook}, {routes} route{plural}, {traffic} traffic:\n"
            )?;
            writeln!(text, "| way | : ours | ns a packet |")?;
            writeln!(text, "|---|---|---|")?;
        }
        writeln!(
            text,
            "| {} | {} | {} |",
            row.way,
            row.ratio.spread(2),
            row.time.spread(0)
        )?;
    }
    writeln!(text)?;
    Ok(text)
}

/// Routes a second, and what they take.
pub(crate) fn programming(loads: &[forward::Load]) -> anyhow::Result<String> {
    let mut text =
        String::from("\n| routes | into | CPU seconds | routes a CPU second | bytes a route |\n");
    writeln!(text, "|---|---|---|---|---|")?;
    // A few routes say nothing of a rate, nor of memory.
    for load in loads.iter().filter(|load| load.routes >= 1000) {
        // The kernel tells a thread's time by ticks.
        let rate = if load.seconds < 0.01 {
            "under 0.01 |".to_owned()
        } else {
            format!(
                "{:.2} | {:.0}",
                load.seconds,
                load.routes as f64 / load.seconds
            )
        };
        let bytes = load.bytes.map_or_else(String::new, |bytes| {
            format!("{:.0}", bytes as f64 / load.routes as f64)
        });
        writeln!(
            text,
            "| {} | {} | {rate} | {bytes} |",
            load.routes, load.way
        )?;
    }
    writeln!(text)?;
    Ok(text)
}

/// What asking for metrics costs.
pub(crate) fn scrapes(rows: &[forward::scrape::Row]) -> anyhow::Result<String> {
    let mut text = String::from(
        "\n| prefixes | with series | an answer, MiB | the first, s | the next, s | daemon, MiB | at most | \
         a packet, ns | while somebody asks : alone |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let mebibytes = |kibibytes: u64| kibibytes as f64 / 1024.0;
        writeln!(
            text,
            "| {} | {} | {:.1} | {:.2} | {} | {:.0} | {:.0} | {} | {} |",
            row.routes,
            row.selection,
            row.bytes as f64 / f64::from(1 << 20),
            row.first,
            row.next.spread(2),
            mebibytes(row.idle),
            mebibytes(row.peak),
            row.alone.spread(0),
            row.ratio.spread(2)
        )?;
    }
    writeln!(text)?;
    Ok(text)
}

/// Methods of looking up.
pub(crate) fn look_ups(rows: &[Row]) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut last = None;
    let mut ours = None;
    for row in rows {
        let here = Some((row.kind.name(), row.size, row.traffic));
        if last != here {
            last = here;
            ours = Some((row.independent, row.dependent));
            let (name, size, traffic) = (row.kind.name(), row.size, row.traffic);
            writeln!(text, "\n{size} {name}, {traffic} traffic:\n")?;
            writeln!(
                text,
                "| method | independent, ns | : ours | dependent, ns | : ours |"
            )?;
            writeln!(text, "|---|---|---|---|---|")?;
        }
        let (independent, dependent) = ours.context("no row of ours")?;
        writeln!(
            text,
            "| {} | {} | {} |",
            row.method,
            row.independent.text(independent),
            row.dependent.text(dependent)
        )?;
    }
    writeln!(text)?;
    Ok(text)
}
