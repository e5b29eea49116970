//! Changes that are undone unless they are confirmed: `netmesh apply --confirm-within`, `confirm`,
//! `rollback`.
//!
//! Three undo a change whose time is over, whoever comes first, under the writers' lock: a small
//! process of our own that `apply` starts and that outlives it (no service manager is needed), the
//! daemon if there is one, and the next command that changes the node.

use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use super::apply::{self, Node};
use super::arguments::{Confirm, Global, Rollback};
use super::config;
use super::exit::{Exit, Failure};
use super::output::Output;
use super::put_back::put_back;
use crate::plan::state::State;
use crate::plan::step::Step;
use crate::reconcile::{Applied, Error, Pending, Record, Snapshot, now};

/// The hidden subcommand of the process that waits.
const WATCHER: &str = "undo-unconfirmed";
/// How often it looks at the clock: no timer of a process counts the time a machine sleeps.
const TICK: Duration = Duration::from_secs(1);
/// How long it rests at most after it failed.
const LONGEST: Duration = Duration::from_secs(60);
/// What it says when no terminal can take it along any more.
const READY: &str = "ready";

/// What was done to undo a change.
pub(super) struct Undone {
    steps: Vec<Step>,
    /// What happened to the files, for people.
    files: String,
    /// Where the objects that were undone are.
    aside: Option<String>,
    /// The files could not be put back.
    failed: bool,
}

impl Undone {
    /// One line on it.
    pub(super) fn told(&self) -> String {
        format!("{} steps undid it; {}", self.steps.len(), self.files)
    }
}

#[derive(Debug, Serialize)]
struct ConfirmReport {
    confirmed: bool,
    seconds_left: u64,
}

#[derive(Debug, Serialize)]
struct RollbackReport {
    rolled_back: bool,
    steps: Vec<String>,
    rejected: Option<String>,
}

/// `netmesh confirm`.
pub(super) async fn confirm(
    global: &Global,
    confirm: &Confirm,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let _lock = apply::lock(confirm.dry_run)?;
    let record = Record::open()?;
    let pending = waiting(&record)?;
    let now = now()?;
    let Some(left) = pending.left(now) else {
        let over = pending.over(now).as_secs();
        if confirm.dry_run {
            let error = anyhow::anyhow!("too late by {over} s: the change is about to be undone");
            return Err(Failure::rejected(error));
        }
        let undone = undo(global, &record, &pending).await?;
        let error = anyhow::anyhow!("too late by {over} s: {}", undone.told());
        return Err(Failure::failed(
            error,
            "the node is what it was before the change",
        ));
    };
    let seconds_left = left.as_secs();
    if !confirm.dry_run {
        record.settle()?;
    }
    if out.is_json() {
        out.json(ConfirmReport {
            confirmed: !confirm.dry_run,
            seconds_left,
        })?;
    } else if confirm.dry_run {
        out.text(format_args!("a change waits, {seconds_left} s are left\n"))?;
    } else {
        out.text(format_args!("confirmed, {seconds_left} s were left\n"))?;
    }
    Ok(Exit::Done)
}

/// `netmesh rollback`.
pub(super) async fn rollback(
    global: &Global,
    rollback: &Rollback,
    out: &mut Output,
) -> Result<Exit, Failure> {
    let _lock = apply::lock(rollback.dry_run)?;
    let record = Record::open()?;
    let pending = waiting(&record)?;
    let undone = if rollback.dry_run {
        Undone {
            steps: Back::to(global, &record, &pending)?.plan().await?,
            files: String::new(),
            aside: None,
            failed: false,
        }
    } else {
        undo(global, &record, &pending).await?
    };
    if out.is_json() {
        out.json(RollbackReport {
            rolled_back: !rollback.dry_run,
            steps: undone.steps.iter().map(ToString::to_string).collect(),
            rejected: undone.aside.clone(),
        })?;
    } else {
        if !out.is_brief() {
            for step in &undone.steps {
                out.text(format_args!("{step}\n"))?;
            }
        }
        match (rollback.dry_run, undone.steps.len()) {
            (true, n) => out.text(format_args!("{n} steps would undo the change\n"))?,
            (false, _) => out.text(format_args!("{}\n", undone.told()))?,
        }
    }
    if undone.failed {
        let error = anyhow::anyhow!("{}", undone.files);
        return Err(Failure::failed(
            error,
            "the node is what it was before the change",
        ));
    }
    Ok(Exit::Done)
}

fn waiting(record: &Record) -> Result<Pending, Failure> {
    let pending = record.pending()?;
    pending.ok_or_else(|| Failure::rejected(anyhow::anyhow!("no change waits to be confirmed")))
}

/// The change that waits, as far as the caller may know: it is root's to know.
pub(super) fn seen(record: &Record) -> Result<Option<Pending>, Error> {
    match record.pending() {
        Err(Error::Record { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            Ok(None)
        }
        pending => pending,
    }
}

/// Looks for a change that waits, before another one: in time it refuses that, afterwards it is
/// undone first, and the files with it. The caller holds the lock unless `dry_run`.
pub(super) async fn before_another(
    global: &Global,
    record: &Record,
    dry_run: bool,
) -> Result<(), Failure> {
    let Some(pending) = seen(record)? else {
        return Ok(());
    };
    if let Some(left) = pending.left(now()?) {
        return Err(Failure::rejected(anyhow::anyhow!(
            "a change waits to be confirmed, {} s are left: netmesh confirm keeps it, netmesh \
             rollback undoes it",
            left.as_secs()
        )));
    }
    if dry_run {
        tracing::warn!("a change was not confirmed and will be undone first: netmesh rollback");
        return Ok(());
    }
    let undone = undo(global, record, &pending).await?;
    tracing::warn!("a change was not confirmed in time: {}", undone.told());
    Ok(())
}

/// Notes the change that is about to be made, and starts the process that undoes it.
pub(super) async fn arm(
    global: &Global,
    record: &Record,
    node: &mut Node,
    seconds: u64,
) -> Result<Pending, Failure> {
    let before = record.applied()?.objects;
    if before.is_none() {
        let (all, none) = (&node.desired, &State::default());
        let made = node.reconciler.plan_removal(all, none).await?;
        if !made.is_empty() {
            return Err(Failure::rejected(anyhow::anyhow!(
                "what this node has was applied by a netmesh that kept no record of it, so nobody \
                 knows what to go back to: netmesh apply the objects as they were, then change them"
            )));
        }
    }
    let now = now()?;
    let pending = Pending {
        id: now.as_nanos() as u64,
        deadline_ms: deadline(now, seconds),
        folder: std::path::absolute(&global.config)?,
        before,
        after: node.snapshot.clone(),
    };
    let armed = record.set_pending(&pending);
    let armed = armed.map_err(Failure::from);
    let armed = armed.and_then(|()| start(&pending.folder, pending.id).map_err(Failure::from));
    if let Err(mut failure) = armed {
        record.settle()?;
        failure.state = Some("nothing was changed");
        return Err(failure);
    }
    Ok(pending)
}

/// The change is made: its time begins now.
pub(super) fn rearm(record: &Record, pending: Pending, seconds: u64) -> Result<(), Failure> {
    Ok(record.set_pending(&Pending {
        deadline_ms: deadline(now()?, seconds),
        ..pending
    })?)
}

fn deadline(now: Duration, seconds: u64) -> u64 {
    (now + Duration::from_secs(seconds)).as_millis() as u64
}

/// The way back from a change.
struct Back {
    global: Global,
    /// Objects that the node was made by since, of another node's name, or with nothing before
    /// them: what they made is removed as a whole.
    away: Vec<config::Objects>,
    before: Option<config::Objects>,
}

impl Back {
    fn to(global: &Global, record: &Record, pending: &Pending) -> Result<Self, Failure> {
        let folder = &pending.folder;
        let kept = |snapshot| config::of_snapshot(folder, snapshot);
        let before = pending.before.as_ref().map(kept).transpose()?;
        // The daemon may have taken further changes.
        let applied = record.applied()?.objects;
        let mut away = Vec::new();
        for made in [Some(&pending.after), applied.as_ref()]
            .into_iter()
            .flatten()
        {
            let made = kept(made)?;
            let name = |objects: &config::Objects| objects.node.as_ref().map(|n| n.node.clone());
            if before
                .as_ref()
                .is_none_or(|before| name(before) != name(&made))
            {
                away.push(made);
            }
        }
        Ok(Self {
            global: Global {
                config: folder.clone(),
                ..global.clone()
            },
            away,
            before,
        })
    }

    /// The steps, as far as they can be told beforehand.
    async fn plan(self) -> Result<Vec<Step>, Failure> {
        let mut all = Vec::new();
        for objects in self.away {
            let mut node = apply::node(&self.global, objects).await?;
            let steps = removal(&mut node).await?;
            all.extend(
                steps
                    .into_iter()
                    .filter(|step| !all.contains(step))
                    .collect::<Vec<_>>(),
            );
        }
        if let Some(before) = self.before {
            let mut node = apply::node(&self.global, before).await?;
            all.extend(node.reconciler.plan(&node.desired).await?);
        }
        Ok(all)
    }

    /// Takes them.
    async fn go(self) -> Result<Vec<Step>, Failure> {
        let mut all = Vec::new();
        let told = |_, step: &Step| tracing::info!("{step}");
        for objects in self.away {
            let mut node = apply::node(&self.global, objects).await?;
            let steps = removal(&mut node).await?;
            node.reconciler.execute(&steps, told).await?;
            node.reconciler.refresh(&State::default()).await?;
            all.extend(steps);
        }
        if let Some(before) = self.before {
            let mut node = apply::node(&self.global, before).await?;
            let steps = node.reconciler.plan(&node.desired).await?;
            node.reconciler.execute(&steps, told).await?;
            node.reconciler.refresh(&node.desired).await?;
            all.extend(steps);
        }
        Ok(all)
    }
}

async fn removal(node: &mut Node) -> Result<Vec<Step>, Failure> {
    let none = State::default();
    Ok(node.reconciler.plan_removal(&node.desired, &none).await?)
}

/// Undoes a change: the node first, then the files. The caller holds the lock. What is killed
/// half-way is done again by the next one: the change waits until all is done.
pub(super) async fn undo(
    global: &Global,
    record: &Record,
    pending: &Pending,
) -> Result<Undone, Failure> {
    let went = async {
        let steps = Back::to(global, record, pending)?.go().await?;
        let mut applied = record.applied()?;
        let now = config::snapshot(&pending.folder).ok();
        let undone = [Some(pending.after.clone()), applied.objects, now];
        applied
            .refused
            .extend(refused(undone, pending.before.as_ref()));
        record.set_applied(&Applied {
            objects: pending.before.clone(),
            ..applied
        })?;
        Ok::<_, Failure>(steps)
    };
    let steps = went.await.map_err(|mut failure| {
        failure.error = failure.error.context("the change cannot be undone");
        failure.state =
            Some("the change still waits to be undone; mend the cause: netmesh rollback");
        failure
    })?;
    let put = put_back(&pending.folder, pending.before.as_ref());
    record.settle()?;
    let folder = pending.folder.display();
    Ok(match put {
        Ok(None) => Undone {
            steps,
            files: format!("the files in {folder} were the former ones already"),
            aside: None,
            failed: false,
        },
        Ok(Some(aside)) => Undone {
            steps,
            files: format!(
                "the files in {folder} are the former ones, the others are in {}",
                aside.display()
            ),
            aside: Some(aside.display().to_string()),
            failed: false,
        },
        Err(error) => Undone {
            steps,
            files: format!(
                "the files in {folder} cannot be put back and hold what was undone: {error}"
            ),
            aside: None,
            failed: true,
        },
    })
}

/// Digests of all that was undone: what the node goes back to is not among it.
fn refused(undone: [Option<Snapshot>; 3], before: Option<&Snapshot>) -> Vec<String> {
    let others = undone
        .iter()
        .flatten()
        .filter(|objects| Some(*objects) != before);
    others.map(Snapshot::digest).collect()
}

/// Starts the process that undoes a change, and waits until it is on its own.
fn start(folder: &Path, id: u64) -> anyhow::Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .arg("--config")
        .arg(folder)
        .args([WATCHER, &id.to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    anyhow::ensure!(
        line.trim() == READY,
        "nobody would undo the change: {}",
        child.wait()?
    );
    Ok(())
}

/// The hidden subcommand: waits for the deadline of one change and undoes it. Ends when it was
/// confirmed, undone by somebody else, or forgotten with all of the node.
pub(super) async fn watch(global: &Global, id: u64, out: &mut Output) -> Result<Exit, Failure> {
    // A terminal that closes must not take it along.
    nix::unistd::setsid()?;
    // Who started it may be killed already.
    let _ = out.text(format_args!("{READY}\n"));
    let record = Record::open()?;
    let ours = |pending: &Pending| pending.id == id;
    let mut rest = TICK;
    while let Some(pending) = record.pending()?.filter(ours) {
        let Some(left) = pending.left(now()?) else {
            if try_undo(global, &record, id).await.is_err() {
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(LONGEST);
            }
            continue;
        };
        tokio::time::sleep(left.min(TICK)).await;
    }
    Ok(Exit::Done)
}

async fn try_undo(global: &Global, record: &Record, id: u64) -> Result<(), Failure> {
    let _lock = apply::lock(false)?;
    // Another one may have settled it, or the change may only now be made.
    let pending = record.overdue()?.filter(|pending| pending.id == id);
    if let Some(pending) = pending {
        undo(global, record, &pending).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_undone_is_refused_and_what_was_before_is_not() {
        let objects = |text: &str| Snapshot([("node.toml".to_owned(), text.to_owned())].into());
        let (old, new, newer) = (objects("old"), objects("new"), objects("newer"));
        let digests = |of: &[&Snapshot]| of.iter().map(|one| one.digest()).collect::<Vec<_>>();
        for (undone, before, refuses) in [
            (
                [Some(new.clone()), Some(newer.clone()), None],
                Some(&old),
                vec![&new, &newer],
            ),
            // The operator has put the files back already.
            (
                [Some(new.clone()), None, Some(old.clone())],
                Some(&old),
                vec![&new],
            ),
            (
                [Some(new.clone()), None, Some(old.clone())],
                None,
                vec![&new, &old],
            ),
        ] {
            assert_eq!(refused(undone, before), digests(&refuses));
        }
    }
}
