//! `netmesh route import` and `export`.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ipnet::IpNet;
use netmesh_common::table::Origin;

use super::dataplane::{look, write};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::route::{say, settle};
use super::{neighbours, route_file};
use crate::dataplane::Error;
use crate::plan::state::{FibRoute, Neighbour};

/// Reads all of it before the first route is touched.
pub(super) async fn import(
    path: Option<&Path>,
    dry_run: bool,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let text = read(path).map_err(Failure::rejected)?;
    let file = route_file::parse(&text).map_err(Failure::rejected)?;
    drop(text);
    let count = file.routes.len();
    let skipped = match file.skipped {
        0 => String::new(),
        n => format!("; {n} of the kernel's own left out"),
    };
    let (mut instance, facts) = write().await?;
    if dry_run {
        return say(out, &format!("route replace, {count} times{skipped}"));
    }
    let wanted = file.routes.fates().iter().flat_map(FibRoute::neighbours);
    let wanted: BTreeSet<Neighbour> = wanted.collect();
    let before = instance.neighbours(|origin| origin == Origin::Static, &facts)?;
    // What forwards now goes on until its successor can.
    let facts = if before.is_empty() {
        facts
    } else {
        neighbours::resolved(&wanted, facts).await?
    };
    let bar = bar(count as u64, out);
    let mut done = 0;
    let result = instance.put_many(&file.routes, Origin::Static, &facts, |more| {
        done += more;
        bar.inc(more);
    });
    bar.finish_and_clear();
    if let Err(error) = result {
        neighbours::let_go_unused(wanted, &instance, &facts).await?;
        let exit = match error {
            Error::NoDevice { .. } => Exit::Rejected,
            _ => Exit::Failed,
        };
        let (error, state) = if done == 0 {
            (error.into(), "nothing was changed")
        } else {
            let error = anyhow::Error::from(error).context(format!("after {done} of {count}"));
            (
                error,
                "the routes before are there; import can be run again",
            )
        };
        let mut failure = Failure::failed(error, state);
        failure.exit = exit;
        return Err(failure);
    }
    settle(&mut instance, &facts)?;
    neighbours::keep_resolved(&wanted).await?;
    neighbours::let_go_unused(before, &instance, &facts).await?;
    say(out, &format!("{count} routes{skipped}"))
}

/// The routes people have added.
pub(super) async fn export(within: Option<IpNet>, out: &mut Output) -> Result<Exit, Failure> {
    let (view, facts) = look().await?;
    let routes = view.routes_of(Origin::Static, &facts)?;
    let items: Vec<_> = routes
        .iter()
        .filter(|(prefix, _)| within.is_none_or(|within| within.contains(*prefix)))
        .filter_map(|(prefix, route)| route_file::item(*prefix, route))
        .collect();
    if out.is_json() {
        out.json(serde_json::json!({ "routes": items }))?;
        return Ok(Exit::Done);
    }
    let mut text = std::io::BufWriter::new(out);
    for item in &items {
        writeln!(text, "{}", route_file::line(item))?;
    }
    text.flush()?;
    Ok(Exit::Done)
}

fn read(path: Option<&Path>) -> anyhow::Result<String> {
    match path.filter(|path| *path != Path::new("-")) {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display())),
        None => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("standard input cannot be read")?;
            Ok(text)
        }
    }
}

/// A bar on a terminal, nothing elsewhere.
fn bar(count: u64, out: &Output) -> ProgressBar {
    if out.is_quiet() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
    let style = "{wide_bar} {human_pos} of {human_len} routes, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
