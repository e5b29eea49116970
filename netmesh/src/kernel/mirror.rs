//! The kernel's main table as a forwarder sees it: one route a prefix, the one it follows.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netmesh_common::group::MAX_MEMBERS;

use super::observe::ip;
use super::{Error, Kernel};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::{FibRoute, Namespace, Path, ROUTE_PROTOCOL};

/// Protocol of the routes the kernel makes of its own addresses (`RTPROT_KERNEL`).
const OWN: u8 = 2;

/// A route and what decides between it and another of the same prefix.
struct Candidate {
    metric: u32,
    protocol: u8,
    route: FibRoute,
}

impl Kernel {
    /// The routes of these protocols in the main table, as far as the kernel would follow them. A
    /// route that cannot be told in full, and one of another protocol that a selected one would
    /// hide, is there too, to be left to the kernel: the longest match must stay the kernel's.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub async fn mirror(
        &mut self,
        namespace: &Namespace,
        protocols: &BTreeSet<u8>,
        facts: &NamespaceFacts,
    ) -> Result<BTreeMap<IpNet, FibRoute>, Error> {
        let mut best: BTreeMap<IpNet, Candidate> = BTreeMap::new();
        for family in [AddressFamily::Inet6, AddressFamily::Inet] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(request);
            for answer in self.dump(namespace, "routes", request).await? {
                let RouteNetlinkMessage::NewRoute(message) = answer else {
                    continue;
                };
                let Some((prefix, found)) = candidate(&message, facts) else {
                    continue;
                };
                match best.entry(prefix) {
                    Entry::Vacant(entry) => {
                        entry.insert(found);
                    }
                    Entry::Occupied(mut entry) if found.metric < entry.get().metric => {
                        entry.insert(found);
                    }
                    Entry::Occupied(_) => {}
                }
            }
        }
        Ok(select(best, protocols))
    }
}

/// Leaves what is selected, and what that would hide.
fn select(best: BTreeMap<IpNet, Candidate>, protocols: &BTreeSet<u8>) -> BTreeMap<IpNet, FibRoute> {
    let mut routes = BTreeMap::new();
    // Prefixes come with those they hold behind them: what is open are the selected ones around.
    let mut open: Vec<IpNet> = Vec::new();
    let mut ordered: Vec<_> = best.into_iter().collect();
    ordered.sort_by_key(|(prefix, _)| (prefix.network(), prefix.prefix_len()));
    for (prefix, found) in ordered {
        while open.last().is_some_and(|outer| !outer.contains(&prefix)) {
            open.pop();
        }
        if protocols.contains(&found.protocol) {
            routes.insert(prefix, found.route);
            open.push(prefix);
        } else if !open.is_empty() && found.protocol != ROUTE_PROTOCOL && found.protocol != OWN {
            // Ours and the connected ones are in the table by origins that go before this one.
            routes.insert(prefix, FibRoute::Punt);
        }
    }
    routes
}

/// A route of the main table that packets may follow.
fn candidate(message: &RouteMessage, facts: &NamespaceFacts) -> Option<(IpNet, Candidate)> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut destination = None;
    let mut metric = 0;
    let mut gateway = None;
    let mut link = None;
    let mut several = None;
    // For packets of some sources, kinds or destinations only, or with something put around them.
    let mut special = header.source_prefix_length != 0 || header.tos != 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(via) => gateway = via_ip(via),
            RouteAttribute::Oif(index) => link = facts.name_of(*index).cloned(),
            RouteAttribute::MultiPath(hops) => several = Some(hops),
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => special = true,
            _ => {}
        }
    }
    let unspecified = match header.address_family {
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => IpAddr::from([0; 4]),
    };
    let address = destination.unwrap_or(unspecified);
    let prefix = IpNet::new(address, header.destination_prefix_length).ok()?;
    let dead = RouteFlags::Dead | RouteFlags::Linkdown;
    let route = match (header.kind, several) {
        (RouteType::Unicast, _) if special => FibRoute::Punt,
        (RouteType::Unicast, Some(hops)) => {
            let mut paths = Vec::new();
            for hop in hops {
                let gone = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
                if hop.flags.intersects(gone) {
                    continue;
                }
                match path(hop, facts) {
                    Some(path) => paths.push(path),
                    None => return Some(found(prefix, metric, header, FibRoute::Punt)),
                }
            }
            if paths.is_empty() {
                return None;
            }
            if paths.len() > MAX_MEMBERS {
                FibRoute::Punt
            } else {
                FibRoute::through(paths)
            }
        }
        (RouteType::Unicast, None) if header.flags.intersects(dead) => return None,
        (RouteType::Unicast, None) => {
            link.map_or(FibRoute::Punt, |link| FibRoute::Via { gateway, link })
        }
        (RouteType::Unreachable, _) => FibRoute::Unreachable,
        (RouteType::Prohibit, _) => FibRoute::Prohibit,
        (RouteType::BlackHole, _) => FibRoute::Blackhole,
        _ => FibRoute::Punt,
    };
    Some(found(prefix, metric, header, route))
}

fn found(prefix: IpNet, metric: u32, header: &RouteHeader, route: FibRoute) -> (IpNet, Candidate) {
    let candidate = Candidate {
        metric,
        protocol: header.protocol.into(),
        route,
    };
    (prefix, candidate)
}

/// One of several next hops; `None` for one that packets cannot simply be sent to.
fn path(hop: &netlink_packet_route::route::RouteNextHop, facts: &NamespaceFacts) -> Option<Path> {
    let mut gateway = None;
    for attribute in &hop.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(via) => gateway = via_ip(via),
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => return None,
            _ => {}
        }
    }
    Some(Path {
        gateway,
        link: facts.name_of(hop.interface_index)?.clone(),
        weight: u16::from(hop.hops) + 1,
    })
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet6(a) => Some(IpAddr::V6(*a)),
        RouteVia::Inet(a) => Some(IpAddr::V4(*a)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIRD: u8 = 12;

    fn table(routes: &[(&str, u8)]) -> BTreeMap<IpNet, Candidate> {
        let one = |(prefix, protocol): &(&str, u8)| {
            let candidate = Candidate {
                metric: 0,
                protocol: *protocol,
                route: FibRoute::Blackhole,
            };
            (prefix.parse().unwrap(), candidate)
        };
        routes.iter().map(one).collect()
    }

    #[test]
    fn what_a_selected_route_would_hide_is_left_to_the_kernel() {
        let best = table(&[
            ("2001:db8::/32", BIRD),
            ("2001:db8:1::/48", 3),
            ("2001:db8:1:2::/64", BIRD),
            ("2001:db8:2::/48", OWN),
            ("2001:db8:3::/48", ROUTE_PROTOCOL),
            ("2001:db9::/32", 3),
            ("10.0.0.0/8", 3),
            ("10.1.0.0/16", BIRD),
            ("10.1.2.0/24", 3),
            ("10.2.0.0/16", 3),
        ]);
        let found = select(best, &BTreeSet::from([BIRD]));
        let found: Vec<String> = found
            .iter()
            .map(|(prefix, route)| format!("{prefix} {route}"))
            .collect();
        assert_eq!(
            found,
            [
                "10.1.0.0/16 blackhole",
                "10.1.2.0/24 punt",
                "2001:db8::/32 blackhole",
                "2001:db8:1::/48 punt",
                "2001:db8:1:2::/64 blackhole",
            ]
        );
    }
}
