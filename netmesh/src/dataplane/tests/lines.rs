//! Stage 1 in the kernel's memory: growth, tallies that survive it, killed writers, bulk.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use ipnet::{IpNet, Ipv6Net};
use netmesh_common::lines::{Direction, Place, place, tally};
use netmesh_common::table::{FibEntry, Origin};

use super::lab::{alone, facts, here};
use crate::dataplane::route::prefix_key;
use crate::dataplane::{Capacity, Instance};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::FibRoute;

fn net(n: u64) -> IpNet {
    let address = (0x2a02_1802_0000_0000_u128 + u128::from(n)) << 64;
    Ipv6Net::new(address.into(), 64).unwrap().into()
}

fn key(prefix: IpNet) -> u64 {
    match place(&prefix_key(prefix)) {
        Place::Exact(key) => key,
        other => panic!("{prefix}: {other:?}"),
    }
}

/// Counts as the programs do.
fn count(instance: &Instance, prefix: IpNet, packets: u32) {
    let table = instance.lines.table().unwrap();
    let slot = table.get(key(prefix)).unwrap().slot;
    for (direction, packets) in [(Direction::To, packets), (Direction::From, 2 * packets)] {
        let word = table.tally(slot, direction).unwrap();
        word.fetch_add(tally::packed(packets, 100), Ordering::SeqCst);
    }
}

/// Packets towards and from a prefix.
fn counted(instance: &Instance, prefix: IpNet) -> (u64, u64) {
    let rows = instance.prefix_counters().unwrap();
    let row = rows.iter().find(|row| row.prefix == prefix).unwrap();
    assert_eq!(row.to.bytes, row.from.bytes);
    (row.to.packets, row.from.packets)
}

fn put(instance: &mut Instance, prefix: IpNet, route: &FibRoute) {
    // The route names no device.
    let nothing = NamespaceFacts::default();
    instance
        .put_route(prefix, Origin::Static, route, &nothing)
        .unwrap();
}

#[test]
fn growth_loses_no_prefix_and_no_packet() {
    alone(|| {
        let mut instance = Instance::create("one", here()).unwrap();
        let facts = facts();
        let small = instance.lines.table().unwrap().shape().full_at();
        for n in 0..10 {
            put(&mut instance, net(n), &FibRoute::Blackhole);
            count(&instance, net(n), 5);
        }
        // One is gone, and what it counted is remembered.
        instance.remove_route(net(3), Origin::Static).unwrap();
        let many: Vec<(IpNet, FibRoute)> = (100..100 + 2 * small)
            .map(|n| {
                let route = [FibRoute::Punt, FibRoute::Prohibit];
                (net(n), route[n as usize % 2].clone())
            })
            .collect();
        let mut done = 0;
        instance
            .put_routes(&many, Origin::Static, &facts, |more| done += more)
            .unwrap();
        assert_eq!(done, many.len() as u64);
        let large = instance.lines.table().unwrap().shape().full_at();
        assert!(large >= 2 * small, "{large} {small}");
        let other = 1 - instance.lines.generation();
        assert!(instance.lines.of(other).is_none(), "memory is given back");

        let mut firsts = 0;
        for (prefix, route) in many.iter().step_by(7) {
            let found = instance.get(prefix.addr(), &facts).unwrap().unwrap();
            assert_eq!((found.row.prefix, &found.row.route), (*prefix, route));
            assert!(!found.stale && found.counted, "{prefix}");
            let reader = instance.lines.table().unwrap().reader();
            firsts += usize::from(reader.find(key(*prefix)).is_some());
        }
        assert!(firsts * 100 > many.len() / 7 * 99, "stage 1 has {firsts}");
        for n in 0..10 {
            assert_eq!(counted(&instance, net(n)), (5, 10));
        }
        put(&mut instance, net(3), &FibRoute::Punt);
        count(&instance, net(3), 1);
        assert_eq!(counted(&instance, net(3)), (6, 12), "it is the same prefix");
        drop(instance);

        let mut instance = Instance::open(here()).unwrap().unwrap();
        let routes = instance.routes_of(Origin::Static, &facts).unwrap();
        assert_eq!(routes.len(), many.len() + 10);
        let wanted: BTreeMap<_, _> = many.iter().cloned().collect();
        assert!(wanted.iter().all(|(p, route)| routes.get(p) == Some(route)));
        // Again, and nothing is different.
        instance
            .put_routes(&many, Origin::Static, &facts, |_| {})
            .unwrap();
        assert_eq!(instance.routes_of(Origin::Static, &facts).unwrap(), routes);
    });
}

/// A writer that is killed while a new table takes over leaves both.
#[test]
fn the_next_writer_takes_up_what_the_old_table_counted() {
    alone(|| {
        let mut instance = Instance::create("one", here()).unwrap();
        for n in 0..4 {
            put(&mut instance, net(n), &FibRoute::Blackhole);
            count(&instance, net(n), 7);
        }
        // The new table is asked, the old one still there.
        instance.note().unwrap();
        instance.begin_renewal(0, 0).unwrap();
        count(&instance, net(1), 1);
        assert!(instance.lines.of(1 - instance.lines.generation()).is_some());
        assert_eq!(counted(&instance, net(1)), (8, 16), "both are counted");
        instance.torn = true;
        drop(instance);

        let instance = Instance::open(here()).unwrap().unwrap();
        assert!(instance.lines.of(1 - instance.lines.generation()).is_none());
        assert_eq!(counted(&instance, net(0)), (7, 14));
        assert_eq!(counted(&instance, net(1)), (8, 16));
        let table = instance.lines.table().unwrap();
        assert!((0..4).all(|n| table.reader().find(key(net(n))).is_some()));
    });
}

#[test]
fn a_prefix_with_longer_ones_inside_is_left_to_the_trie() {
    alone(|| {
        let capacity = Capacity {
            routes: 64,
            counters: 8,
        };
        let mut instance = Instance::create_with("one", here(), capacity).unwrap();
        let longer: IpNet = "2a02:1802::1/128".parse().unwrap();
        let prefix = net(0);
        let fib = |instance: &Instance, prefix| {
            let entry = instance.read_fib(&prefix_key(prefix)).unwrap().unwrap();
            let first = instance.lines.table().unwrap();
            let first = first.reader().find(key(net(0))).is_some();
            (entry.prefix_length, entry.action, first, entry.counter)
        };
        put(&mut instance, prefix, &FibRoute::Blackhole);
        count(&instance, prefix, 3);
        assert_eq!(fib(&instance, longer).0, 64);
        assert!(fib(&instance, prefix).2);
        put(&mut instance, longer, &FibRoute::Punt);
        assert_eq!(fib(&instance, longer).0, 128);
        let (length, _, first, counter) = fib(&instance, prefix);
        assert!(length == 64 && !first && counter != FibEntry::UNCOUNTED);
        instance.remove_route(longer, Origin::Static).unwrap();
        assert_eq!(fib(&instance, longer).0, 64);
        assert!(fib(&instance, prefix).2, "stage 1 answers again");
        assert_eq!(counted(&instance, prefix), (3, 6));
    });
}
