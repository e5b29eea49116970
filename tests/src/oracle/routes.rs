//! Random tables: nested prefixes of every length, every kind of route.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netmesh::plan::state::{FibRoute, Path};
use serde::{Deserialize, Serialize};

use super::dice::Dice;
use super::twins::{MEMBERS, NEIGHBOURS, PORTS, TUN, neighbour};

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A neighbour on an Ethernet port: port, neighbour.
    Neighbour(usize, usize),
    /// Some of the members on an Ethernet port, each with its weight: port, members and weights.
    Members(usize, Vec<(usize, u16)>),
    /// The device without link-layer headers.
    Tunnel,
    /// The kernel answers.
    Unreachable,
    /// The kernel answers.
    Prohibit,
    /// Nobody answers.
    Blackhole,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its prefix.
    pub prefix: IpNet,
    /// Where it leads.
    pub target: Target,
}

impl Route {
    /// In `ip route`'s words.
    #[must_use]
    pub fn words(&self) -> String {
        let prefix = self.prefix;
        match &self.target {
            Target::Neighbour(port, number) => {
                let gateway = self.gateway(*port, *number);
                format!("{prefix} via {gateway} dev p{port}")
            }
            Target::Members(port, members) => {
                let mut text = prefix.to_string();
                for (number, weight) in members {
                    let gateway = self.gateway(*port, NEIGHBOURS + number);
                    let _ = write!(text, " nexthop via {gateway} dev p{port} weight {weight}");
                }
                text
            }
            Target::Tunnel => format!("{prefix} dev {TUN}"),
            Target::Unreachable => format!("unreachable {prefix}"),
            Target::Prohibit => format!("prohibit {prefix}"),
            Target::Blackhole => format!("blackhole {prefix}"),
        }
    }

    /// As our table has it.
    #[must_use]
    pub fn entry(&self) -> FibRoute {
        match &self.target {
            Target::Neighbour(port, number) => FibRoute::Via {
                gateway: Some(self.gateway(*port, *number)),
                link: format!("p{port}"),
            },
            Target::Members(port, members) => FibRoute::through(
                members
                    .iter()
                    .map(|(number, weight)| Path {
                        gateway: Some(self.gateway(*port, NEIGHBOURS + number)),
                        link: format!("p{port}"),
                        weight: *weight,
                    })
                    .collect(),
            ),
            Target::Tunnel => FibRoute::Via {
                gateway: None,
                link: TUN.to_owned(),
            },
            Target::Unreachable => FibRoute::Unreachable,
            Target::Prohibit => FibRoute::Prohibit,
            Target::Blackhole => FibRoute::Blackhole,
        }
    }

    fn gateway(&self, port: usize, number: usize) -> IpAddr {
        let (v6, v4, _) = neighbour(port, number);
        match self.prefix {
            IpNet::V6(_) => v6.into(),
            IpNet::V4(_) => v4.into(),
        }
    }
}

/// The words for `ip -batch`, one family.
#[must_use]
pub fn batch(verb: &str, routes: &[Route], family: usize) -> String {
    let mut text = String::new();
    for route in routes {
        if matches!(route.prefix, IpNet::V6(_)) == (family == 6) {
            let _ = writeln!(text, "route {verb} {}", route.words());
        }
    }
    text
}

/// A table of about `size` routes.
#[must_use]
pub fn random(dice: &mut Dice, size: usize) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    // Under a default route nothing has no route.
    let has_default = dice.chance(1, 2);
    for _ in 0..size {
        let prefix = if dice.chance(3, 5) {
            v6(dice, &routes)
        } else {
            v4(dice, &routes)
        };
        let is_default = prefix.prefix_len() == 0;
        if (is_default && !has_default) || routes.iter().any(|route| route.prefix == prefix) {
            continue;
        }
        let target = match dice.below(20) {
            0..=9 => Target::Neighbour(dice.below(PORTS), dice.below(NEIGHBOURS)),
            10..=12 => members(dice),
            13..=15 => Target::Tunnel,
            16 | 17 => Target::Unreachable,
            18 => Target::Prohibit,
            _ => Target::Blackhole,
        };
        routes.push(Route { prefix, target });
    }
    routes
}

/// Two members of a port, or all of them.
fn members(dice: &mut Dice) -> Target {
    let left_out = dice.below(MEMBERS + 1);
    let members = (0..MEMBERS).filter(|number| *number != left_out);
    let weights = members.map(|number| (number, 1 + dice.below(3) as u16));
    let weights = weights.collect();
    Target::Members(dice.below(PORTS), weights)
}

/// Half of the prefixes lie in, or around, one that is there.
fn v6(dice: &mut Dice, routes: &[Route]) -> IpNet {
    const LENGTHS: [u8; 14] = [0, 3, 20, 29, 40, 48, 56, 60, 64, 64, 72, 96, 127, 128];
    let mut bits = u128::from(Ipv6Addr::new(0x2a02, 0x1802, 0x5e, 0, 0, 0, 0, 0));
    bits |= u128::from_be_bytes(random_tail(dice, 6));
    if dice.chance(1, 2) {
        let parents: Vec<_> = routes
            .iter()
            .filter_map(|route| match route.prefix {
                IpNet::V6(net) => Some(net),
                IpNet::V4(_) => None,
            })
            .collect();
        if !parents.is_empty() {
            bits = u128::from(dice.pick(&parents).network());
            bits |= u128::from_be_bytes(random_tail(dice, 8));
        }
    }
    let length = *dice.pick(&LENGTHS);
    Ipv6Net::new_assert(bits.into(), length).trunc().into()
}

/// 16 bytes of which the first `zero` are 0, and some others as well.
fn random_tail(dice: &mut Dice, zero: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    let end = *dice.pick(&[8, 8, 12, 16]);
    for byte in &mut bytes[zero..end] {
        *byte = dice.byte() & dice.byte();
    }
    bytes
}

fn v4(dice: &mut Dice, routes: &[Route]) -> IpNet {
    const LENGTHS: [u8; 10] = [0, 8, 12, 16, 20, 24, 24, 30, 31, 32];
    let mut bits = u32::from(Ipv4Addr::new(10, 96, 0, 0)) | u32::from(dice.byte()) << 8;
    bits |= u32::from(dice.byte() & 3) << 16 | u32::from(dice.byte());
    if dice.chance(1, 2) {
        let parents: Vec<_> = routes
            .iter()
            .filter_map(|route| match route.prefix {
                IpNet::V4(net) => Some(net),
                IpNet::V6(_) => None,
            })
            .collect();
        if !parents.is_empty() {
            bits = u32::from(dice.pick(&parents).network()) | u32::from(dice.byte());
        }
    }
    let length = *dice.pick(&LENGTHS);
    Ipv4Net::new_assert(bits.into(), length).trunc().into()
}
