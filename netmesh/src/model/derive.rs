//! Everything that follows from a prefix: names, addresses, next hops.
//!
//! For `2a02:1802:5e:10a::/64` in `2a02:1802:5e::/48` (index 0x10a, last bytes 1 and 10):
//!
//! | what | value |
//! |---|---|
//! | bridge | `2a02:1802:5e:10a::1/64`, `10.1.10.254/24` |
//! | WireGuard | `fe80::10a/64`, `169.254.1.10/16` |
//! | exit on the segment | `fe80::10a:1/64`, `2a02:1802:5e::10a:1/64` |
//! | router on the segment | `fe80::1/64`, `2a02:1802:5e::1/64` |
//!
//! An index of more than 16 bits goes whole into names and IPv6 addresses; the IPv4 ones have
//! room for its last two bytes only, which is why they are checked for collisions.

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Serialize;

use super::address::{Index, link_local};
use super::network::{Network, Resource};
use super::node::SegmentPort;

/// Prefix of the names of the namespaces we make.
pub const NAMESPACE_PREFIX: &str = "nm-";

/// Every name and address of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Derived {
    /// Bits between the allocation's length and bit 64.
    pub index: Index,
    /// Network namespace.
    pub netns: String,
    /// WireGuard interface; also names the control socket, machine-wide.
    pub wireguard: String,
    /// Bridge for the services of the prefix.
    pub bridge: String,
    /// An exit's port on the segment.
    pub exit_port: String,
    /// Its other end in the node, where it is a veth.
    pub exit_peer: String,
    /// The resource's prefix.
    pub prefix_v6: Ipv6Net,
    /// Its IPv4 twin.
    pub prefix_v4: Ipv4Net,
    /// Bridge address: `P::1/64`.
    pub bridge_v6: Ipv6Net,
    /// Bridge address: `10.hi.lo.254/24`.
    pub bridge_v4: Ipv4Net,
    /// WireGuard address, a next hop only.
    pub wireguard_v6: Ipv6Net,
    /// WireGuard address, a next hop only.
    pub wireguard_v4: Ipv4Net,
    /// An exit's link-local on the segment.
    pub segment_link_local: Ipv6Net,
    /// An exit's numbered address on the segment.
    pub segment_address: Ipv6Net,
    /// The router's link-local on the segment.
    pub router_link_local: Ipv6Net,
    /// The router's numbered address on the segment.
    pub router_segment_address: Ipv6Net,
}

impl Derived {
    pub(super) fn of(network: &Network, resource: &Resource) -> Self {
        // A prefix outside its allocation is refused by `check`; until then its index is taken
        // as if it were inside, so that everything can be checked in one go.
        let index = network
            .allocation
            .index(&resource.prefix)
            .unwrap_or_else(|| {
                let high = (u128::from(resource.prefix.net().network()) >> 64) as u64;
                Index(high & (u64::MAX >> network.allocation.net().prefix_len()))
            });
        let hex = format!("{:x}", index.0);
        let [hi, lo] = resource.prefix.last_bytes();
        let prefix_v4 = resource
            .ipv4
            .unwrap_or_else(|| Ipv4Net::new_assert([10, hi, lo, 0].into(), 24));
        let pool = network.wireguard_ipv4.network().octets();
        let [_, third, fourth, _] = prefix_v4.network().octets();
        // Where the /24 was set by hand its bytes are the ones known not to collide.
        let (hi, lo) = if resource.ipv4.is_some() {
            (third, fourth)
        } else {
            (hi, lo)
        };
        let prefix_v6 = resource.prefix.net();
        Self {
            index,
            netns: format!("{NAMESPACE_PREFIX}{}-{}", network.name, resource.name),
            wireguard: resource
                .interface
                .clone()
                .unwrap_or_else(|| format!("wg-{hex}")),
            bridge: format!("br-{hex}"),
            exit_port: format!("ex-{hex}"),
            exit_peer: format!("sx-{hex}"),
            prefix_v6,
            prefix_v4,
            bridge_v6: Ipv6Net::new_assert((u128::from(prefix_v6.network()) | 1).into(), 64),
            bridge_v4: Ipv4Net::new_assert((u32::from(prefix_v4.network()) | 254).into(), 24),
            wireguard_v6: link_local(index.0),
            wireguard_v4: Ipv4Net::new_assert([pool[0], pool[1], hi, lo].into(), 16),
            segment_link_local: link_local(index.0 << 16 | 1),
            segment_address: network.allocation.on_segment(index.0 << 16 | 1),
            router_link_local: network.allocation.router_link_local(),
            router_segment_address: network.allocation.router_segment_address(),
        }
    }

    /// Names of interfaces in the node's namespace: the one the WireGuard device is born under,
    /// and an exit's outer end.
    pub fn node_interfaces(&self, exit: bool, segment: Option<&SegmentPort>) -> Vec<&str> {
        let mut names = vec![self.wireguard.as_str()];
        if exit && matches!(segment, Some(SegmentPort::Parent(_))) {
            names.push(self.exit_peer.as_str());
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::address::{Allocation, Prefix};
    use super::super::network::parse_network;
    use super::*;

    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn derived(allocation: &str, prefix: &str) -> Derived {
        let text = format!(
            "network = \"a\"\nallocation = \"{allocation}\"\n[[resource]]\nname = \"r\"\n\
             node = \"n\"\nprefix = \"{prefix}\"\npublic_key = \"{KEY}\"\n"
        );
        let network = parse_network("a.toml", &text).unwrap();
        network.derive(&network.resources[0])
    }

    #[test]
    fn the_seeds_resource() {
        let derived = derived("2a02:1802:5e::/48", "2a02:1802:5e:10a::/64");
        assert_eq!(derived.index, Index(0x10a));
        assert_eq!(derived.bridge_v6.to_string(), "2a02:1802:5e:10a::1/64");
        assert_eq!(derived.bridge_v4.to_string(), "10.1.10.254/24");
        assert_eq!(derived.prefix_v4.to_string(), "10.1.10.0/24");
        assert_eq!(derived.wireguard_v4.to_string(), "169.254.1.10/16");
        assert_eq!(derived.wireguard_v6.to_string(), "fe80::10a/64");
        assert_eq!(derived.wireguard, "wg-10a");
    }

    #[test]
    fn the_seeds_exit() {
        let derived = derived("2a02:1802:5e::/48", "2a02:1802:5e:aaaa::/64");
        assert_eq!(
            derived.segment_address.to_string(),
            "2a02:1802:5e::aaaa:1/64"
        );
        assert_eq!(derived.segment_link_local.to_string(), "fe80::aaaa:1/64");
        assert_eq!(
            derived.router_segment_address.to_string(),
            "2a02:1802:5e::1/64"
        );
        assert_eq!(derived.router_link_local.to_string(), "fe80::1/64");
    }

    #[test]
    fn seed_b_names_another_pool() {
        let text = format!(
            "network = \"a\"\nallocation = \"2a02:1802:5e::/48\"\nwireguard_ipv4 = \"172.16.0.0/16\"\n\
             [[resource]]\nname = \"r\"\nnode = \"n\"\nprefix = \"2a02:1802:5e:10a::/64\"\n\
             public_key = \"{KEY}\"\n"
        );
        let network = parse_network("a.toml", &text).unwrap();
        let derived = network.derive(&network.resources[0]);
        assert_eq!(derived.wireguard_v4.to_string(), "172.16.1.10/16");
    }

    #[test]
    fn a_wide_index_goes_whole_into_names_and_ipv6() {
        let derived = derived("2a05:2380::/29", "2a05:2387:ffff:ffff::/64");
        assert_eq!(derived.index, Index(0x7_ffff_ffff));
        assert_eq!(derived.wireguard, "wg-7ffffffff");
        assert_eq!(derived.wireguard_v6.to_string(), "fe80::7:ffff:ffff/64");
        assert_eq!(
            derived.segment_link_local.to_string(),
            "fe80::7:ffff:ffff:1/64"
        );
        assert_eq!(
            derived.segment_address.to_string(),
            "2a05:2380::7:ffff:ffff:1/64"
        );
    }

    fn allocation_and_indexes() -> impl Strategy<Value = (Allocation, u64, u64)> {
        (16_u8..=60, any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(length, net, a, b)| {
            let bits = u128::from(0x2000_0000_0000_0000 | net >> 3) << 64;
            let net = Ipv6Net::new_assert(bits.into(), length).trunc();
            let allocation: Allocation = net.to_string().parse().unwrap();
            let mask = u64::MAX >> length;
            (allocation, (a & mask).max(1), (b & mask).max(1))
        })
    }

    proptest! {
        #[test]
        fn an_index_and_its_prefix_are_inverse((allocation, index, _) in allocation_and_indexes()) {
            let prefix = allocation.prefix(Index(index)).unwrap();
            prop_assert_eq!(allocation.index(&prefix), Some(Index(index)));
            let text = prefix.to_string();
            prop_assert_eq!(text.parse::<Prefix>().unwrap(), prefix);
        }

        #[test]
        fn an_index_beyond_the_allocation_has_no_prefix((allocation, index, _) in allocation_and_indexes()) {
            let beyond = index | 1 << allocation.index_bits();
            prop_assert_eq!(allocation.prefix(Index(beyond)), None);
        }

        #[test]
        fn what_is_derived_is_unique_and_fits((allocation, a, b) in allocation_and_indexes()) {
            prop_assume!(a != b);
            let text = |index| allocation.prefix(Index(index)).unwrap().to_string();
            let one = derived(&allocation.to_string(), &text(a));
            let two = derived(&allocation.to_string(), &text(b));
            for (x, y) in [
                (&one.wireguard, &two.wireguard),
                (&one.bridge, &two.bridge),
                (&one.exit_port, &two.exit_port),
                (&one.exit_peer, &two.exit_peer),
            ] {
                prop_assert_ne!(x, y);
                prop_assert!(x.len() <= 15, "{}", x);
            }
            let addresses: BTreeSet<Ipv6Net> = [&one, &two]
                .iter()
                .flat_map(|d| [d.bridge_v6, d.wireguard_v6, d.segment_link_local, d.segment_address])
                .collect();
            prop_assert_eq!(addresses.len(), 8);
            for derived in [&one, &two] {
                prop_assert_ne!(derived.segment_link_local, derived.router_link_local);
                prop_assert_ne!(derived.segment_address, derived.router_segment_address);
                prop_assert!(allocation.net().contains(&derived.segment_address));
                prop_assert!(!derived.prefix_v6.contains(&derived.segment_address.addr()));
            }
        }
    }
}
