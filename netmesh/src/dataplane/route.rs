//! Routes as people and the plan see them, and their form in the maps.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netmesh_common::table::{Action, NextHop, Origin, PrefixKey, RibEntry};
use serde::Serialize;

use super::group::{self, Way};
use super::next_hop;
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::FibRoute;

/// One route as it stands in the RIB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteRow {
    /// The prefix.
    pub prefix: IpNet,
    /// Who put it there.
    #[serde(serialize_with = "origin_text")]
    pub origin: Origin,
    /// What it does.
    pub route: FibRoute,
    /// It is the one the data plane follows.
    pub active: bool,
    /// The next hop's link-layer address is known, where one is needed; of several, all of them.
    pub resolved: Option<bool>,
    /// Those of several next hops that failed and are not used until they have proved themselves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub withdrawn: Vec<String>,
}

/// What the data plane does with packets for an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Match {
    /// The route, as the RIB has it.
    #[serde(flatten)]
    pub row: RouteRow,
    /// The link-layer address packets are sent to, where there is one and it is known.
    pub link_address: Option<[u8; 6]>,
    /// Where there are several next hops: each one's interface index, address and link-layer address,
    /// as far as they are known.
    #[serde(skip)]
    pub next_hops: Vec<(u32, Option<IpAddr>, Option<[u8; 6]>)>,
    /// The prefix has a counter of its own.
    pub counted: bool,
    /// The FIB holds another entry than the RIB asks for: a writer is at work, or one was killed
    /// and the next one mends it.
    pub stale: bool,
}

/// The word for an origin.
#[must_use]
pub const fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Connected => "connected",
        Origin::Object => "object",
        Origin::Static => "static",
        Origin::Kernel => "kernel",
        Origin::Fpm => "fpm",
    }
}

fn origin_text<S: serde::Serializer>(origin: &Origin, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(origin_name(*origin))
}

/// A RIB entry in words; `None` for one no version has written.
pub(super) fn row(
    prefix: &PrefixKey,
    origin: Origin,
    entry: &RibEntry,
    way: &Way,
    active: bool,
    facts: &NamespaceFacts,
) -> Option<RouteRow> {
    let forwards = entry.action == Action::Forward as u8;
    Some(RouteRow {
        prefix: decode_prefix(prefix)?,
        origin,
        route: decode_route(entry, way, facts),
        active,
        resolved: way.resolved().filter(|_| forwards),
        withdrawn: withdrawn(way, facts),
    })
}

/// Those that groups do without, in the words of `ip route`.
fn withdrawn(way: &Way, facts: &NamespaceFacts) -> Vec<String> {
    let Way::Several(hops) = way else {
        return Vec::new();
    };
    let held = hops
        .iter()
        .filter(|(hop, _)| hop.flags & NextHop::WITHDRAWN != 0);
    held.map(|(hop, _)| {
        let via = next_hop::decode(hop).map_or_else(String::new, |via| format!("via {via} "));
        let name = facts.name_of(hop.ifindex);
        let name = name.map_or_else(|| format!("if{}?", hop.ifindex), ToString::to_string);
        format!("{via}dev {name}")
    })
    .collect()
}

/// What a RIB entry says is done.
pub(super) fn decode_route(entry: &RibEntry, way: &Way, facts: &NamespaceFacts) -> FibRoute {
    // A device that is gone has no name; the number says so to people and to the diff.
    let link = |hop: &NextHop| {
        facts
            .name_of(hop.ifindex)
            .cloned()
            .unwrap_or_else(|| format!("if{}?", hop.ifindex))
    };
    match (Action::from_u8(entry.action), way) {
        (Some(Action::Forward), Way::One(hop)) => FibRoute::Via {
            gateway: next_hop::decode(hop),
            link: link(hop),
        },
        (Some(Action::Forward), Way::Several(hops)) => FibRoute::through(
            hops.iter()
                .map(|(hop, weight)| group::path(hop, *weight, link(hop)))
                .collect(),
        ),
        (Some(Action::Connected), Way::One(hop)) => FibRoute::Connected { link: link(hop) },
        (Some(Action::Local), _) => FibRoute::Local,
        (Some(Action::Unreachable), _) => FibRoute::Unreachable,
        (Some(Action::Prohibit), _) => FibRoute::Prohibit,
        (Some(Action::Blackhole), _) => FibRoute::Blackhole,
        (Some(Action::Punt | Action::Connected) | None, _) => FibRoute::Punt,
    }
}

/// A prefix as a key; host bits are cut off.
pub(super) fn prefix_key(prefix: IpNet) -> PrefixKey {
    let mut address = [0; 16];
    let family = match prefix.network() {
        IpAddr::V6(a) => {
            address = a.octets();
            6
        }
        IpAddr::V4(a) => {
            address[..4].copy_from_slice(&a.octets());
            4
        }
    };
    PrefixKey {
        address,
        family,
        length: prefix.prefix_len(),
        reserved: [0; 2],
    }
}

/// The prefix behind a key.
pub(super) fn decode_prefix(key: &PrefixKey) -> Option<IpNet> {
    let a = key.address;
    match key.family {
        6 => Ipv6Net::new(a.into(), key.length).ok().map(IpNet::V6),
        4 => Ipv4Net::new([a[0], a[1], a[2], a[3]].into(), key.length)
            .ok()
            .map(IpNet::V4),
        _ => None,
    }
}
