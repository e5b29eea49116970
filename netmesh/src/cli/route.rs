//! `netmesh route`: the data plane's table.

use ipnet::IpNet;
use netmesh_common::table::Origin;

use super::arguments::{Route, RouteSpec};
use super::dataplane::{look, write};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::table::table;
use super::{route_import, route_spec};
use crate::dataplane::Instance;
use crate::dataplane::fib::{RouteRow, origin_name};

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

async fn get(address: std::net::IpAddr, out: &mut Output) -> Result<Exit, Failure> {
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
    if let Some(present) = present {
        if present == route {
            return say(out, &format!("{prefix} {route}: unchanged"));
        }
        if !replace {
            let error = anyhow::anyhow!(
                "{prefix} is there already: {}; change it with `netmesh route replace`",
                present
            );
            return Err(Failure::failed(error, "nothing was changed"));
        }
    }
    if spec.dry_run {
        return say(out, &format!("route replace {prefix} {route}"));
    }
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
    keep_resolved(&route).await?;
    say(out, &format!("{prefix} {route}"))
}

async fn del(prefix: IpNet, dry_run: bool, out: &mut Output) -> Result<Exit, Failure> {
    let (mut instance, facts) = write().await?;
    if dry_run {
        return say(out, &format!("route del {prefix}"));
    }
    instance
        .remove_route(prefix, Origin::Static)
        .map_err(|error| Failure::failed(error, "nothing was changed"))?;
    settle(&mut instance, &facts)?;
    say(out, &format!("{prefix}: removed"))
}

/// Asks the kernel to resolve the next hop and to keep it so.
pub(super) async fn keep_resolved(route: &crate::plan::state::FibRoute) -> Result<(), Failure> {
    use crate::kernel::Kernel;
    use crate::plan::state::{FibRoute, Namespace, Neighbour};
    use crate::plan::step::Step;

    let FibRoute::Via {
        gateway: Some(address),
        link,
    } = route
    else {
        return Ok(());
    };
    let mut kernel = Kernel::default();
    let facts = kernel.facts(&Namespace::Node).await?;
    if facts
        .devices
        .get(link)
        .is_none_or(|device| device.mac.is_none())
    {
        return Ok(());
    }
    let neighbour = Neighbour {
        link: link.clone(),
        address: *address,
    };
    let step = Step::AddNeighbour {
        namespace: Namespace::Node,
        neighbour,
    };
    Ok(kernel.execute(&step, "").await?)
}

pub(super) fn settle(
    instance: &mut Instance,
    facts: &crate::plan::facts::NamespaceFacts,
) -> Result<(), Failure> {
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
            let note = match (row.active, row.resolved) {
                (false, _) => "not preferred",
                (true, Some(false)) => "next hop unresolved: left to the kernel",
                (true, _) => "",
            };
            vec![
                row.prefix.to_string(),
                row.route.to_string(),
                origin_name(row.origin).to_owned(),
                note.to_owned(),
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
