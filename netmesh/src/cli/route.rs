//! `netmesh route`: the data plane's table.

use std::net::IpAddr;

use ipnet::IpNet;
use netmesh_common::table::Origin;

use super::arguments::{Route, RouteSpec};
use super::dataplane::{look, write};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::table::table;
use super::{neighbours, route_import, route_spec};
use crate::dataplane::Instance;
use crate::dataplane::fib::{RouteRow, origin_name};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::FibRoute;

/// Runs the command.
pub(super) async fn run(command: Option<&Route>, out: &mut Output) -> Result<Exit, Failure> {
    match command {
        None => list(None, out).await,
        Some(Route::List { prefix }) => list(*prefix, out).await,
        Some(Route::Get { address }) => get(*address, out).await,
        Some(Route::Add(spec)) => put(spec, false, out).await,
        Some(Route::Replace(spec)) => put(spec, true, out).await,
        Some(Route::Import { file, dry_run }) => {
            route_import::import(file.as_deref(), *dry_run, out).await
        }
        Some(Route::Export { prefix }) => route_import::export(*prefix, out).await,
        Some(Route::Del { prefix, dry_run }) => del(*prefix, *dry_run, out).await,
    }
}

async fn list(within: Option<IpNet>, out: &mut Output) -> Result<Exit, Failure> {
    let (view, facts) = look().await?;
    let mut rows = view.routes(&facts)?;
    rows.retain(|row| within.is_none_or(|within| within.contains(&row.prefix)));
    show(&rows, out)
}

async fn get(address: IpAddr, out: &mut Output) -> Result<Exit, Failure> {
    let (view, facts) = look().await?;
    let best = view.get(address, &facts)?.map(|found| found.row);
    let Some(best) = best else {
        let error = anyhow::anyhow!(
            "no route of the data plane matches {address}: such packets are left to the kernel"
        );
        return Err(Failure {
            exit: Exit::Failed,
            error,
            state: None,
        });
    };
    show(&[best], out)
}

async fn put(spec: &RouteSpec, replace: bool, out: &mut Output) -> Result<Exit, Failure> {
    let (prefix, route) = route_spec::parse(&spec.words).map_err(Failure::rejected)?;
    let (mut instance, facts) = write().await?;
    let present = instance.route(prefix, Origin::Static, &facts)?;
    if let Some(present) = &present {
        if present.route == route {
            if !spec.dry_run {
                // Its link may have been down, which makes the kernel forget its neighbours.
                neighbours::keep_resolved(&route.neighbours()).await?;
                settle(&mut instance, &facts)?;
            }
            return say(out, &format!("{prefix} {route}: unchanged"));
        }
        if !replace {
            let error = anyhow::anyhow!(
                "{prefix} is there already: {}; change it with `netmesh route replace`",
                present.route
            );
            return Err(Failure::rejected(error));
        }
    }
    if spec.dry_run {
        let verb = if replace { "replace" } else { "add" };
        return say(out, &format!("route {verb} {prefix} {route}"));
    }
    // What forwards now goes on until its successor can.
    let facts = match &present {
        Some(_) => neighbours::resolved(&route.neighbours(), facts).await?,
        None => facts,
    };
    instance
        .put_route(prefix, Origin::Static, &route, &facts)
        .map_err(|error| {
            let mut failure = Failure::failed(error, "nothing was changed");
            if matches!(
                failure.error.downcast_ref(),
                Some(crate::dataplane::Error::NoDevice { .. })
            ) {
                failure.exit = Exit::Rejected;
            }
            failure
        })?;
    settle(&mut instance, &facts)?;
    neighbours::keep_resolved(&route.neighbours()).await?;
    if let Some(present) = present {
        neighbours::let_go_unused(present.route.neighbours(), &instance, &facts).await?;
    }
    neighbours::warn_off_link(&route, &facts);
    say(out, &format!("{prefix} {route}"))
}

async fn del(prefix: IpNet, dry_run: bool, out: &mut Output) -> Result<Exit, Failure> {
    let (mut instance, facts) = write().await?;
    if dry_run {
        return say(out, &format!("route del {prefix}"));
    }
    let present = instance.route(prefix, Origin::Static, &facts)?;
    instance
        .remove_route(prefix, Origin::Static)
        .map_err(|error| match error {
            crate::dataplane::Error::NoRoute { .. } => Failure::rejected(error),
            error => Failure::failed(error, "nothing was changed"),
        })?;
    settle(&mut instance, &facts)?;
    if let Some(present) = present {
        neighbours::let_go_unused(present.route.neighbours(), &instance, &facts).await?;
    }
    say(out, &format!("{prefix}: removed"))
}

pub(super) fn settle(instance: &mut Instance, facts: &NamespaceFacts) -> Result<(), Failure> {
    Ok(instance.repair(facts)?)
}

fn show(rows: &[RouteRow], out: &mut Output) -> Result<Exit, Failure> {
    if out.is_json() {
        out.json(serde_json::json!({ "routes": rows }))?;
        return Ok(Exit::Done);
    }
    let lines = rows
        .iter()
        .map(|row| {
            let shown = if row.active {
                row.withdrawn.as_slice()
            } else {
                &[]
            };
            let withdrawn = shown.join(", ");
            let note = match (row.active, row.resolved) {
                (false, _) => "not preferred",
                (true, _) if !withdrawn.is_empty() => "withdrawn: ",
                (true, Some(false)) if matches!(row.route, FibRoute::Paths(_)) => {
                    "a next hop unresolved: its flows go by the others"
                }
                (true, Some(false)) => "next hop unresolved: left to the kernel",
                (true, _) => "",
            };
            vec![
                row.prefix.to_string(),
                row.route.to_string(),
                origin_name(row.origin).to_owned(),
                format!("{note}{withdrawn}"),
            ]
        })
        .collect();
    out.text(table(&["prefix", "route", "origin", ""], lines, &[]))?;
    Ok(Exit::Done)
}

pub(super) fn say(out: &mut Output, text: &str) -> Result<Exit, Failure> {
    if out.is_json() {
        out.json(serde_json::json!({ "message": text }))?;
    } else {
        out.text(format_args!("{text}\n"))?;
    }
    Ok(Exit::Done)
}
