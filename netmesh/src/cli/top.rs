//! `netmesh top`.

use std::io::{self, IsTerminal as _};

use super::apply;
use super::arguments::{Global, Top};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::run::names;
use crate::metrics::Names;
use crate::plan::state::Namespace;
use crate::top::{self, Options};

/// Runs the command.
pub(super) async fn run(global: &Global, top: &Top, out: &Output) -> Result<Exit, Failure> {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let reason = if top.once || out.is_json() {
        "`netmesh top` draws on a terminal for as long as somebody looks"
    } else if !out.is_terminal() || !io::stdin().is_terminal() {
        "`netmesh top` needs a terminal to draw on and to read keys from"
    } else if dumb {
        "`netmesh top` needs a terminal that can move its cursor, and $TERM names none"
    } else {
        let (namespaces, names) = places(global).await;
        let options = Options {
            interval: top.interval,
            here: global.netns.clone().unwrap_or_else(|| "node".to_owned()),
            namespaces,
            networks: names.networks,
            peers: names.peers,
            color: out.color(),
        };
        top::run(options, out.file()).await?;
        return Ok(Exit::Done);
    };
    Err(Failure {
        exit: Exit::Usage,
        error: anyhow::anyhow!(
            "{reason}; for figures elsewhere: netmesh counters, netmesh counters --drops, both with \
             --json, and --watch to repeat"
        ),
        state: None,
    })
}

/// Where to look and what things are called: all that the objects name where there are any, else
/// this namespace. Objects with faults in them keep nobody from looking.
async fn places(global: &Global) -> (Vec<Namespace>, Names) {
    let alone = (vec![Namespace::Node], Names::default());
    if !global.config.join("node.toml").exists() {
        return alone;
    }
    match apply::load(global, &[]).await {
        Ok(node) => {
            let mut namespaces = vec![Namespace::Node];
            let others = node.desired.namespaces.keys();
            namespaces.extend(others.filter(|at| **at != Namespace::Node).cloned());
            (namespaces, names(&node.networks))
        }
        Err(failure) => {
            tracing::debug!("the objects are left out: {failure}");
            alone
        }
    }
}
