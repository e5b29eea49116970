//! One listener to the kernel's changes in each of the node's namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::wake::{NEIGHBOURS, NETWORK, ROUTES, Reasons, Wake};
use crate::kernel::follow::Follower;
use crate::kernel::netns;
use crate::plan::state::Namespace;

/// The listeners.
pub(super) struct Followers {
    wake: Arc<Wake>,
    /// The routes of others in the node's own namespace are of interest.
    mirrors: bool,
    tasks: BTreeMap<Namespace, (u64, JoinHandle<()>)>,
}

impl Followers {
    /// None yet.
    pub(super) const fn new(wake: Arc<Wake>, mirrors: bool) -> Self {
        Self {
            wake,
            mirrors,
            tasks: BTreeMap::new(),
        }
    }

    /// Listens in these namespaces, as far as they are there, and nowhere else. A listener keeps
    /// its namespace alive: where the name is gone or another's now, it ends.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<Namespace>) {
        self.tasks.retain(|namespace, (inode, task)| {
            let stays = wanted.contains(namespace)
                && !task.is_finished()
                && netns::inode(namespace).is_ok_and(|n| n == *inode);
            if !stays {
                task.abort();
            }
            stays
        });
        for namespace in wanted {
            if self.tasks.contains_key(namespace) || netns::inode(namespace).is_err() {
                continue;
            }
            match Follower::open(namespace) {
                Ok(follower) => {
                    let inode = follower.inode();
                    let mirrored = self.mirrors && *namespace == Namespace::Node;
                    let task = tokio::spawn(listen(follower, Arc::clone(&self.wake), mirrored));
                    self.tasks.insert(namespace.clone(), (inode, task));
                    // What happened before we listened is seen only now.
                    self.wake.raise(NETWORK);
                }
                Err(error) => tracing::warn!("{error}; it is looked at from time to time"),
            }
        }
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        for (_, task) in self.tasks.values() {
            task.abort();
        }
    }
}

async fn listen(mut follower: Follower, wake: Arc<Wake>, mirrored: bool) {
    loop {
        match follower.next().await {
            Ok(changes) => {
                let mut reasons: Reasons = 0;
                if changes.lost {
                    tracing::debug!("the kernel had more to tell than it could keep");
                    reasons |= NETWORK | NEIGHBOURS | ROUTES;
                }
                if changes.network {
                    reasons |= NETWORK;
                }
                if changes.neighbours {
                    reasons |= NEIGHBOURS;
                }
                if changes.routes && mirrored {
                    reasons |= ROUTES;
                }
                wake.raise(reasons);
            }
            Err(error) => {
                tracing::warn!("{error}; listening anew");
                // The next pass opens it again.
                wake.raise(NETWORK);
                return;
            }
        }
    }
}
