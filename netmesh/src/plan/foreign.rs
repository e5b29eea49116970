//! What somebody else put where the plan wants something: never changed, never removed.
//!
//! Observed only; a desired state holds none of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::state::{Address, LinkName, Neighbour, Route, RouteKey};

/// What is not ours in one namespace, as far as the plan could run into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Routes of the main table under a key the plan wants, and every default route that a router
    /// advertisement made.
    pub routes: BTreeMap<RouteKey, Vec<ForeignRoute>>,
    /// Addresses on links the plan relies on.
    pub addresses: BTreeSet<Address>,
    /// Neighbours that somebody entered for good (`NUD_PERMANENT`).
    pub neighbours: BTreeSet<Neighbour>,
    /// Names of links.
    pub links: BTreeSet<LinkName>,
    /// Links that take router advertisements even while they forward (`accept_ra = 2`).
    pub hears_advertisements: BTreeSet<LinkName>,
}

/// A route that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRoute {
    /// Who put it there (`rtm_protocol`), in the kernel's number.
    pub protocol: u8,
    /// What it does; `None` for what no route of ours does, such as several next hops.
    pub route: Option<Route>,
    /// Its device, if it has one.
    pub link: Option<LinkName>,
}

/// `RTPROT_KERNEL`: made by the kernel itself.
const KERNEL: u8 = 2;
/// `RTPROT_RA`: made of a router advertisement.
const ADVERTISED: u8 = 9;

impl Foreign {
    /// A route of somebody else's that does just what `wanted` would, and stays. One from a router
    /// advertisement does not stay: it has a lifetime.
    #[must_use]
    pub fn serves(&self, key: &RouteKey, wanted: &Route) -> bool {
        self.routes.get(key).is_some_and(|found| {
            found.len() == 1
                && found
                    .iter()
                    .all(|found| !found.advertised() && found.route.as_ref() == Some(wanted))
        })
    }
}

impl ForeignRoute {
    /// The kernel made it of an address.
    #[must_use]
    pub const fn made_by_kernel(&self) -> bool {
        self.protocol == KERNEL
    }

    /// It comes from a router advertisement.
    #[must_use]
    pub const fn advertised(&self) -> bool {
        self.protocol == ADVERTISED
    }
}

impl fmt::Display for ForeignRoute {
    /// As `ip route` would: ` via fe80::1 dev eth0 proto static`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use super::state::RouteAction;
        match self.route.as_ref().map(|route| &route.action) {
            Some(RouteAction::Via { gateway, link }) => {
                if let Some(gateway) = gateway {
                    write!(f, "via {gateway} ")?;
                }
                write!(f, "dev {link}")?;
            }
            Some(RouteAction::Unreachable) => f.write_str("unreachable")?,
            Some(RouteAction::Prohibit) => f.write_str("prohibit")?,
            Some(RouteAction::Blackhole) => f.write_str("blackhole")?,
            None => f.write_str("by several next hops, or of another type")?,
        }
        // The names of iproute2's rt_protos.
        match self.protocol {
            KERNEL => f.write_str(" proto kernel"),
            ADVERTISED => f.write_str(" proto ra"),
            3 => f.write_str(" proto boot"),
            4 => f.write_str(" proto static"),
            16 => f.write_str(" proto dhcp"),
            number => write!(f, " proto {number}"),
        }
    }
}
