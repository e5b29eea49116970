//! What on this machine is wrong or slow for us, each with its remedy.
//!
//! [`examine`] looks and changes nothing but a network namespace of its own; [`judge::judge`]
//! says what it means.

pub mod judge;

use std::fs;

use crate::dataplane::{View, probe};
use crate::kernel::{Kernel, netfilter, netns, probe as links};
use crate::plan::state::Namespace;
use crate::reconcile::identity;
use judge::{Bpffs, Jit, Machine, Port, Seen};

/// Looks at the machine and at the data plane of the node's namespace. What cannot be looked at
/// is a finding too, never an error.
pub async fn examine() -> Machine {
    let offer = probe::offer();
    let clsact = match links::apart(probe::clsact) {
        Ok(Ok(())) => Seen::Yes,
        Ok(Err(why)) => Seen::No(why),
        Err(error) => Seen::Unknown(probe::words(&error)),
    };
    Machine {
        release: line("/proc/sys/kernel/osrelease").unwrap_or_default(),
        root: nix::unistd::geteuid().is_root(),
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
        kinds: links::link_kinds().map_err(|error| probe::words(&error)),
        forwarding: sysctls(),
        firewall: netfilter::chains().map_err(|error| probe::words(&error)),
        ports: ports().await,
    }
}

/// Whether the kernel of this process' namespace forwards what is left to it, for both families.
#[must_use]
pub fn forwarding() -> Vec<judge::Finding> {
    judge::forwarding(&sysctls())
}

fn sysctls() -> [Option<String>; 2] {
    ["ipv6/conf/all/forwarding", "ipv4/ip_forward"]
        .map(|name| line(&format!("/proc/sys/net/{name}")))
}

/// Ports of the data plane that serves this namespace; none when there is none.
async fn ports() -> Result<Vec<Port>, String> {
    let look = async || -> anyhow::Result<Vec<Port>> {
        let Some(view) = View::open(identity(&Namespace::Node)?)? else {
            return Ok(Vec::new());
        };
        let facts = Kernel::default().facts(&Namespace::Node).await?;
        let rows = view.ports(&facts)?;
        Ok(rows
            .into_iter()
            .map(|row| Port {
                name: row.name,
                ifindex: row.ifindex,
                link: row.link,
                warning: row.warning,
            })
            .collect())
    };
    look().await.map_err(|error| format!("{error:#}"))
}

/// Only the initial namespace has the setting. It is looked for there, too: process 1 lives in it
/// unless this is a container, and so does whoever started `netmesh -n NAME`, most often.
fn jit() -> Jit {
    // This one is as initial, and in every kernel.
    const INITIAL: &str = "/proc/sys/net/core/netdev_max_backlog";
    let look = || match line("/proc/sys/net/core/bpf_jit_enable") {
        Some(value) => Jit::Is(value),
        None if fs::exists(INITIAL).unwrap_or(false) => Jit::Missing,
        None => Jit::Unseen,
    };
    let here = look();
    let others = [1, nix::unistd::getppid().as_raw()].into_iter();
    let others = others.map(|process| {
        let namespace = Namespace::Named(format!("/proc/{process}/ns/net"));
        netns::run_in(&namespace, look).unwrap_or(Jit::Unseen)
    });
    let mut all = std::iter::once(here).chain(others);
    all.find(|seen| *seen != Jit::Unseen).unwrap_or(Jit::Unseen)
}

fn line(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}
