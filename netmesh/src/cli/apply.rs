//! `netmesh plan`, `apply`, `destroy`.

use std::io::{self, BufRead as _};

use serde::Serialize;

use super::arguments::{Apply, Destroy, Global, Plan};
use super::config::{self, Need, Objects};
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::model::derive::NAMESPACE_PREFIX;
use crate::model::{Network, NodeConfig, SegmentPort, Userspace};
use crate::plan::desired::{Facts, desired};
use crate::plan::digest::digest;
use crate::plan::state::{Namespace, State};
use crate::plan::step::Step;
use crate::reconcile::{Error, Implementation, Lock, Reconciler};
use crate::wireguard::key::KeyStore;

#[derive(Debug, Serialize)]
struct Report<'a> {
    node: &'a str,
    digest: String,
    pending: usize,
    applied: bool,
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
}

/// Reads the objects and computes the state they ask for; touches nothing.
pub(super) async fn load(global: &Global, files: &[std::path::PathBuf]) -> Result<Node, Failure> {
    node(global, config::load(&global.config, files, Need::Node)?).await
}

/// Computes the state that objects ask for; touches nothing.
pub(super) async fn node(global: &Global, objects: Objects) -> Result<Node, Failure> {
    let Objects { networks, node } = objects;
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
        return Ok(Exit::Done);
    }
    let steps = node
        .reconciler
        .plan(&node.desired)
        .await
        .map_err(unplannable)?;
    show(&node, &steps, false, out)?;
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
    let steps = node
        .reconciler
        .plan(&node.desired)
        .await
        .map_err(unplannable)?;
    if apply.dry_run {
        show(&node, &steps, false, out)?;
        return Ok(Exit::Done);
    }
    if !apply.empty {
        not_all(&node, &steps)?;
    }
    execute(&mut node.reconciler, &steps, out).await?;
    node.reconciler.refresh(&node.desired).await?;
    show(&node, &steps, true, out)?;
    Ok(Exit::Done)
}

/// `netmesh destroy`.
pub(super) async fn destroy(
    global: &Global,
    destroy: &Destroy,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let mut node = load(global, &[]).await?;
    let mut keep = State::default();
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
        keep = desired(&others, &node.config, &facts);
    }
    let _lock = lock(destroy.dry_run)?;
    let steps = node.reconciler.plan_removal(&node.desired, &keep).await?;
    if destroy.dry_run {
        show(&node, &steps, false, out)?;
        return Ok(Exit::Done);
    }
    if !destroy.yes && !steps.is_empty() {
        confirm(&steps, out)?;
    }
    execute(&mut node.reconciler, &steps, out).await?;
    node.reconciler.refresh(&keep).await?;
    show(&node, &steps, true, out)?;
    Ok(Exit::Done)
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
         objects, or remove it all: netmesh destroy, or netmesh apply --empty",
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

fn show(node: &Node, steps: &[Step], applied: bool, out: &mut Output) -> Result<(), Failure> {
    if out.is_json() {
        return Ok(out.json(Report {
            node: node.config.node.as_str(),
            digest: digest(&node.desired)?,
            pending: if applied { 0 } else { steps.len() },
            applied,
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
fn lock(dry_run: bool) -> Result<Option<Lock>, Failure> {
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
fn confirm(steps: &[Step], out: &Output) -> Result<(), Failure> {
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
