//! Neighbours of routes that are set by hand: kept resolved while a route leads to them, and let go
//! after the last one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netmesh_common::table::Origin;

use super::exit::Failure;
use crate::dataplane::View;
use crate::kernel::Kernel;
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::{FibRoute, Namespace, Neighbour};
use crate::plan::step::Step;

/// Every neighbour that a route set by hand names, and no other route does.
pub(super) fn by_hand(view: &View, facts: &NamespaceFacts) -> Result<BTreeSet<Neighbour>, Failure> {
    let (mut ours, mut others) = (BTreeSet::new(), BTreeSet::new());
    for row in view.routes(facts)? {
        let set = if row.origin == Origin::Static {
            &mut ours
        } else {
            &mut others
        };
        set.extend(row.route.neighbours());
    }
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
    let mut unused = neighbours;
    for row in view.routes(facts)? {
        for neighbour in row.route.neighbours() {
            unused.remove(&neighbour);
        }
    }
    let_go(&unused).await
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
