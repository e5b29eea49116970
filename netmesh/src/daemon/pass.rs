//! One pass: objects if they changed, then the difference, then what follows the kernel.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::backoff::{jittered, pause};
use super::follow::Followers;
use super::objects::{Loaded, Objects, Rejected, Remarks};
use super::repeat::Repeats;
use super::tunnels::{self, Tunnels};
use super::wake::{NEIGHBOURS, NETWORK, OBJECTS, ROUTES, Reasons, SMALL};
use crate::dataplane::words::Words;
use crate::kernel::Kernel;
use crate::metrics::Told;
use crate::plan::digest::digest;
use crate::plan::state::{Namespace, State};
use crate::reconcile::{Applied, Error, Lock, Mirrored, Record, identity, mirror};

/// Failures in a row that are an error: after seven seconds.
const LASTING: u32 = 4;

/// This failure is to be told as an error: once when it has lasted, and again when it is another.
const fn is_lasting(failures: u32, is_new: bool) -> bool {
    failures == LASTING || is_new && failures > LASTING
}

/// The node as the daemon knows it.
pub(super) struct Node<O> {
    objects: O,
    /// The last objects that were right.
    loaded: Option<Loaded>,
    digest: Option<String>,
    /// What was said of them.
    warnings: Remarks,
    /// Why the objects as they are now cannot be used.
    rejected: Option<Rejected>,
    /// Why the last pass failed, as it was told.
    trouble: Option<String>,
    failures: u32,
    repeats: Repeats,
    followers: Followers,
    tunnels: Tunnels,
    /// Protocols of the kernel's routes that are mirrored.
    mirror: BTreeSet<u8>,
    told: Arc<Told>,
    words: Words,
}

/// How a pass ended.
#[derive(Debug)]
pub(super) struct Outcome {
    /// How long to rest.
    pub(super) pause: Duration,
    /// It has to be done again.
    pub(super) again: bool,
    /// It took steps.
    pub(super) changed: bool,
    /// One line on how the node does.
    pub(super) status: String,
}

impl<O: Objects> Node<O> {
    pub(super) fn new(
        objects: O,
        followers: Followers,
        mirror: BTreeSet<u8>,
        told: Arc<Told>,
    ) -> Self {
        Self {
            objects,
            loaded: None,
            digest: None,
            warnings: Remarks::default(),
            rejected: None,
            trouble: None,
            failures: 0,
            repeats: Repeats::default(),
            followers,
            tunnels: Tunnels::new(),
            mirror,
            told,
            words: Words::default(),
        }
    }

    /// Passes on what the programs of this node say themselves.
    pub(super) fn hear(&mut self) {
        let wanted = self.loaded.as_ref().map(|loaded| &loaded.desired);
        let resources = wanted
            .into_iter()
            .flat_map(|state| state.namespaces.keys())
            .filter(|namespace| **namespace != Namespace::Node);
        // One that is not there has no programs either.
        let all = std::iter::once(&Namespace::Node)
            .chain(resources)
            .filter_map(|namespace| identity(namespace).ok());
        if let Err(error) = self.words.pass_on(all) {
            tracing::debug!(%error, "what the programs say cannot be heard");
        }
    }

    /// The names of the namespaces the node's resources live in.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let wanted = self.loaded.as_ref().map(|loaded| &loaded.desired);
        let all = wanted.into_iter().flat_map(|state| state.namespaces.keys());
        all.filter_map(|namespace| match namespace {
            Namespace::Named(name) => Some(name.clone()),
            Namespace::Node => None,
        })
        .collect()
    }

    /// The objects as they are now cannot be used.
    pub(super) const fn is_rejected(&self) -> bool {
        self.rejected.is_some()
    }

    /// The tunnels are not what they were after the last pass.
    pub(super) fn tunnels_changed(&self) -> bool {
        let loaded = self.loaded.as_ref();
        loaded.is_some_and(|loaded| tunnels::look(&loaded.desired) != self.tunnels)
    }

    /// Makes the node what its objects say, as far as there is anything to do.
    pub(super) async fn pass(&mut self, mut reasons: Reasons) -> Outcome {
        if self.undo_unconfirmed().await {
            // The files are others, and what was read before must not be made again.
            self.loaded = None;
            reasons |= OBJECTS | NETWORK;
        }
        if reasons & OBJECTS != 0 {
            self.load().await;
        }
        let Some(loaded) = &mut self.loaded else {
            self.failures += 1;
            self.told.update(|report| report.failed += 1);
            return Outcome {
                pause: jittered(pause(self.failures)),
                again: true,
                changed: false,
                status: self.status(),
            };
        };
        let begun = Instant::now();
        let mut taken = Vec::new();
        let mut result = reconcile(loaded, &mut self.followers, reasons, &mut taken).await;
        // Also where something is in the way of the objects: the one has nothing to do with the other.
        if !self.mirror.is_empty() && reasons != NEIGHBOURS {
            let mirrored = mirror_routes(loaded.reconciler.kernel(), &self.mirror).await;
            result = result.and(mirrored);
        }
        if reasons & !SMALL != 0 {
            self.tunnels = tunnels::look(&loaded.desired);
        }
        let steps = taken.len();
        let undone = self.repeats.note(taken, tokio::time::Instant::now());
        let mut rest = Duration::ZERO;
        if let Some(undone) = undone {
            rest = jittered(undone.pause);
            tracing::warn!(
                step = undone.step,
                times = undone.times,
                pause_seconds = rest.as_secs(),
                "somebody undoes this step; it is left alone for a while"
            );
        }
        match result {
            Ok(()) => {
                self.failures = 0;
                if self.trouble.take().is_some() {
                    tracing::info!("what was in the way is gone");
                }
                if steps > 0 {
                    let took_ms = begun.elapsed().as_millis() as u64;
                    tracing::info!(steps, took_ms, "the node is what its objects say");
                }
            }
            Err(error) => {
                self.failures += 1;
                rest = rest.max(jittered(pause(self.failures)));
                let text = chain(&error);
                let again_in_seconds = rest.as_secs();
                let is_new = self.trouble.as_ref() != Some(&text);
                // What the kernel is still taking away is no error yet: the ports of a namespace that
                // was deleted are in use for a while.
                if is_lasting(self.failures, is_new) {
                    tracing::error!(
                        error = text,
                        steps,
                        again_in_seconds,
                        "the node is not what its objects say"
                    );
                } else if is_new {
                    tracing::warn!(
                        error = text,
                        steps,
                        again_in_seconds,
                        "the node is not yet what its objects say"
                    );
                } else {
                    tracing::debug!(error = text, "still");
                }
                self.trouble = Some(text);
            }
        }
        let took_ms = begun.elapsed().as_millis() as u64;
        tracing::debug!(reasons, steps, took_ms, "pass");
        self.report(begun.elapsed(), steps as u64);
        Outcome {
            pause: rest,
            again: self.trouble.is_some(),
            changed: steps > 0,
            status: self.status(),
        }
    }

    /// A change is there whose time to be confirmed is over.
    pub(super) fn is_overdue(&self) -> bool {
        let overdue = Record::open().and_then(|record| record.overdue());
        matches!(overdue, Ok(Some(_)))
    }

    /// Undoes a change that was not confirmed in time; tells whether the objects that were read
    /// last are undone, by whomever.
    async fn undo_unconfirmed(&mut self) -> bool {
        let undone = async {
            let record = Record::open()?;
            if record.overdue()?.is_some() {
                let _lock = lock().await?;
                // Somebody else may have been first.
                if let Some(pending) = record.overdue()? {
                    match self.objects.undo(&record, &pending).await {
                        Ok(what) => tracing::warn!(what, "a change was not confirmed in time"),
                        Err(Rejected(faults)) => {
                            for fault in faults.lines() {
                                tracing::error!(fault, "a change that was not confirmed");
                            }
                        }
                    }
                    return Ok(true);
                }
            }
            let loaded = self.loaded.as_ref();
            loaded.map_or(Ok(false), |loaded| record.refuses(&loaded.snapshot))
        };
        let undone: Result<bool, Error> = undone.await;
        undone.unwrap_or_else(|error| {
            tracing::error!(
                error = chain(&error),
                "whether a change was undone is unknown"
            );
            false
        })
    }

    /// Removes everything of ours from the node.
    pub(super) async fn flush(&mut self) {
        let Some(loaded) = &mut self.loaded else {
            tracing::warn!("no objects were ever read: nothing is removed");
            return;
        };
        let removed = async {
            let _lock = lock().await?;
            let keep = State::default();
            let reconciler = &mut loaded.reconciler;
            let steps = reconciler.plan_removal(&loaded.desired, &keep).await?;
            let total = steps.len();
            let told = |number: usize, step: &_| tell(number, total, step);
            reconciler.execute(&steps, told).await?;
            reconciler.refresh(&keep).await?;
            Record::open()?.forget()?;
            Ok::<_, Error>(total)
        };
        match removed.await {
            Ok(steps) => tracing::info!(steps, "what netmesh made on this node is removed"),
            Err(error) => tracing::error!(
                error = chain(&error),
                "not everything is removed; `netmesh destroy` goes on from here"
            ),
        }
    }

    /// Tells the metrics how it went.
    fn report(&self, took: Duration, steps: u64) {
        let failed = self.trouble.is_some();
        self.told.update(|report| {
            report.ready = !failed && self.rejected.is_none();
            report.took = took;
            report.steps += steps;
            report.failed += u64::from(failed);
            report.changed += u64::from(!failed && steps > 0);
            report.unchanged += u64::from(!failed && steps == 0);
        });
    }

    /// Takes the routes of the kernel out of the data plane: nobody would tell it any more when
    /// one goes. The kernel has them all, and forwards by them.
    pub(super) async fn stop_mirroring(&mut self) {
        let Some(loaded) = self.loaded.as_mut().filter(|_| !self.mirror.is_empty()) else {
            return;
        };
        let none = BTreeSet::new();
        if let Err(error) = mirror_routes(loaded.reconciler.kernel(), &none).await {
            tracing::error!(error = chain(&error), "routes of the kernel stay mirrored");
        }
    }

    async fn load(&mut self) {
        match self.objects.load().await {
            Ok(loaded) => {
                if self.rejected.take().is_some() {
                    tracing::info!("the objects are right again");
                }
                let digest = digest(&loaded.desired).ok();
                if digest != self.digest {
                    let digest = digest.as_deref().unwrap_or_default();
                    tracing::info!(node = loaded.node, digest, "objects read");
                }
                self.digest = digest;
                if self.warnings != loaded.warnings {
                    for warning in loaded.warnings.lines() {
                        tracing::warn!(warning, "objects taken");
                    }
                    self.warnings = loaded.warnings.clone();
                }
                self.told.update(|report| {
                    report.node.clone_from(&loaded.node);
                    report.objects_good = true;
                    report.objects_read = Some(SystemTime::now());
                    report.names = Arc::new(loaded.names.clone());
                    let wanted = &loaded.desired.namespaces;
                    // A data plane made by hand may be there.
                    report.namespaces = vec![Namespace::Node];
                    let others = wanted.keys().filter(|found| **found != Namespace::Node);
                    report.namespaces.extend(others.cloned());
                    report.tunnels = wanted
                        .iter()
                        .flat_map(|(namespace, wanted)| {
                            let names = wanted.wireguard.keys();
                            names.map(move |name| (namespace.clone(), name.clone()))
                        })
                        .collect();
                });
                self.loaded = Some(loaded);
            }
            Err(rejected) => {
                if self.rejected.as_ref() != Some(&rejected) {
                    for fault in rejected.0.lines() {
                        tracing::error!(fault, "objects rejected");
                    }
                    if self.loaded.is_some() {
                        tracing::warn!("the node is kept what the last good objects said");
                    } else {
                        tracing::warn!("nothing is changed until the objects are mended");
                    }
                }
                let never = self.loaded.is_none();
                self.told.update(|report| {
                    report.ready = false;
                    report.objects_good = false;
                    if never {
                        // A data plane that works is to be seen, whatever the objects.
                        report.namespaces = vec![Namespace::Node];
                    }
                });
                self.rejected = Some(rejected);
            }
        }
    }

    fn status(&self) -> String {
        let first = |rejected: &Rejected| rejected.0.lines().first().cloned().unwrap_or_default();
        match (&self.rejected, &self.trouble) {
            (Some(rejected), _) => format!("objects rejected: {}", first(rejected)),
            (None, Some(trouble)) => format!("trouble: {trouble}"),
            (None, None) => "the node is what its objects say".to_owned(),
        }
    }
}

async fn reconcile(
    loaded: &mut Loaded,
    followers: &mut Followers,
    reasons: Reasons,
    taken: &mut Vec<String>,
) -> Result<(), Error> {
    let Loaded {
        desired,
        reconciler,
        snapshot,
        ..
    } = loaded;
    let mut wanted: BTreeSet<Namespace> = desired.namespaces.keys().cloned().collect();
    wanted.insert(Namespace::Node);
    // Listen first, look then: what changes in between is heard.
    reconciler.kernel().forget_gone();
    followers.follow(&wanted);
    let _lock = lock().await?;
    if reasons == ROUTES {
        return Ok(());
    }
    let record = Record::open()?;
    if record.refuses(snapshot)? {
        // While we waited for the lock. The next pass reads anew.
        return Err(Error::Unconfirmed);
    }
    if reasons & !SMALL != 0 {
        let steps = reconciler.plan(desired).await?;
        let total = steps.len();
        let told = |number: usize, step: &_| {
            tell(number, total, step);
            taken.push(step.to_string());
        };
        reconciler.execute(&steps, told).await?;
        followers.follow(&wanted);
    }
    reconciler.refresh(desired).await?;
    let applied = record.applied()?;
    if applied.objects.as_ref() != Some(snapshot) {
        record.set_applied(&Applied {
            objects: Some(snapshot.clone()),
            ..applied
        })?;
    }
    Ok(())
}

/// Mirrors the kernel's routes into the node's own data plane.
async fn mirror_routes(kernel: &mut Kernel, protocols: &BTreeSet<u8>) -> Result<(), Error> {
    let _lock = lock().await?;
    let mirrored = mirror(kernel, &Namespace::Node, protocols).await?;
    if mirrored != Mirrored::default() {
        let Mirrored { put, removed } = mirrored;
        tracing::info!(put, removed, "routes of the kernel mirrored");
    }
    Ok(())
}

fn tell(number: usize, total: usize, step: &crate::plan::step::Step) {
    tracing::info!(number = number + 1, total, step = %step, "step");
}

/// Waits on a thread of its own: another writer may take its time, and signals come meanwhile. The
/// thread is nobody's: a process that ends does not wait for it.
async fn lock() -> Result<Lock, Error> {
    let failed = |source| Error::Lock {
        path: "/run/netmesh".into(),
        source,
    };
    let (sender, receiver) = oneshot::channel();
    let waiting = thread::Builder::new().name("lock".into());
    waiting
        .spawn(move || sender.send(Lock::take()))
        .map_err(failed)?;
    match receiver.await {
        Ok(lock) => lock,
        Err(error) => Err(failed(io::Error::other(error))),
    }
}

/// An error with its causes, on one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_no_error_and_what_lasts_is_one_once() {
        let told: Vec<u32> = (1..10).filter(|n| is_lasting(*n, *n == 1)).collect();
        assert_eq!(told, [LASTING]);
        assert!(!is_lasting(1, true) && is_lasting(LASTING + 3, true));
    }
}
