//! The node's own addresses and subnets, mirrored from the kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netmesh_common::table::Origin;

use super::{Error, Instance};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::FibRoute;

impl Instance {
    /// Makes the connected routes equal the namespace's own addresses and subnets, by difference.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn set_connected(&mut self, facts: &NamespaceFacts) -> Result<(), Error> {
        let wanted = routes(facts);
        let seen = self.routes_of(Origin::Connected, facts)?;
        for (prefix, route) in &wanted {
            if seen.get(prefix) != Some(route) {
                self.put_route(*prefix, Origin::Connected, route, facts)?;
            }
        }
        for prefix in seen.keys().filter(|prefix| !wanted.contains_key(prefix)) {
            self.remove_route(*prefix, Origin::Connected)?;
        }
        Ok(())
    }
}

/// The node's own addresses are local, the subnet-router anycast of each of its subnets
/// (RFC 4291 section 2.6.1) and IPv4 broadcasts too, the rest of the subnets connected.
fn routes(facts: &NamespaceFacts) -> BTreeMap<IpNet, FibRoute> {
    let mut local = BTreeMap::new();
    let mut subnets = BTreeMap::new();
    for (ifindex, address) in &facts.addresses {
        let Some(link) = facts.name_of(*ifindex) else {
            continue;
        };
        let special = match address.addr() {
            IpAddr::V6(a) => a.is_loopback() || (a.segments()[0] & 0xffc0) == 0xfe80,
            IpAddr::V4(a) => a.is_loopback(),
        };
        if special {
            continue; // The decision leaves these to the kernel by their class.
        }
        local.insert(IpNet::from(address.addr()), FibRoute::Local);
        let subnet = address.trunc();
        if subnet.prefix_len() == subnet.max_prefix_len() {
            continue;
        }
        subnets
            .entry(subnet)
            .or_insert(FibRoute::Connected { link: link.clone() });
        let edge = match subnet {
            // Point-to-point links have no anycast address (RFC 6164).
            IpNet::V6(net) => (net.prefix_len() < 127).then(|| IpAddr::V6(net.network())),
            IpNet::V4(net) => (net.prefix_len() < 31).then(|| IpAddr::V4(net.broadcast())),
        };
        if let Some(edge) = edge {
            local.insert(IpNet::from(edge), FibRoute::Local);
        }
    }
    subnets.extend(local);
    subnets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::facts::Device;

    fn facts(addresses: &[(u32, &str)]) -> NamespaceFacts {
        let device = |ifindex| Device {
            ifindex,
            mac: Some([2; 6]),
            mtu: 1500,
            kind: "veth".into(),
            up: true,
            vlan: None,
            takes_tags_off: false,
            sends_several_buffers: false,
        };
        NamespaceFacts {
            devices: [("a".to_owned(), device(1)), ("b".to_owned(), device(2))].into(),
            neighbours: BTreeMap::new(),
            permanent: [].into(),
            addresses: addresses
                .iter()
                .map(|(ifindex, net)| (*ifindex, net.parse().unwrap()))
                .collect(),
        }
    }

    fn words(facts: &NamespaceFacts) -> Vec<String> {
        routes(facts)
            .iter()
            .map(|(prefix, route)| match route {
                FibRoute::Connected { link } => format!("{prefix} dev {link}"),
                FibRoute::Local => format!("{prefix} local"),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn addresses_subnets_anycast_and_broadcast() {
        let facts = facts(&[(1, "2001:db8::5/64"), (2, "10.0.0.1/24")]);
        assert_eq!(
            words(&facts),
            [
                "10.0.0.0/24 dev b",
                "10.0.0.1/32 local",
                "10.0.0.255/32 local",
                "2001:db8::/64 dev a",
                "2001:db8::/128 local",
                "2001:db8::5/128 local",
            ]
        );
    }

    #[test]
    fn point_to_point_subnets_have_no_edge() {
        let facts = facts(&[
            (1, "2001:db8::1/127"),
            (2, "10.0.0.1/31"),
            (2, "10.9.9.9/32"),
        ]);
        assert_eq!(
            words(&facts),
            [
                "10.0.0.0/31 dev b",
                "10.0.0.1/32 local",
                "10.9.9.9/32 local",
                "2001:db8::/127 dev a",
                "2001:db8::1/128 local",
            ]
        );
    }

    #[test]
    fn link_local_and_loopback_are_left_out() {
        let facts = facts(&[(1, "fe80::1/64"), (1, "::1/128"), (2, "127.0.0.1/8")]);
        assert!(words(&facts).is_empty());
    }
}
