//! Routes with several next hops: what the maps remember, share and give up.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netmesh_common::group::{self, BUCKETS, Group, MAX_GROUPS};
use netmesh_common::table::Origin;

use super::lab::{alone, facts, here, ip, veth};
use crate::dataplane::route::prefix_key;
use crate::dataplane::{Error, Instance};
use crate::plan::state::{FibRoute, Path};

fn net(n: u32) -> IpNet {
    format!("2001:db8:{n:x}::/64").parse().unwrap()
}

/// Through `fe80::N` on `p0`, with weights.
fn through(members: &[(u16, u16)]) -> FibRoute {
    let path = |(n, weight): &(u16, u16)| Path {
        gateway: Some(format!("fe80::{n:x}").parse().unwrap()),
        link: "p0".into(),
        weight: *weight,
    };
    FibRoute::through(members.iter().map(path).collect())
}

fn put(instance: &mut Instance, n: u32, route: &FibRoute) {
    let facts = facts();
    instance
        .put_route(net(n), Origin::Object, route, &facts)
        .unwrap();
    let routes = instance.routes_of(Origin::Object, &facts).unwrap();
    assert_eq!(&routes[&net(n)], route, "what is put is what is read");
}

/// The next-hop index in the FIB.
fn index(instance: &Instance, n: u32) -> u32 {
    let entry = instance.read_fib(&prefix_key(net(n))).unwrap().unwrap();
    assert_eq!(entry.prefix_length, 64);
    entry.next_hop
}

fn group(instance: &Instance, n: u32) -> Group {
    let id = group::of(index(instance, n)).unwrap();
    instance.maps.groups.get(&id, 0).unwrap()
}

/// The next hop each bucket belongs to.
fn owners(instance: &Instance, n: u32) -> [u32; BUCKETS] {
    let group = group(instance, n);
    let owner = |slot: u8| group.members[usize::from(slot)].next_hop;
    let owners = group.buckets.map(owner);
    assert!(!owners.contains(&0), "every bucket has a member");
    owners
}

fn shares(owners: &[u32; BUCKETS]) -> Vec<usize> {
    let mut shares: BTreeMap<u32, usize> = BTreeMap::new();
    for owner in owners {
        *shares.entry(*owner).or_default() += 1;
    }
    let mut counts: Vec<usize> = shares.into_values().collect();
    counts.sort_unstable();
    counts
}

#[test]
fn equal_routes_share_a_group_and_flows_stay_with_it() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        let three = through(&[(1, 1), (2, 1), (3, 2)]);
        put(&mut instance, 1, &three);
        put(&mut instance, 2, &through(&[(3, 2), (2, 1), (1, 1)]));
        let before = owners(&instance, 1);
        assert_eq!(shares(&before), [64, 64, 128]);
        assert_eq!(index(&instance, 1), index(&instance, 2), "shared");

        // The first loses a member, the second follows; the first of all keeps the whole group.
        put(&mut instance, 3, &three);
        let gone = group(&instance, 1).members[0].next_hop;
        for n in [1, 2] {
            put(&mut instance, n, &through(&[(2, 1), (3, 2)]));
            for (old, new) in before.iter().zip(owners(&instance, n)) {
                assert!(*old == new || *old == gone);
            }
        }
        assert_eq!(index(&instance, 1), index(&instance, 2), "shared again");
        assert_eq!(owners(&instance, 3), before);

        // The same route from nothing has other buckets: its own group.
        put(&mut instance, 4, &through(&[(2, 1), (3, 2)]));
        assert_ne!(index(&instance, 1), index(&instance, 4));
        assert_eq!(shares(&owners(&instance, 4)), [85, 171]);

        // Put again, also by another writer: nothing changes.
        let now = [1, 3, 4].map(|n| index(&instance, n));
        drop(instance);
        let mut instance = Instance::open(here()).unwrap().unwrap();
        put(&mut instance, 1, &through(&[(2, 1), (3, 2)]));
        put(&mut instance, 3, &three);
        instance.repair(&facts()).unwrap();
        assert_eq!([1, 3, 4].map(|n| index(&instance, n)), now);

        // From one next hop to several its flows stay, as far as its share goes.
        put(&mut instance, 5, &through(&[(2, 1)]));
        let single = index(&instance, 5);
        put(
            &mut instance,
            5,
            &through(&[(1, 1), (2, 1), (3, 1), (4, 1)]),
        );
        let kept = owners(&instance, 5)
            .iter()
            .filter(|id| **id == single)
            .count();
        assert_eq!(kept, 64);
    });
}

#[test]
fn groups_are_given_up_with_their_last_route() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        let facts = facts();
        // Each takes the place of the one before: more than the table can hold at a time.
        for n in 0..MAX_GROUPS * 5 / 4 {
            let weights = [1 + n % 200, 200, 1 + n / 200].map(|weight| weight as u16);
            let route = through(&[(1, weights[0]), (2, weights[1]), (3, weights[2])]);
            instance
                .put_route(net(n % 16), Origin::Object, &route, &facts)
                .unwrap();
        }
        let used: BTreeSet<u32> = (0..16).map(|n| index(&instance, n)).collect();
        let (hops, groups) = instance.reached(&used).unwrap();
        assert!(groups.len() <= 16 && hops.len() == 3, "{groups:?} {hops:?}");

        // Members of groups are in use; those of groups that are gone are not.
        instance.repair(&facts).unwrap();
        let (after, _) = instance.reached(&used).unwrap();
        assert_eq!(after, hops);
        for n in 0..16 {
            instance.remove_route(net(n), Origin::Object).unwrap();
        }
        instance.repair(&facts).unwrap();
        for hop in hops {
            assert_eq!(instance.maps.next_hops.get(&hop, 0).unwrap().ifindex, 0);
        }
    });
}

#[test]
fn a_full_table_of_groups_says_so_and_leaves_the_route() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        let facts = facts();
        let mut put = |n: u32| {
            let route = through(&[(1, 1 + (n % 256) as u16), (2, 1 + (n / 256) as u16)]);
            instance.put_route(net(n), Origin::Object, &route, &facts)
        };
        // Weights of one ratio have the same buckets and are groups of their own nevertheless.
        for n in 0..MAX_GROUPS - 1 {
            put(n).unwrap();
        }
        let full = put(MAX_GROUPS);
        assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
        assert!(
            instance
                .read_fib(&prefix_key(net(MAX_GROUPS)))
                .unwrap()
                .is_none()
        );
        instance.remove_route(net(5), Origin::Object).unwrap();
        let route = through(&[(7, 1), (8, 1)]);
        instance
            .put_route(net(MAX_GROUPS), Origin::Object, &route, &facts)
            .unwrap();
    });
}

#[test]
fn a_device_without_neighbours_is_one_member() {
    alone(|| {
        veth("p0", "p1");
        ip("tuntap add name t0 mode tun");
        ip("link set t0 up");
        let mut instance = Instance::create("one", here()).unwrap();
        let path = |gateway: Option<&str>, weight| Path {
            gateway: gateway.map(|text| text.parse().unwrap()),
            link: "t0".into(),
            weight,
        };
        let mut paths = vec![path(None, 3), path(Some("fe80::1"), 2)];
        let facts = facts();
        let twice = FibRoute::through(paths.clone());
        instance
            .put_route(net(1), Origin::Object, &twice, &facts)
            .unwrap();
        assert_eq!(group::of(index(&instance, 1)), None);
        paths.push(Path {
            gateway: Some("fe80::1".parse().unwrap()),
            link: "p0".into(),
            weight: 5,
        });
        let mixed = FibRoute::through(paths);
        instance
            .put_route(net(1), Origin::Object, &mixed, &facts)
            .unwrap();
        assert_eq!(shares(&owners(&instance, 1)), [128, 128]);
        let many: Vec<(u16, u16)> = (1..=17).map(|n| (n, 1)).collect();
        let refused = instance.put_route(net(1), Origin::Object, &through(&many), &facts);
        assert!(matches!(refused, Err(Error::TooManyPaths { .. })));
    });
}
