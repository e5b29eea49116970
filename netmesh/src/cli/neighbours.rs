//! Neighbours of routes that are set by hand: kept resolved while a route leads to them, and let go
//! after the last one.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netmesh_common::table::Origin;

use super::exit::Failure;
use crate::dataplane::View;
use crate::kernel::Kernel;
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::{FibRoute, Namespace, Neighbour};
use crate::plan::step::Step;

/// How long routes that are there stand in for those whose next hops do not answer yet.
const PATIENCE: Duration = Duration::from_millis(500);

/// Has neighbours resolved, and waits a moment until they are; one that does not answer is not
/// waited for any longer. The facts that are current then.
pub(super) async fn resolved(
    neighbours: &BTreeSet<Neighbour>,
    facts: NamespaceFacts,
) -> Result<NamespaceFacts, Failure> {
    let is_missing = |facts: &NamespaceFacts| {
        neighbours.iter().any(|neighbour| {
            facts.devices.get(&neighbour.link).is_some_and(|device| {
                let key = (device.ifindex, neighbour.address);
                device.mac.is_some() && !facts.neighbours.contains_key(&key)
            })
        })
    };
    if !is_missing(&facts) {
        return Ok(facts);
    }
    keep_resolved(neighbours).await?;
    let mut kernel = Kernel::default();
    let begun = Instant::now();
    loop {
        let facts = kernel.facts(&Namespace::Node).await?;
        if !is_missing(&facts) || begun.elapsed() > PATIENCE {
            return Ok(facts);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks the kernel to resolve neighbours and to keep them so.
pub(super) async fn keep_resolved(neighbours: &BTreeSet<Neighbour>) -> Result<(), Failure> {
    if neighbours.is_empty() {
        return Ok(());
    }
    let mut kernel = Kernel::default();
    let facts = kernel.facts(&Namespace::Node).await?;
    for neighbour in neighbours {
        // A device without link-layer addresses has none to resolve, and one that somebody entered
        // for good is his.
        let asks = facts.devices.get(&neighbour.link).is_some_and(|device| {
            let key = (device.ifindex, neighbour.address);
            device.mac.is_some() && !facts.permanent.contains(&key)
        });
        if !asks {
            continue;
        }
        let step = Step::AddNeighbour {
            namespace: Namespace::Node,
            neighbour: neighbour.clone(),
        };
        kernel.execute(&step, "").await?;
    }
    Ok(())
}

/// Every neighbour that a route set by hand names, and no other route does.
pub(super) fn by_hand(view: &View, facts: &NamespaceFacts) -> Result<BTreeSet<Neighbour>, Failure> {
    let ours = view.neighbours(|origin| origin == Origin::Static, facts)?;
    let others = view.neighbours(|origin| origin != Origin::Static, facts)?;
    Ok(ours.difference(&others).cloned().collect())
}

/// Lets go of those of the neighbours that no route leads to any more.
pub(super) async fn let_go_unused(
    neighbours: BTreeSet<Neighbour>,
    view: &View,
    facts: &NamespaceFacts,
) -> Result<(), Failure> {
    if neighbours.is_empty() {
        return Ok(());
    }
    let used = view.neighbours(|_| true, facts)?;
    let_go(&neighbours.difference(&used).cloned().collect()).await
}

/// The kernel need not keep these resolved any longer. One that is not ours is left alone.
pub(super) async fn let_go(neighbours: &BTreeSet<Neighbour>) -> Result<(), Failure> {
    if neighbours.is_empty() {
        return Ok(());
    }
    let mut kernel = Kernel::default();
    let ours = kernel.own_neighbours(&Namespace::Node).await?;
    for neighbour in neighbours.intersection(&ours) {
        let step = Step::DeleteNeighbour {
            namespace: Namespace::Node,
            neighbour: neighbour.clone(),
        };
        kernel.execute(&step, "").await?;
    }
    Ok(())
}

/// Says which next hops are on no subnet of their device: the kernel would refuse them
/// ("Nexthop has invalid gateway"), and nobody may answer there.
pub(super) fn warn_off_link(route: &FibRoute, facts: &NamespaceFacts) {
    for Neighbour { link, address } in route.neighbours() {
        let Some(device) = facts
            .devices
            .get(&link)
            .filter(|device| device.mac.is_some())
        else {
            continue;
        };
        let local = match address {
            IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
            IpAddr::V4(_) => false,
        };
        let on =
            |(ifindex, net): &(u32, IpNet)| *ifindex == device.ifindex && net.contains(&address);
        if !local && !facts.addresses.iter().any(on) {
            tracing::warn!(
                "{address} is on no subnet of {link}: the kernel refuses such a gateway, and packets \
                 go nowhere unless somebody answers for it there"
            );
        }
    }
}
