//! The results as tables of a document, between two marks that name them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

/// Times of one method on one set: nanoseconds a look-up.
pub(crate) struct Row {
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

const BEGIN: &str = "<!-- look-ups: written by `cargo xtask bench` -->";
const END: &str = "<!-- end of look-ups -->";

/// Puts the tables into the file, in the place of those that are there.
pub(crate) fn write(file: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    let (before, rest) = text
        .split_once(BEGIN)
        .context("the file has no place for tables")?;
    let (_, after) = rest.split_once(END).context("the tables have no end")?;
    let text = format!("{before}{BEGIN}\n{}{END}{after}", tables(rows)?);
    Ok(fs::write(file, text)?)
}

fn tables(rows: &[Row]) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut last = None;
    let mut ours = None;
    for row in rows {
        if last != Some((row.size, row.traffic)) {
            last = Some((row.size, row.traffic));
            ours = Some((row.independent, row.dependent));
            writeln!(text, "\n{} prefixes, {} traffic:\n", row.size, row.traffic)?;
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
