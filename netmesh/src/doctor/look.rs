//! Looking: one kind of facts a file. What cannot be looked at is a finding too, never an error.

mod files;
mod plane;
mod tunnels;

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit};

use super::Node;
use super::judge::{
    Bpffs, Clock, Jit, Kernel as KernelFacts, Leftover, Limits, Machine, Seen, Serves,
};
use crate::dataplane::pin::Folder;
use crate::dataplane::probe;
use crate::kernel::{Kernel, clock, netfilter, netns, probe as links};
use crate::plan::state::Namespace;
use crate::reconcile::identity;

/// Looks at the machine, at the files of this node and at the data plane of its namespace.
pub async fn examine(node: &Node<'_>) -> Machine {
    let mut kernel = Kernel::default();
    let objects = node.objects.as_ref().and_then(|found| found.as_ref().ok());
    let plane = plane::look(&mut kernel, objects).await;
    Machine {
        kernel: offered(),
        root: nix::unistd::geteuid().is_root(),
        limits: limits(),
        kinds: links::link_kinds().map_err(|error| probe::words(&error)),
        clock: time(),
        objects: node
            .objects
            .as_ref()
            .map(|found| found.as_ref().map(drop).map_err(Clone::clone)),
        files: files::look(node.folder),
        listeners: objects.map(tunnels::listeners).unwrap_or_default(),
        tunnels: match objects {
            Some(objects) => tunnels::look(&mut kernel, objects).await,
            None => Vec::new(),
        },
        leftovers: leftovers(),
        forwarding: forwarding(),
        firewall: netfilter::chains().map_err(|error| probe::words(&error)),
        ports: plane.ports,
        occupied: plane.occupied,
        way_out: plane::way_out(&mut kernel).await,
        tables: plane.tables,
    }
}

fn offered() -> KernelFacts {
    let offer = probe::offer();
    let clsact = match links::apart(probe::clsact) {
        Ok(Ok(())) => Seen::Yes,
        Ok(Err(why)) => Seen::No(why),
        Err(error) => Seen::Unknown(probe::words(&error)),
    };
    KernelFacts {
        release: line("/proc/sys/kernel/osrelease").unwrap_or_default(),
        bpffs: match (offer.bpffs, offer.hidden) {
            (true, _) => Bpffs::Mounted,
            (false, true) => Bpffs::Hidden,
            (false, false) => Bpffs::Missing,
        },
        tcx: match offer.tcx {
            Ok(true) => Seen::Yes,
            Ok(false) => Seen::No("it came with Linux 6.6".into()),
            Err(why) => Seen::Unknown(why),
        },
        clsact,
        follower: match offer.follower {
            Ok(()) => Seen::Yes,
            Err(why) => Seen::No(why),
        },
        jit: jit(),
        unprivileged: line("/proc/sys/kernel/unprivileged_bpf_disabled"),
        lockdown: line("/sys/kernel/security/lockdown"),
    }
}

/// Forwarding of IPv6 and IPv4.
pub(super) fn forwarding() -> [Option<String>; 2] {
    ["ipv6/conf/all/forwarding", "ipv4/ip_forward"]
        .map(|name| line(&format!("/proc/sys/net/{name}")))
}

fn limits() -> Limits {
    let soft = |resource| {
        let limit = getrlimit(resource).map_or(libc::RLIM_INFINITY, |(soft, _)| soft);
        (limit != libc::RLIM_INFINITY).then_some(limit)
    };
    Limits {
        files: soft(Resource::RLIMIT_NOFILE),
        locked: soft(Resource::RLIMIT_MEMLOCK),
    }
}

fn time() -> Clock {
    let seconds = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH)
            .map_or(0, |age| age.as_secs())
    };
    let written = fs::metadata("/proc/self/exe").and_then(|file| file.modified());
    Clock {
        synchronised: clock::is_synchronised().ok(),
        now: seconds(SystemTime::now()),
        written: written.ok().map(seconds),
    }
}

/// Data planes of namespaces that are gone, and those of other layouts.
fn leftovers() -> Result<Vec<Leftover>, String> {
    let look = || -> anyhow::Result<Vec<Leftover>> {
        let own = identity(&Namespace::Node)?.cookie;
        // Before the namespaces: one that is made in between has no data plane among these.
        let ours = Folder::list()?.into_iter().map(|folder| (None, folder));
        let others = Folder::list_others()?.into_iter();
        let others = others.map(|(layout, folder)| (Some(layout), folder));
        let folders: Vec<_> = ours.chain(others).collect();
        let elsewhere = folders.iter().any(|(_, folder)| folder.cookie != own);
        let alive = if elsewhere { netns::alive()? } else { None };
        let leftovers = folders.into_iter().filter_map(|(layout, folder)| {
            let serves = if folder.cookie == own {
                Some(Serves::Here)
            } else {
                let name = alive.as_ref()?.get(&folder.cookie);
                name.map(|name| Serves::There(name.clone()))
            };
            let left = serves.is_none() || layout.is_some();
            left.then(|| Leftover {
                path: folder.path.display().to_string(),
                serves,
                layout,
            })
        });
        Ok(leftovers.collect())
    };
    look().map_err(|error| format!("{error:#}"))
}

/// Only the initial namespace has the setting. It is looked for there, too: process 1 lives in it
/// unless this is a container, and so does whoever started `netmesh -n NAME`, most often.
fn jit() -> Jit {
    // This one is as initial, and in every kernel.
    const INITIAL: &str = "/proc/sys/net/core/netdev_max_backlog";
    let look = || match line("/proc/sys/net/core/bpf_jit_enable") {
        Some(value) => Some(Jit::Is(value)),
        None if fs::exists(INITIAL).unwrap_or(false) => Some(Jit::Missing),
        None => None,
    };
    in_initial(look).unwrap_or(Jit::Unseen)
}

/// What is seen in the first of these namespaces that shows it: this one, that of process 1, that
/// of whoever started us.
fn in_initial<T: Send>(look: impl Fn() -> Option<T> + Sync) -> Option<T> {
    look().or_else(|| {
        let others = [1, nix::unistd::getppid().as_raw()];
        others.into_iter().find_map(|process| {
            let namespace = Namespace::Named(format!("/proc/{process}/ns/net"));
            netns::run_in(&namespace, &look).ok().flatten()
        })
    })
}

fn line(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// A setting of the network, of this namespace.
fn setting(path: &str) -> Option<String> {
    line(&format!("/proc/sys/net/{path}"))
}
