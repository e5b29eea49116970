//! `netmesh dataplane`.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netmesh_common::table::Origin;
use serde::Serialize;

use super::arguments::{Dataplane, Hook as HookArgument, SourcesArgument};
use super::exit::{Exit, Failure};
use super::neighbours;
use super::output::Output;
use super::table::{bytes, table};
use super::upgrade;
use crate::dataplane::counters::PortCountersRow;
use crate::dataplane::pin::{Folder, NamespaceId};
use crate::dataplane::{self, Instance, View};
use crate::doctor;
use crate::doctor::judge::Severity;
use crate::kernel::{Kernel, netns};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::{Hook, Martians, Namespace, Port, Sources};
use crate::reconcile::{BY_HAND, identity};

/// The data plane of the node's namespace for looking at: writers are not waited for.
pub(super) async fn look() -> Result<(View, NamespaceFacts), Failure> {
    let (view, facts) = find().await?;
    Ok((view.ok_or_else(none)?, facts))
}

/// The same for changing; waits for other writers.
pub(super) async fn write() -> Result<(Instance, NamespaceFacts), Failure> {
    let facts = Kernel::default().facts(&Namespace::Node).await?;
    let instance = Instance::open(identity(&Namespace::Node)?)?.ok_or_else(none)?;
    Ok((instance, facts))
}

async fn find() -> Result<(Option<View>, NamespaceFacts), Failure> {
    let facts = Kernel::default().facts(&Namespace::Node).await?;
    Ok((View::open(identity(&Namespace::Node)?)?, facts))
}

pub(super) fn none() -> anyhow::Error {
    if let Some(unmounted) = unmounted() {
        return anyhow::anyhow!(unmounted);
    }
    anyhow::anyhow!(
        "no data plane serves this namespace; attach one: netmesh dataplane attach --port DEV, or \
         name the namespace of an exit: netmesh -n NAME"
    )
}

/// What it means that there is no bpffs.
fn unmounted() -> Option<&'static str> {
    (!dataplane::pin::mounted()).then_some(
        "no data plane serves this namespace, and no bpf file system is mounted at /sys/fs/bpf, where \
         it would be pinned: one that was there has gone with it, and the kernel forwards alone; \
         `netmesh apply`, or `netmesh dataplane attach --port DEV`, mounts it and begins anew",
    )
}

#[derive(Debug, Serialize)]
pub(super) struct PortReport {
    pub(super) name: String,
    pub(super) ifindex: u32,
    pub(super) hook: Hook,
    pub(super) link: &'static str,
    pub(super) sources: Sources,
    /// Prefixes that are martians to it, or are none.
    #[serde(skip_serializing_if = "Martians::is_empty")]
    pub(super) martians: Martians,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warning: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct InstanceReport {
    pub(super) name: String,
    pub(super) pins: String,
    pub(super) ports: Vec<PortReport>,
    pub(super) counters: Vec<PortCountersRow>,
    pub(super) routes: usize,
    pub(super) unresolved: usize,
    /// Next hops that groups do without until they have proved themselves.
    pub(super) withdrawn: BTreeSet<String>,
}

impl InstanceReport {
    pub(super) fn of(instance: &View, facts: &NamespaceFacts) -> Result<Self, Failure> {
        let routes = instance.routes(facts)?;
        let ports = instance
            .ports(facts)?
            .into_iter()
            .map(|row| PortReport {
                name: row.name.unwrap_or_else(|| format!("if{}", row.ifindex)),
                ifindex: row.ifindex,
                hook: row.port.hook,
                link: row.link,
                sources: row.port.sources,
                martians: row.port.martians,
                warning: row.warning,
            })
            .collect();
        Ok(Self {
            name: instance.name().to_owned(),
            pins: instance.path().display().to_string(),
            ports,
            counters: instance.port_counters(facts)?,
            routes: routes.len(),
            unresolved: routes
                .iter()
                .filter(|row| row.resolved == Some(false))
                .count(),
            withdrawn: routes
                .iter()
                .flat_map(|row| row.withdrawn.iter().cloned())
                .collect(),
        })
    }

    pub(super) fn text(&self) -> String {
        let rows = self
            .ports
            .iter()
            .map(|port| {
                let counters = self.counters.iter().find(|row| row.port == port.name);
                let number =
                    |get: &dyn Fn(&PortCountersRow) -> u64| counters.map_or(0, get).to_string();
                vec![
                    port.name.clone(),
                    port.link.to_owned(),
                    format!("{:?}", port.sources).to_lowercase(),
                    number(&|row| row.received),
                    number(&|row| row.forwarded.packets),
                    bytes(counters.map_or(0, |row| row.forwarded.bytes)),
                    number(&|row| row.punted.iter().map(|reason| reason.packets).sum()),
                    number(&|row| row.dropped.iter().map(|reason| reason.packets).sum()),
                    number(&|row| row.redirect_failed),
                ]
            })
            .collect();
        let header = [
            "port",
            "hook",
            "sources",
            "received",
            "forwarded",
            "bytes",
            "to kernel",
            "dropped",
            "lost",
        ];
        let mut text = format!(
            "data plane {}: {} routes, {} next hops unresolved\n{}",
            self.name,
            self.routes,
            self.unresolved,
            table(&header, rows, &[3, 4, 5, 6, 7, 8])
        );
        for hop in &self.withdrawn {
            text.push_str(&format!(
                "note: next hop {hop} has failed and is withdrawn\n"
            ));
        }
        for port in &self.ports {
            for (prefix, is_martian) in &port.martians {
                let not = if *is_martian { "a" } else { "no" };
                text.push_str(&format!("{}: {prefix} is {not} martian\n", port.name));
            }
        }
        for port in self
            .ports
            .iter()
            .filter_map(|port| Some((&port.name, port.warning?)))
        {
            text.push_str(&format!("note: {}: {}\n", port.0, port.1));
        }
        text
    }
}

/// Runs the command.
pub(super) async fn run(command: Option<&Dataplane>, out: &mut Output) -> Result<Exit, Failure> {
    match command {
        Some(Dataplane::Attach {
            ports,
            hook,
            sources,
            martians,
            not_martians,
            dry_run,
        }) => {
            let martians = list(*sources, martians, not_martians)?;
            attach(ports, *hook, *sources, martians, *dry_run, out).await
        }
        Some(Dataplane::Detach { ports, dry_run }) => detach(ports, *dry_run, out).await,
        Some(Dataplane::Upgrade {
            all,
            object,
            dry_run,
        }) => upgrade::run(*all, object.as_deref(), *dry_run, out),
        Some(Dataplane::Status) | None => status(out).await,
    }
}

/// What the two options say together.
fn list(
    sources: Option<SourcesArgument>,
    martians: &[IpNet],
    not_martians: &[IpNet],
) -> Result<Martians, Failure> {
    let rejected = |text: String| Err(Failure::rejected(anyhow::anyhow!(text)));
    let mut all = Martians::new();
    for (option, prefixes, is_martian) in [
        ("--martian", martians, true),
        ("--not-martian", not_martians, false),
    ] {
        for prefix in prefixes {
            if sources != Some(SourcesArgument::External) {
                return rejected(format!(
                    "{option} {prefix}: martians are stopped where a port faces the outside; add \
                     --sources external"
                ));
            }
            if *prefix != prefix.trunc() {
                return rejected(format!(
                    "{option} {prefix}: bits are set behind its length; write {}",
                    prefix.trunc()
                ));
            }
            if all.insert(*prefix, is_martian) == Some(!is_martian) {
                return rejected(format!("{prefix} is given as a martian and as none"));
            }
        }
    }
    Ok(all)
}

async fn attach(
    ports: &[String],
    hook: Option<HookArgument>,
    sources: Option<SourcesArgument>,
    martians: Martians,
    dry_run: bool,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let facts = Kernel::default().facts(&Namespace::Node).await?;
    let id = identity(&Namespace::Node)?;
    let before = match View::open(id)? {
        Some(view) => attached(&view, &facts)?,
        None => BTreeMap::new(),
    };
    let mut wanted = Vec::new();
    for name in ports {
        let Some(device) = facts.devices.get(name) else {
            let known: Vec<&str> = facts.devices.keys().map(String::as_str).collect();
            return Err(Failure::rejected(anyhow::anyhow!(
                "no device {name} in this namespace; there are {}",
                known.join(", ")
            )));
        };
        let hook = match hook {
            Some(HookArgument::Xdp) => Hook::Xdp,
            Some(HookArgument::XdpGeneric) => Hook::XdpGeneric,
            Some(HookArgument::Tc) => Hook::Tc,
            // A device without a link-layer header has TC only.
            None if device.mac.is_none() => Hook::Tc,
            None => Hook::Xdp,
        };
        let port = match (sources, before.get(name)) {
            (None, Some(before)) => Port {
                hook,
                ..before.clone()
            },
            (sources, _) => Port {
                martians: martians.clone(),
                ..Port::new(hook, believed(sources))
            },
        };
        wanted.push((name, port));
    }
    if dry_run {
        for (name, port) in &wanted {
            out.text(format_args!("dataplane attach {name} hook {port}\n"))?;
        }
        return Ok(Exit::Done);
    }
    let (mut instance, new) = match Instance::open(id)? {
        Some(instance) => (instance, false),
        None => (Instance::create(BY_HAND, id)?, true),
    };
    instance.set_connected(&facts)?;
    let mut done = Vec::new();
    for (name, port) in &wanted {
        done.push(name.as_str());
        if let Err(error) = instance.attach(name, port, &facts) {
            if new {
                instance.delete()?;
                return Err(Failure::failed(error, "nothing is attached"));
            }
            return Err(put_back(&mut instance, &done, &before, &facts, error));
        }
    }
    instance.repair(&facts)?;
    for finding in doctor::forwarding() {
        if finding.severity > Severity::Ok {
            tracing::warn!(
                "{} is {}: {}; mend: {}",
                finding.check,
                finding.found,
                finding.meaning,
                finding.remedy.unwrap_or_default()
            );
        }
    }
    show(&instance, &facts, out)
}

/// The ports of an instance and how they are attached.
fn attached(view: &View, facts: &NamespaceFacts) -> Result<BTreeMap<String, Port>, Failure> {
    let rows = view.ports(facts)?.into_iter();
    Ok(rows.filter_map(|row| Some((row.name?, row.port))).collect())
}

fn believed(sources: Option<SourcesArgument>) -> Sources {
    match sources {
        None | Some(SourcesArgument::Any) => Sources::Any,
        Some(SourcesArgument::Behind) => Sources::Behind,
        Some(SourcesArgument::External) => Sources::External,
    }
}

/// Makes ports what they were before one of them refused: all of them, or none.
fn put_back(
    instance: &mut Instance,
    changed: &[&str],
    before: &BTreeMap<String, Port>,
    facts: &NamespaceFacts,
    error: dataplane::Error,
) -> Failure {
    let mut left = Vec::new();
    for name in changed.iter().rev() {
        let back = match before.get(*name) {
            Some(port) => instance.attach(name, port, facts),
            None => instance.detach(name, facts),
        };
        left.extend(back.is_err().then_some(*name));
    }
    if left.is_empty() {
        return Failure::failed(error, "every port is what it was");
    }
    let context = format!("{} could not be put back", left.join(", "));
    let error = anyhow::Error::new(error).context(context);
    Failure::failed(
        error,
        "these ports are changed, the others are what they were",
    )
}

async fn detach(ports: &[String], dry_run: bool, out: &mut Output) -> Result<Exit, Failure> {
    let facts = Kernel::default().facts(&Namespace::Node).await?;
    let id = identity(&Namespace::Node)?;
    if ports.is_empty()
        && let Some((layout, folder)) = Folder::find_other(id)?
    {
        return detach_other(id, layout, &folder, dry_run, out);
    }
    let Some(mut instance) = Instance::open(id)? else {
        out_text(out, "no data plane serves this namespace: nothing to do\n")?;
        return Ok(Exit::Done);
    };
    known(&instance, ports, &facts)?;
    let lost = by_hand(&instance, &facts)?;
    if dry_run {
        let what = if ports.is_empty() {
            format!("every port of {}{lost}", instance.name())
        } else {
            format!("{} of {}", ports.join(", "), instance.name())
        };
        out_text(out, &format!("dataplane detach {what}\n"))?;
        return Ok(Exit::Done);
    }
    if ports.is_empty() {
        let name = instance.name().to_owned();
        let gateways = neighbours::by_hand(&instance, &facts)?;
        instance.delete()?;
        neighbours::let_go(&gateways).await?;
        out_text(
            out,
            &format!("data plane {name} is detached: the kernel forwards alone{lost}\n"),
        )?;
        return Ok(Exit::Done);
    }
    for name in ports {
        instance.detach(name, &facts)?;
    }
    show(&instance, &facts, out)
}

/// Takes away a data plane that another netmesh has made.
fn detach_other(
    id: NamespaceId,
    layout: u32,
    folder: &Folder,
    dry_run: bool,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let name = &folder.name;
    if dry_run {
        out_text(
            out,
            &format!("dataplane detach {name} of layout {layout}\n"),
        )?;
        return Ok(Exit::Done);
    }
    folder.discard_other()?;
    // One that an upgrade was about to put in its place.
    if let Some(instance) = Instance::open(id)? {
        instance.delete()?;
    }
    let text =
        format!("data plane {name} of layout {layout} is detached: the kernel forwards alone\n");
    out_text(out, &text)?;
    Ok(Exit::Done)
}

/// Every name is that of a port.
fn known(instance: &View, names: &[String], facts: &NamespaceFacts) -> Result<(), Failure> {
    let ports: Vec<String> = instance
        .ports(facts)?
        .into_iter()
        .map(|row| row.name.unwrap_or_else(|| format!("if{}", row.ifindex)))
        .collect();
    let Some(other) = names.iter().find(|name| !ports.contains(name)) else {
        return Ok(());
    };
    let there = match ports.as_slice() {
        [] => "there is none".to_owned(),
        ports => format!("there are {}", ports.join(", ")),
    };
    let error = anyhow::anyhow!(
        "{other} is no port of data plane {}; {there}",
        instance.name()
    );
    Err(Failure::rejected(error))
}

/// What goes with an instance for good: routes that no object and no kernel brings back.
fn by_hand(instance: &View, facts: &NamespaceFacts) -> Result<String, Failure> {
    let routes = instance.routes(facts)?;
    let routes = routes.iter().filter(|row| row.origin == Origin::Static);
    Ok(match routes.count() {
        0 => String::new(),
        1 => "; 1 route set by hand goes with it".to_owned(),
        n => format!("; {n} routes set by hand go with it"),
    })
}

async fn status(out: &mut Output) -> Result<Exit, Failure> {
    let (view, facts) = find().await?;
    match view {
        Some(view) => show(&view, &facts, out),
        None if out.is_json() => {
            out.json(serde_json::json!({ "instance": null }))?;
            Ok(Exit::Done)
        }
        None => {
            let text = unmounted().unwrap_or("no data plane serves this namespace");
            out.text(format_args!("{text}\n"))?;
            Ok(Exit::Done)
        }
    }
}

fn show(instance: &View, facts: &NamespaceFacts, out: &mut Output) -> Result<Exit, Failure> {
    let report = InstanceReport::of(instance, facts)?;
    if out.is_json() {
        out.json(serde_json::json!({ "instance": report }))?;
    } else {
        out.text(report.text())?;
    }
    Ok(Exit::Done)
}

fn out_text(out: &mut Output, text: &str) -> Result<(), Failure> {
    if out.is_json() {
        out.json(serde_json::json!({ "message": text.trim() }))?;
    } else {
        out.text(text)?;
    }
    Ok(())
}

/// Every instance on the node: its own namespace's and those of its resources.
pub(super) async fn all(
    kernel: &mut Kernel,
    namespaces: &[Namespace],
) -> Result<Vec<(Namespace, InstanceReport)>, Failure> {
    let mut reports = Vec::new();
    for namespace in namespaces {
        let facts = kernel.facts(namespace).await?;
        let id = identity(namespace)?;
        let report = netns::run_in(namespace, || -> Result<_, Failure> {
            match View::open(id)? {
                Some(view) => InstanceReport::of(&view, &facts).map(Some),
                None => Ok(None),
            }
        })??;
        reports.extend(report.map(|report| (namespace.clone(), report)));
    }
    Ok(reports)
}
