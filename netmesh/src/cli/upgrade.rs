//! `netmesh dataplane upgrade`.

use std::path::Path;

use super::dataplane::none;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::dataplane::object::Object;
use crate::dataplane::pin::Folder;
use crate::dataplane::{self, Instance, View};
use crate::kernel::netns;
use crate::model::derive::NAMESPACE_PREFIX;
use crate::plan::state::Namespace;
use crate::reconcile::{Error as ReconcileError, Lock, identity};

/// One instance after the other: each runs old or new programs on all its ports, never none.
pub(super) fn run(
    all: bool,
    path: Option<&Path>,
    dry_run: bool,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let object = match path {
        Some(path) => Object::read(path).map_err(Failure::rejected)?,
        None => Object::default(),
    };
    let mut namespaces = vec![Namespace::Node];
    if all {
        let names = netns::list()?.into_iter();
        let ours = names.filter(|name| name.starts_with(NAMESPACE_PREFIX));
        namespaces.extend(ours.map(Namespace::Named));
    }
    let mut done: Vec<String> = Vec::new();
    let _alone = alone(&namespaces)?;
    for namespace in namespaces {
        let id = identity(&namespace)?;
        let upgraded = netns::run_in(&namespace, || -> Result<_, dataplane::Error> {
            let older = Folder::find_other(id)?;
            if dry_run {
                let name = match older {
                    Some((_, folder)) => Some(folder.name),
                    None => View::open(id)?.map(|view| view.name().to_owned()),
                };
                return Ok(name);
            }
            // With this binary's programs first: no other object fits an older layout's tables.
            let (instance, is_new) = match Instance::take_over(id)? {
                Some(instance) => (Some(instance), path.is_none()),
                None => (Instance::open(id)?, false),
            };
            let Some(mut instance) = instance else {
                return Ok(None);
            };
            if !is_new {
                instance.upgrade(id, &object)?;
            }
            Ok(Some(instance.name().to_owned()))
        })?;
        let name = upgraded.map_err(|error| {
            let before = match done.as_slice() {
                [] => String::new(),
                names => format!(" (done: {})", names.join(", ")),
            };
            let state = match error {
                dataplane::Error::HalfUpgraded { .. } => "old and new programs run side by side",
                _ => "every port goes on with the programs it had",
            };
            let context = format!("upgrade in {namespace}{before}");
            Failure::failed(anyhow::Error::new(error).context(context), state)
        })?;
        done.extend(name);
    }
    if done.is_empty() {
        return Err(none().into());
    }
    if out.is_json() {
        out.json(serde_json::json!({ "upgraded": done, "applied": !dry_run }))?;
    } else {
        for name in &done {
            out.text(format_args!("dataplane upgrade {name}\n"))?;
        }
    }
    Ok(Exit::Done)
}

/// An older daemon would make its own data plane anew beside the one that takes its place: while one of
/// another layout is taken over there is none.
fn alone(namespaces: &[Namespace]) -> Result<Option<Lock>, Failure> {
    for namespace in namespaces {
        if Folder::find_other(identity(namespace)?)?.is_some() {
            let lock = Lock::serve().map_err(|error| match error {
                ReconcileError::Served => Failure::rejected(anyhow::anyhow!(
                    "a daemon serves this node, and the data plane in {namespace} is of another \
                     layout; stop the daemon (systemctl stop netmesh: forwarding goes on), upgrade, \
                     and start it again"
                )),
                error => error.into(),
            });
            return lock.map(Some);
        }
    }
    Ok(None)
}
