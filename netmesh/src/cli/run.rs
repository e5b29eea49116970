//! `netmesh run`.

use std::path::Path;
use std::time::Duration;

use super::apply;
use super::arguments::{Global, Run};
use super::exit::{Exit, Failure};
use crate::daemon::{self, Loaded, Objects, Options, Rejected};
use crate::model::Faults;
use crate::reconcile;

/// The objects of the configuration folder.
struct Folder<'a> {
    global: &'a Global,
}

impl Objects for Folder<'_> {
    fn folder(&self) -> &Path {
        &self.global.config
    }

    async fn load(&mut self) -> Result<Loaded, Rejected> {
        let node = apply::load(self.global, &[]).await.map_err(rejected)?;
        Ok(Loaded {
            node: node.config.node.to_string(),
            desired: node.desired,
            reconciler: node.reconciler,
        })
    }
}

/// The faults without the lines they are in.
fn rejected(failure: Failure) -> Rejected {
    let lines = match failure.error.downcast_ref::<Faults>() {
        Some(faults) => faults.sorted().iter().map(ToString::to_string).collect(),
        None => vec![format!("{:#}", failure.error)],
    };
    Rejected { lines }
}

/// Runs the command.
pub(super) async fn run(global: &Global, run: &Run) -> Result<Exit, Failure> {
    let options = Options {
        period: Duration::from_secs(run.resync),
        flush_on_exit: run.flush_on_exit,
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
