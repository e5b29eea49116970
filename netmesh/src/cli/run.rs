//! `netmesh run`.

use std::path::Path;
use std::time::Duration;

use super::apply;
use super::arguments::{Global, Run};
use super::config::{self, Need};
use super::confirm;
use super::exit::{Exit, Failure};
use crate::daemon::{self, Loaded, Objects, Options, Rejected, Remarks};
use crate::kernel;
use crate::metrics::Names;
use crate::model::{Faults, Network};
use crate::reconcile::{self, Pending, Record};

/// The objects of the configuration folder.
struct Folder<'a> {
    global: &'a Global,
}

impl Objects for Folder<'_> {
    fn folder(&self) -> &Path {
        &self.global.config
    }

    async fn load(&mut self) -> Result<Loaded, Rejected> {
        let (mut objects, warnings) =
            config::load_quietly(&self.global.config, &[], Need::Node).map_err(rejected)?;
        let mut warnings: Vec<String> = warnings.sorted().iter().map(ToString::to_string).collect();
        let record = Record::open().map_err(unreadable)?;
        let applied = record.applied().map_err(unreadable)?;
        if applied.refused.contains(&objects.snapshot.digest()) {
            let Some(former) = applied.objects else {
                return Err(Rejected(Remarks::new([UNDONE])));
            };
            warnings = vec![format!("{UNDONE}; the node is kept what it was before")];
            objects = config::of_snapshot(&self.global.config, &former).map_err(rejected)?;
        }
        let node = apply::node(self.global, objects).await.map_err(rejected)?;
        Ok(Loaded {
            node: node.config.node.to_string(),
            desired: node.desired,
            reconciler: node.reconciler,
            names: names(&node.networks),
            warnings: Remarks::new(warnings),
            snapshot: node.snapshot,
        })
    }

    async fn undo(&mut self, record: &Record, pending: &Pending) -> Result<String, Rejected> {
        let undone = confirm::undo(self.global, record, pending).await;
        undone.map(|undone| undone.told()).map_err(rejected)
    }
}

/// Why files are left alone that hold objects which were undone.
const UNDONE: &str = "these objects were not confirmed and are undone; netmesh apply takes them all \
                      the same";

fn unreadable(error: reconcile::Error) -> Rejected {
    rejected(error.into())
}

/// Names for what tables and tunnels hold numbers of.
pub(super) fn names(networks: &[Network]) -> Names {
    let mut names = Names::default();
    for network in networks {
        for resource in &network.resources {
            let derived = network.derive(resource);
            for prefix in [derived.prefix_v6.into(), derived.prefix_v4.into()] {
                names.networks.insert(prefix, network.name.to_string());
            }
            let name = format!("{}/{}", network.name, resource.name);
            names.peers.insert(resource.public_key.clone(), name);
        }
    }
    names
}

/// The faults without the lines they are in.
fn rejected(failure: Failure) -> Rejected {
    Rejected(match failure.error.downcast_ref::<Faults>() {
        Some(faults) => Remarks::new(faults.sorted()),
        None => Remarks::new([format!("{:#}", failure.error)]),
    })
}

/// Runs the command.
pub(super) async fn run(global: &Global, run: &Run) -> Result<Exit, Failure> {
    if let Some(socket) = &run.names {
        kernel::names::ask_at(socket);
    }
    let options = Options {
        period: Duration::from_secs(run.resync),
        flush_on_exit: run.flush_on_exit,
        metrics: run.metrics.map(|listen| listen.0),
        mirror: run.mirror.iter().map(|protocol| protocol.0).collect(),
        selection: run.metrics_prefixes,
    };
    match daemon::run(Folder { global }, options).await {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            let denied = matches!(error, daemon::Error::Reconcile(reconcile::Error::NotRoot));
            let mut failure = Failure::failed(error, "nothing was changed");
            if denied {
                failure.exit = Exit::NotPermitted;
            }
            Err(failure)
        }
    }
}
