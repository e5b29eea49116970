//! Many routes at once are what they are one by one.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netmesh_common::table::Origin;

use super::lab::{alone, facts, here};
use crate::dataplane::route::prefix_key;
use crate::dataplane::{Capacity, Error, Instance};
use crate::plan::state::FibRoute;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

const FATES: [FibRoute; 4] = [
    FibRoute::Punt,
    FibRoute::Blackhole,
    FibRoute::Prohibit,
    FibRoute::Unreachable,
];

/// Prefixes of every length that matters, again and again, in no order.
fn mixture() -> Vec<(IpNet, FibRoute)> {
    let mut routes = Vec::new();
    for n in 0..3000_u32 {
        // Of both families, and the same ones from time to time.
        let m = n.wrapping_mul(2_654_435_761) >> 21;
        let prefix = match n % 7 {
            0 => format!("2a02:18{:02x}::/32", m % 64),
            1 => format!("2a02:1800:{m:x}::/48"),
            2 => format!("10.{}.0.0/16", m % 256),
            3 => format!("10.{}.{}.0/24", m % 16, m % 256),
            4 => format!("2a02:1800:{:x}::1/128", m % 32),
            _ => format!("2a02:1800:{m:x}::/64"),
        };
        routes.push((net(&prefix), FATES[(n / 5) as usize % 4].clone()));
    }
    routes.push((net("::/0"), FibRoute::Punt));
    routes.push((net("0.0.0.0/0"), FibRoute::Blackhole));
    routes
}

#[test]
fn many_at_once_are_what_they_are_one_by_one() {
    alone(|| {
        let mut instance = Instance::create("one", here()).unwrap();
        let facts = facts();
        // Somebody is preferred, and some are there already.
        let others = [net("2a02:1800:5::/48"), net("2a02:1800:7::/64")];
        for prefix in others {
            let object = (prefix, Origin::Object, FibRoute::Unreachable);
            instance
                .put_route(object.0, object.1, &object.2, &facts)
                .unwrap();
        }
        let routes = mixture();
        let wanted: BTreeMap<IpNet, FibRoute> = routes.iter().cloned().collect();
        for round in 0..2 {
            let mut done = 0;
            instance
                .put_routes(&routes, Origin::Static, &facts, |more| done += more)
                .unwrap();
            assert_eq!(done, routes.len() as u64);
            assert_eq!(instance.routes_of(Origin::Static, &facts).unwrap(), wanted);
            for prefix in wanted.keys() {
                let entry = instance.read_fib(&prefix_key(*prefix)).unwrap().unwrap();
                let is_other = others.contains(prefix);
                let origin = if is_other {
                    Origin::Object
                } else {
                    Origin::Static
                };
                let (fate, _) = super::super::fib::fate(&wanted[prefix]);
                assert_eq!(entry.prefix_length, prefix.prefix_len(), "{prefix}");
                assert_eq!(entry.origin, origin as u8, "{prefix}");
                assert!(is_other || entry.action == fate as u8, "{prefix} {round}");
                let found = instance.get(prefix.addr(), &facts).unwrap().unwrap();
                assert!(!found.stale && found.counted, "{prefix}");
            }
        }
        // A counter belongs to one prefix.
        let mut counters = BTreeMap::new();
        instance
            .maps
            .each_counter(|prefix, id| assert_eq!(counters.insert(id, prefix), None))
            .unwrap();
        assert!(counters.len() > 500, "{}", counters.len());
        drop(instance);
        // The next writer finds nothing to mend, and mends it if it is told to.
        let instance = Instance::open(here()).unwrap().unwrap();
        std::fs::create_dir_all(instance.path().join("dirty")).unwrap();
        drop(instance);
        let instance = Instance::open(here()).unwrap().unwrap();
        for prefix in wanted.keys() {
            let found = instance.get(prefix.addr(), &facts).unwrap().unwrap();
            assert!(!found.stale, "{prefix}");
        }
    });
}

#[test]
fn what_a_table_has_no_room_for_is_refused_as_a_whole() {
    alone(|| {
        let capacity = Capacity {
            routes: 16,
            counters: 4,
        };
        let mut instance = Instance::create_with("one", here(), capacity).unwrap();
        let facts = facts();
        let routes: Vec<_> = (0..20)
            .map(|n| (net(&format!("2a02:18{n:02x}::/32")), FibRoute::Punt))
            .collect();
        let mut put = |routes: &[_], progress: &mut u64| {
            let result = instance.put_routes(routes, Origin::Fpm, &facts, |more| *progress += more);
            let there = instance.routes_of(Origin::Fpm, &facts).unwrap();
            for n in 0..20 {
                let prefix = net(&format!("2a02:18{n:02x}::/32"));
                let entry = instance.in_trie(&prefix_key(prefix)).unwrap();
                assert_eq!(entry.is_some(), there.contains_key(&prefix), "{prefix}");
            }
            (result, there.len())
        };
        for (routes, had) in [(&routes[..], 0), (&routes[..12], 12), (&routes[4..], 12)] {
            let mut done = 0;
            let (result, there) = put(routes, &mut done);
            if routes.len() == 12 {
                result.unwrap();
                assert_eq!(done, 12);
            } else {
                let error = result.unwrap_err();
                assert!(matches!(error, Error::Full { capacity: 16, .. }), "{error}");
                assert_eq!(done, 0);
            }
            assert_eq!(there, had);
        }
        // The same again need no room, and what is left of it can be had.
        put(&routes[..12], &mut 0).0.unwrap();
        let (result, there) = put(&routes[..16], &mut 0);
        result.unwrap();
        assert_eq!(there, 16);
        // The /64s have a table of their own, and all together one more.
        let exact = |n: u32| (net(&format!("2a02:1900:0:{n:x}::/64")), FibRoute::Punt);
        let more: Vec<_> = (0..17).map(exact).collect();
        assert!(put(&more, &mut 0).0.is_err());
        put(&more[..16], &mut 0).0.unwrap();
        let four = [(net("10.0.0.0/20"), FibRoute::Punt)];
        assert!(put(&four, &mut 0).0.is_err(), "32 routes are all");
        drop(instance);
        // The next writer has nothing to stumble over.
        let mut instance = Instance::open(here()).unwrap().unwrap();
        instance.remove_route(routes[0].0, Origin::Fpm).unwrap();
        instance
            .put_route(routes[19].0, Origin::Fpm, &FibRoute::Punt, &facts)
            .unwrap();
    });
}
