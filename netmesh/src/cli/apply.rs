//! `netmesh plan`, `apply`, `destroy`.

use std::io::{self, BufRead as _};

use serde::Serialize;

use super::arguments::{Apply, Destroy, Global, Plan};
use super::config::{self, Need, Objects};
use super::confirm;
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::model::derive::NAMESPACE_PREFIX;
use crate::model::{Network, NodeConfig, SegmentPort, Userspace, parse_network};
use crate::plan::desired::{Facts, desired};
use crate::plan::digest::digest;
use crate::plan::state::{Namespace, State};
use crate::plan::step::Step;
use crate::reconcile::{Applied, Error, Implementation, Lock, Reconciler, Record, Snapshot};
use crate::wireguard::key::KeyStore;

#[derive(Debug, Serialize)]
struct Report<'a> {
    node: &'a str,
    digest: String,
    pending: usize,
    applied: bool,
    /// The change is undone unless it is confirmed within so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirm_within: Option<u64>,
    steps: Vec<StepReport<'a>>,
}

#[derive(Debug, Serialize)]
struct StepReport<'a> {
    text: String,
    #[serde(flatten)]
    step: &'a Step,
}

/// A node with its objects.
pub(super) struct Node {
    pub(super) config: NodeConfig,
    pub(super) networks: Vec<Network>,
    pub(super) reconciler: Reconciler,
    pub(super) desired: State,
    /// The files the objects are from.
    pub(super) snapshot: Snapshot,
}

/// Reads the objects and computes the state they ask for; touches nothing.
pub(super) async fn load(global: &Global, files: &[std::path::PathBuf]) -> Result<Node, Failure> {
    node(global, config::load(&global.config, files, Need::Node)?).await
}

/// Computes the state that objects ask for; touches nothing.
pub(super) async fn node(global: &Global, objects: Objects) -> Result<Node, Failure> {
    let Objects {
        networks,
        node,
        snapshot,
    } = objects;
    let Some(config) = node else {
        return Err(Failure::rejected(anyhow::anyhow!("node.toml is missing")));
    };
    let mut reconciler = Reconciler::new(
        config.node.as_str(),
        NAMESPACE_PREFIX,
        KeyStore::new(global.config.join("keys")),
        match &config.wireguard {
            Userspace::Auto => Implementation::Auto,
            Userspace::Kernel => Implementation::Kernel,
            Userspace::Embedded => Implementation::Embedded,
            Userspace::Program(program) => Implementation::Program(program.clone()),
        },
    );
    let facts = facts(&mut reconciler, &networks, &config).await?;
    let desired = desired(&networks, &config, &facts);
    Ok(Node {
        config,
        networks,
        reconciler,
        desired,
        snapshot,
    })
}

/// `netmesh plan`.
pub(super) async fn plan(global: &Global, plan: &Plan, out: &mut Output) -> Result<Exit, Failure> {
    let mut node = load(global, &plan.files).await?;
    if plan.digest {
        let digest = digest(&node.desired)?;
        if out.is_json() {
            out.json(serde_json::json!({ "node": node.config.node, "digest": digest }))?;
        } else {
            out.text(format_args!("{digest}\n"))?;
        }
        if !plan.exit_code {
            return Ok(Exit::Done);
        }
    }
    let steps = node
        .reconciler
        .plan(&node.desired)
        .await
        .map_err(unplannable)?;
    if !plan.digest {
        show(&node, &steps, None, out)?;
    }
    Ok(if plan.exit_code && !steps.is_empty() {
        Exit::Pending
    } else {
        Exit::Done
    })
}

/// `netmesh apply`.
pub(super) async fn apply(
    global: &Global,
    apply: &Apply,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let mut node = load(global, &apply.files).await?;
    let _lock = lock(apply.dry_run)?;
    let record = Record::open()?;
    confirm::before_another(global, &record, apply.dry_run).await?;
    // A change may have been undone, and the files with it, since they were read.
    if apply.files.is_empty() {
        let (now, _) = config::load_quietly(&global.config, &[], Need::Node)?;
        if now.snapshot != node.snapshot {
            node = self::node(global, now).await?;
        }
    }
    let steps = node
        .reconciler
        .plan(&node.desired)
        .await
        .map_err(unplannable)?;
    if apply.dry_run {
        show(&node, &steps, None, out)?;
        return Ok(Exit::Done);
    }
    if !apply.empty {
        not_all(&node, &steps)?;
    }
    let armed = match apply.confirm_within {
        Some(seconds) => Some((
            confirm::arm(global, &record, &mut node, seconds).await?,
            seconds,
        )),
        None => None,
    };
    if let Err(failure) = make(&mut node, &steps, out).await {
        let Some((pending, _)) = armed else {
            return Err(failure);
        };
        // Half a change is nothing to confirm.
        let undone = match confirm::undo(global, &record, &pending).await {
            Ok(undone) => undone,
            Err(mut second) => {
                second.error = second.error.context(format!("{:#}", failure.error));
                return Err(second);
            }
        };
        let error = failure.error.context(format!("undone: {}", undone.told()));
        return Err(Failure::failed(
            error,
            "the node is what it was before the change",
        ));
    }
    keep(&record, Some(node.snapshot.clone()));
    let mut within = None;
    if let Some((pending, seconds)) = armed {
        confirm::rearm(&record, pending, seconds)?;
        within = Some(seconds);
    }
    show(&node, &steps, Some(within), out)?;
    Ok(Exit::Done)
}

async fn make(node: &mut Node, steps: &[Step], out: &Output) -> Result<(), Failure> {
    execute(&mut node.reconciler, steps, out).await?;
    Ok(node.reconciler.refresh(&node.desired).await?)
}

/// Notes what is applied from here on. The node is what it should be, with or without the note.
fn keep(record: &Record, objects: Option<Snapshot>) {
    let kept = match objects {
        None => record.forget(),
        Some(objects) => record.set_applied(&Applied {
            objects: Some(objects),
            ..Applied::default()
        }),
    };
    if let Err(error) = kept {
        // What was applied before is nothing to go back to.
        let _ = record.forget_applied();
        let error = anyhow::Error::from(error);
        tracing::warn!("the next change cannot be undone: {error:#}");
    }
}

/// `netmesh destroy`.
pub(super) async fn destroy(
    global: &Global,
    destroy: &Destroy,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let mut node = load(global, &[]).await?;
    let mut rest = State::default();
    if let Some(name) = &destroy.network {
        if !node.networks.iter().any(|network| network.name == **name) {
            let known: Vec<&str> = node
                .networks
                .iter()
                .map(|network| network.name.as_str())
                .collect();
            let error = anyhow::anyhow!("no network {name}; there are: {}", known.join(", "));
            return Err(Failure::rejected(error));
        }
        let others: Vec<Network> = node
            .networks
            .iter()
            .filter(|network| network.name != **name)
            .cloned()
            .collect();
        let facts = facts(&mut node.reconciler, &others, &node.config).await?;
        rest = desired(&others, &node.config, &facts);
    }
    let _lock = lock(destroy.dry_run)?;
    let record = Record::open()?;
    if destroy.network.is_some() {
        confirm::before_another(global, &record, destroy.dry_run).await?;
    }
    let steps = node.reconciler.plan_removal(&node.desired, &rest).await?;
    if destroy.dry_run {
        show(&node, &steps, None, out)?;
        return Ok(Exit::Done);
    }
    if !destroy.yes && !steps.is_empty() {
        ask(&steps, out)?;
    }
    execute(&mut node.reconciler, &steps, out).await?;
    node.reconciler.refresh(&rest).await?;
    let kept = match &destroy.network {
        Some(name) => record.applied()?.objects.map(|all| without(all, name)),
        // With all of it goes what waited to be confirmed.
        None => None,
    };
    keep(&record, kept);
    show(&node, &steps, Some(None), out)?;
    Ok(Exit::Done)
}

/// The objects but for one network.
fn without(mut objects: Snapshot, network: &str) -> Snapshot {
    objects
        .0
        .retain(|file, text| !parse_network(file, text).is_ok_and(|found| found.name == *network));
    objects
}

/// Objects that have nothing for this node are more often misplaced than meant: a misspelt name, a
/// folder that is not there. What it has is not removed for that alone.
fn not_all(node: &Node, steps: &[Step]) -> Result<(), Failure> {
    let resource = |namespace: &Namespace| *namespace != Namespace::Node;
    if node.desired.namespaces.keys().any(resource) {
        return Ok(());
    }
    let lost: Vec<String> = steps
        .iter()
        .filter_map(|step| match step {
            Step::DeleteNamespace { namespace } => Some(namespace.to_string()),
            _ => None,
        })
        .collect();
    let what = match lost.as_slice() {
        // A router has other duties, and steps to take for them.
        [] if node.config.router.is_some() || steps.is_empty() => return Ok(()),
        [] => format!("{} steps would remove what it has", steps.len()),
        lost => format!("it has {}", lost.join(", ")),
    };
    Err(Failure::rejected(anyhow::anyhow!(
        "no network object has a resource on node {}, and {what}; mend `node` in node.toml or the \
         objects, or remove it all: netmesh apply --empty, or netmesh destroy with `node` what it was \
         when that was made",
        node.config.node,
    )))
}

async fn execute(reconciler: &mut Reconciler, steps: &[Step], out: &Output) -> Result<(), Failure> {
    let told = !out.is_json() && !out.is_quiet();
    let total = steps.len();
    reconciler
        .execute(steps, |number, step| {
            if told {
                tracing::info!("{}/{total} {step}", number + 1);
            }
        })
        .await
        .map_err(|error| {
            Failure::failed(
                error,
                "the steps before it were taken and stay; `netmesh plan` shows what is left, \
                 `netmesh apply` goes on from here",
            )
        })
}

/// `applied` is none for steps that were not taken, else the seconds within which to confirm them,
/// if they are to be confirmed.
fn show(
    node: &Node,
    steps: &[Step],
    applied: Option<Option<u64>>,
    out: &mut Output,
) -> Result<(), Failure> {
    let (applied, confirm_within) = (applied.is_some(), applied.flatten());
    if out.is_json() {
        return Ok(out.json(Report {
            node: node.config.node.as_str(),
            digest: digest(&node.desired)?,
            pending: if applied { 0 } else { steps.len() },
            applied,
            confirm_within,
            steps: steps
                .iter()
                .map(|step| StepReport {
                    text: step.to_string(),
                    step,
                })
                .collect(),
        })?);
    }
    if !out.is_brief() {
        for step in steps {
            out.text(format_args!("{step}\n"))?;
        }
    }
    let name = &node.config.node;
    match (steps.len(), applied) {
        (0, _) => out.text(format_args!("node {name}: nothing to do\n"))?,
        (n, true) => out.text(format_args!("node {name}: {n} steps done\n"))?,
        (n, false) => out.text(format_args!("node {name}: {n} steps pending\n"))?,
    }
    if let Some(seconds) = confirm_within {
        out.text(format_args!(
            "undone in {seconds} s, and all that is changed until then, unless: netmesh confirm\n"
        ))?;
    }
    Ok(())
}

/// What only the machine can tell.
async fn facts(
    reconciler: &mut Reconciler,
    networks: &[Network],
    config: &NodeConfig,
) -> Result<Facts, Failure> {
    let mut found = Facts::default();
    let has_exit = networks
        .iter()
        .flat_map(|network| network.resources_of(&config.node))
        .any(|resource| resource.exit.is_some());
    let Some(segment) = config.segment.as_ref().filter(|_| has_exit) else {
        return Ok(found);
    };
    let devices = reconciler.kernel().facts(&Namespace::Node).await?.devices;
    let (SegmentPort::Parent(name) | SegmentPort::Device(name)) = segment;
    match devices.get(name) {
        Some(device) if device.kind == "bridge" => {
            found.bridges.insert(name.clone());
        }
        None if matches!(segment, SegmentPort::Parent(_)) => {
            let known: Vec<&str> = devices.keys().map(String::as_str).collect();
            return Err(Failure::rejected(anyhow::anyhow!(
                "node.toml: segment.parent {name} is no interface of this node; there are {}",
                known.join(", ")
            )));
        }
        _ => {}
    }
    Ok(found)
}

/// A plan that cannot be made has changed nothing; what the operator must mend is input.
fn unplannable(error: Error) -> Failure {
    let input = matches!(
        &error,
        Error::Wireguard(_) | Error::NoInterface { .. } | Error::Conflicts(_)
    );
    let mut failure = Failure::failed(error, "nothing was changed");
    if input {
        failure.exit = Exit::Rejected;
    }
    failure
}

/// The lock among writers; what changes nothing needs none.
pub(super) fn lock(dry_run: bool) -> Result<Option<Lock>, Failure> {
    if dry_run {
        return Ok(None);
    }
    Lock::take().map(Some).map_err(|error| {
        let denied = matches!(error, Error::NotRoot);
        let mut failure = Failure::failed(error, "nothing was changed");
        if denied {
            failure.exit = Exit::NotPermitted;
        }
        failure
    })
}

#[expect(clippy::print_stderr, reason = "a question is no data")]
fn ask(steps: &[Step], out: &Output) -> Result<(), Failure> {
    use std::io::IsTerminal as _;
    if !io::stdin().is_terminal() || out.is_json() {
        let error = anyhow::anyhow!("{} steps would remove things; say --yes", steps.len());
        return Err(Failure {
            exit: Exit::Usage,
            error,
            state: Some("nothing was changed"),
        });
    }
    eprint!(
        "{} steps remove what netmesh made on this node. Go on? [y/N] ",
        steps.len()
    );
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    let error = anyhow::anyhow!("not confirmed");
    Err(Failure {
        exit: Exit::Failed,
        error,
        state: Some("nothing was changed"),
    })
}
