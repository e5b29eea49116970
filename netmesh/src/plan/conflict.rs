//! Where the plan would run into what somebody else put on the machine: found before anything is
//! touched, all of it at once, each with the way out.

use std::fmt;

use serde::Serialize;

use super::foreign::ForeignRoute;
use super::state::{Address, Link, LinkKind, LinkName, Namespace, NamespaceState, RouteKey, State};

/// One thing of somebody else's that is in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Conflict {
    /// A route to the same destination with the same metric, leading elsewhere.
    Route {
        /// Where.
        namespace: Namespace,
        /// Destination and metric.
        key: RouteKey,
        /// The other route, as `ip route` shows it.
        found: String,
    },
    /// A default route that the kernel drops as soon as it forwards: it was learned from a router
    /// advertisement on a link that then no longer listens (`rt6_purge_dflt_routers`).
    Advertised {
        /// Where.
        namespace: Namespace,
        /// The link that heard it.
        link: LinkName,
        /// The route, as `ip route` shows it.
        found: String,
    },
    /// The same address on the same link with another prefix length.
    Address {
        /// Where.
        namespace: Namespace,
        /// Wanted.
        address: Address,
        /// What is there.
        found: Address,
    },
    /// A link with a name the plan needs.
    Link {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: LinkName,
    },
    /// A network namespace with a name the plan needs.
    Namespace {
        /// Its name.
        name: String,
    },
}

/// Every conflict between what is there and what is wanted.
#[must_use]
pub fn conflicts(observed: &State, desired: &State) -> Vec<Conflict> {
    let empty = NamespaceState::default();
    let mut found = Vec::new();
    for (namespace, want) in &desired.namespaces {
        if let Namespace::Named(name) = namespace
            && observed.foreign_namespaces.contains(name)
        {
            found.push(Conflict::Namespace { name: name.clone() });
            continue;
        }
        let seen = observed.namespaces.get(namespace).unwrap_or(&empty);
        links(namespace, seen, want, &mut found);
        born_in_node(namespace, seen, want, observed, &mut found);
        addresses(namespace, seen, want, &mut found);
        routes(namespace, seen, want, &mut found);
        advertised(namespace, seen, want, &mut found);
    }
    found
}

fn links(
    namespace: &Namespace,
    seen: &NamespaceState,
    want: &NamespaceState,
    found: &mut Vec<Conflict>,
) {
    // What a crash left half made is known as ours and not among these.
    for (name, link) in &want.links {
        if made(link) && seen.foreign.links.contains(name) {
            found.push(Conflict::Link {
                namespace: namespace.clone(),
                name: name.clone(),
            });
        }
    }
}

const fn made(link: &Link) -> bool {
    match link.kind {
        LinkKind::Bridge
        | LinkKind::Veth { .. }
        | LinkKind::Macvlan { .. }
        | LinkKind::Wireguard => true,
        LinkKind::Moved | LinkKind::Foreign => false,
    }
}

/// WireGuard devices are born in the node's namespace and moved.
fn born_in_node(
    namespace: &Namespace,
    seen: &NamespaceState,
    want: &NamespaceState,
    observed: &State,
    found: &mut Vec<Conflict>,
) {
    let Some(node) = observed.namespaces.get(&Namespace::Node) else {
        return;
    };
    if *namespace == Namespace::Node {
        return;
    }
    for (name, link) in &want.links {
        if link.kind == LinkKind::Wireguard
            && !seen.links.contains_key(name)
            && node.foreign.links.contains(name)
        {
            found.push(Conflict::Link {
                namespace: Namespace::Node,
                name: name.clone(),
            });
        }
    }
}

fn addresses(
    namespace: &Namespace,
    seen: &NamespaceState,
    want: &NamespaceState,
    found: &mut Vec<Conflict>,
) {
    for address in want.addresses.difference(&seen.addresses) {
        let other = seen.foreign.addresses.iter().find(|other| {
            // IPv4 takes one address with two lengths as two addresses.
            address.address.addr().is_ipv6()
                && other.link == address.link
                && other.address.addr() == address.address.addr()
                && other.address != address.address
        });
        if let Some(other) = other {
            found.push(Conflict::Address {
                namespace: namespace.clone(),
                address: address.clone(),
                found: other.clone(),
            });
        }
    }
}

fn routes(
    namespace: &Namespace,
    seen: &NamespaceState,
    want: &NamespaceState,
    found: &mut Vec<Conflict>,
) {
    for (key, route) in &want.routes {
        if seen.routes.get(key) == Some(route) || seen.foreign.serves(key, route) {
            continue;
        }
        let mut others = seen.foreign.routes.get(key).into_iter().flatten();
        let stays = |other: &&ForeignRoute| {
            !purged(other, seen, want) && !goes_with_its_address(key, other, seen, want)
        };
        if let Some(other) = others.find(stays) {
            found.push(Conflict::Route {
                namespace: namespace.clone(),
                key: *key,
                found: other.to_string(),
            });
        }
    }
}

/// The kernel's route of a subnet, made with an address of ours that the plan takes away: a prefix
/// that moves to another member.
fn goes_with_its_address(
    key: &RouteKey,
    route: &ForeignRoute,
    seen: &NamespaceState,
    want: &NamespaceState,
) -> bool {
    let mut leaving = seen.addresses.difference(&want.addresses);
    route.made_by_kernel()
        && leaving.any(|address| {
            Some(&address.link) == route.link.as_ref() && address.address.trunc() == key.destination
        })
}

fn advertised(
    namespace: &Namespace,
    seen: &NamespaceState,
    want: &NamespaceState,
    found: &mut Vec<Conflict>,
) {
    for other in seen.foreign.routes.values().flatten() {
        let Some(link) = &other.link else { continue };
        // Where the objects say not to listen, losing it is what was asked for.
        let unwanted = want.sysctls.contains_key(&accept_ra(link));
        if purged(other, seen, want) && !unwanted {
            found.push(Conflict::Advertised {
                namespace: namespace.clone(),
                link: link.clone(),
                found: other.to_string(),
            });
        }
    }
}

/// The kernel drops this route when the plan makes the namespace forward.
fn purged(route: &ForeignRoute, seen: &NamespaceState, want: &NamespaceState) -> bool {
    const FORWARDING: &str = "net/ipv6/conf/all/forwarding";
    let starts = want.sysctls.get(FORWARDING).is_some_and(|on| on == "1")
        && seen.sysctls.get(FORWARDING).is_some_and(|on| on == "0");
    let listens = route
        .link
        .as_ref()
        .is_some_and(|link| seen.foreign.hears_advertisements.contains(link));
    route.advertised() && starts && !listens
}

fn accept_ra(link: &str) -> String {
    format!("net/ipv6/conf/{link}/accept_ra")
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route {
                namespace,
                key,
                found,
            } => write!(
                f,
                "route {key} in {namespace}: there is one already, {found}, which is not ours; \
                 remove it: ip{} route del {} {found}; or make it again with a metric of its own",
                if key.destination.addr().is_ipv6() {
                    " -6"
                } else {
                    ""
                },
                key.destination,
            ),
            Self::Advertised {
                namespace,
                link,
                found,
            } => write!(
                f,
                "default route in {namespace}: the one learned from a router advertisement \
                 ({found}) would be lost when the kernel starts to forward; keep it with: sysctl \
                 -w net.ipv6.conf.{link}.accept_ra=2 (or remove it)"
            ),
            Self::Address {
                namespace,
                address,
                found,
            } => write!(
                f,
                "address {} on {} in {namespace}: it is there as {}, which is not ours; remove \
                 it: ip addr del {} dev {}",
                address.address, address.link, found.address, found.address, found.link
            ),
            Self::Link { namespace, name } => write!(
                f,
                "link {name} in {namespace}: there is one already that is not ours; rename it, or \
                 the resource that needs the name"
            ),
            Self::Namespace { name } => write!(
                f,
                "network namespace {name}: there is one already that is not this node's; rename \
                 the network or resource, or remove it: ip netns del {name}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::state::{Route, RouteAction};

    const DEFAULT: &str = "::/0";

    fn via(gateway: &str, link: &str) -> Route {
        Route {
            action: RouteAction::Via {
                gateway: Some(gateway.parse().unwrap()),
                link: link.into(),
            },
            source: None,
        }
    }

    fn foreign(protocol: u8, route: Route) -> ForeignRoute {
        let link = match &route.action {
            RouteAction::Via { link, .. } => Some(link.clone()),
            _ => None,
        };
        ForeignRoute {
            protocol,
            route: Some(route),
            link,
        }
    }

    fn key() -> RouteKey {
        RouteKey::new(DEFAULT.parse().unwrap())
    }

    /// A router that forwards by way of `up`, and a machine that has `found`.
    fn pair(found: Vec<ForeignRoute>, forwards: &str) -> (State, State) {
        let (mut seen, mut want) = (State::default(), State::default());
        let forwarding = || "net/ipv6/conf/all/forwarding".to_owned();
        let node = want.namespace(&Namespace::Node);
        node.routes.insert(key(), via("fe80::1", "up"));
        node.sysctls.insert(forwarding(), "1".into());
        node.sysctls.insert(accept_ra("up"), "0".into());
        let node = seen.namespace(&Namespace::Node);
        node.sysctls.insert(forwarding(), forwards.into());
        node.foreign.routes.insert(key(), found);
        (seen, want)
    }

    #[test]
    fn a_default_route_of_the_operator_is_refused_by_name() {
        let (seen, want) = pair(vec![foreign(4, via("fe80::99", "eth0"))], "0");
        let [conflict] = conflicts(&seen, &want).try_into().unwrap();
        let text = conflict.to_string();
        assert!(
            text.contains("via fe80::99 dev eth0 proto static"),
            "{text}"
        );
        assert!(text.contains("route ::/0 in node"), "{text}");
    }

    #[test]
    fn one_that_does_the_same_is_relied_on() {
        let (mut seen, want) = pair(vec![foreign(4, via("fe80::1", "up"))], "0");
        assert_eq!(conflicts(&seen, &want), []);
        let steps = super::super::diff::diff(&seen, &want);
        assert!(!format!("{steps:?}").contains("PutRoute"), "{steps:?}");
        // Not when there is another beside it: which one is used is the kernel's choice.
        let node = seen.namespace(&Namespace::Node);
        node.foreign
            .routes
            .entry(key())
            .or_default()
            .push(foreign(3, via("fe80::2", "up")));
        assert_eq!(conflicts(&seen, &want).len(), 1);
    }

    #[test]
    fn a_default_route_that_forwarding_would_lose_is_refused() {
        let advertised = vec![foreign(9, via("fe80::99", "eth0"))];
        let (mut seen, want) = pair(advertised.clone(), "0");
        let [conflict] = conflicts(&seen, &want).try_into().unwrap();
        assert!(
            matches!(conflict, Conflict::Advertised { .. }),
            "{conflict}"
        );
        assert!(
            conflict
                .to_string()
                .contains("net.ipv6.conf.eth0.accept_ra=2")
        );
        // Where it stays, it is in the way: the same metric.
        let node = seen.namespace(&Namespace::Node);
        node.foreign.hears_advertisements.insert("eth0".into());
        let [conflict] = conflicts(&seen, &want).try_into().unwrap();
        assert!(matches!(conflict, Conflict::Route { .. }), "{conflict}");
        // On the uplink the objects replace it.
        let (seen, want) = pair(vec![foreign(9, via("fe80::99", "up"))], "0");
        assert_eq!(conflicts(&seen, &want), []);
    }

    #[test]
    fn ours_in_place_stays_whatever_comes_beside_it() {
        let (mut seen, want) = pair(vec![foreign(9, via("fe80::99", "eth0"))], "1");
        let ours = want.namespaces[&Namespace::Node].routes.clone();
        seen.namespace(&Namespace::Node).routes = ours;
        assert_eq!(conflicts(&seen, &want), []);
    }

    /// In a resource's namespace as in the node's.
    #[test]
    fn a_link_with_a_name_that_is_needed_is_refused_wherever_it_is() {
        for namespace in [Namespace::Node, Namespace::Named("nm-t-gw".into())] {
            let (mut seen, mut want) = (State::default(), State::default());
            for (name, kind) in [("wg-a1", LinkKind::Wireguard), ("br-a1", LinkKind::Bridge)] {
                let link = Link {
                    kind,
                    alias: Some("netmesh:t/gw".into()),
                    mtu: None,
                    master: None,
                    up: true,
                };
                want.namespace(&namespace).links.insert(name.into(), link);
            }
            let there = seen.namespace(&namespace);
            there.foreign.links.insert("other".into());
            assert_eq!(conflicts(&seen, &want), []);
            let there = seen.namespace(&namespace);
            there.foreign.links.extend(["wg-a1".into(), "br-a1".into()]);
            let found = conflicts(&seen, &want);
            let names: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(names.len(), 2, "{names:?}");
            assert!(names[0].starts_with("link br-a1 in "), "{names:?}");
            assert!(names[1].starts_with("link wg-a1 in "), "{names:?}");
        }
    }

    /// A subnet of ours that moves behind a tunnel: the kernel takes its route of it back with the
    /// address. One whose address stays is in the way.
    #[test]
    fn the_kernel_s_route_of_an_address_that_goes_is_not_in_the_way() {
        let key = RouteKey::new("10.1.2.0/24".parse().unwrap());
        let at = |link: &str| Address {
            link: link.into(),
            address: "10.1.2.254/24".parse().unwrap(),
        };
        let route = |link: &str| Route {
            action: RouteAction::Via {
                gateway: None,
                link: link.into(),
            },
            source: None,
        };
        let (mut seen, mut want) = (State::default(), State::default());
        let node = seen.namespace(&Namespace::Node);
        node.addresses.insert(at("br-102"));
        let found = vec![foreign(2, route("br-102"))];
        node.foreign.routes.insert(key, found);
        let node = want.namespace(&Namespace::Node);
        node.routes.insert(key, route("wg-103"));
        assert_eq!(conflicts(&seen, &want), []);
        want.namespace(&Namespace::Node)
            .addresses
            .insert(at("br-102"));
        assert_eq!(conflicts(&seen, &want).len(), 1);
    }
}
