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

fn answered_first(instance: &Instance, prefix: IpNet) -> bool {
    let table = instance.lines.table().unwrap();
    table.reader().find(key(prefix)).is_some()
}

fn in_trie(instance: &Instance, prefix: IpNet) -> bool {
    instance.in_trie(&prefix_key(prefix)).unwrap().is_some()
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
            let first = answered_first(&instance, *prefix);
            assert_eq!(in_trie(&instance, *prefix), !first, "{prefix}");
            firsts += usize::from(first);
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
        assert!(!in_trie(&instance, prefix), "in one stage only");
        put(&mut instance, longer, &FibRoute::Punt);
        assert_eq!(fib(&instance, longer).0, 128);
        let (length, _, first, counter) = fib(&instance, prefix);
        assert!(length == 64 && !first && counter != FibEntry::UNCOUNTED);
        assert!(in_trie(&instance, prefix));
        instance.remove_route(longer, Origin::Static).unwrap();
        assert_eq!(fib(&instance, longer).0, 64);
        assert!(fib(&instance, prefix).2, "stage 1 answers again");
        drop(instance);
        let mut instance = Instance::open(here()).unwrap().unwrap();
        assert!(!in_trie(&instance, prefix), "readers have been waited for");
        assert_eq!(instance.notes().unwrap(), []);
        // While both hold it, all it can be changed to is seen at once.
        for route in [FibRoute::Prohibit, FibRoute::Punt] {
            put(&mut instance, longer, &FibRoute::Punt);
            instance.remove_route(longer, Origin::Static).unwrap();
            assert!(in_trie(&instance, prefix) && fib(&instance, prefix).2);
            put(&mut instance, prefix, &route);
            let found = instance.get(prefix.addr(), &facts()).unwrap().unwrap();
            assert!(found.row.route == route && !found.stale);
        }
        instance.remove_route(prefix, Origin::Static).unwrap();
        assert!(!in_trie(&instance, prefix) && !fib_has(&instance, prefix));
        put(&mut instance, prefix, &FibRoute::Blackhole);
        instance.retire().unwrap();
        assert!(answered_first(&instance, prefix) && !in_trie(&instance, prefix));
        assert_eq!(counted(&instance, prefix), (3, 6));
    });
}

fn fib_has(instance: &Instance, prefix: IpNet) -> bool {
    let entry = instance.read_fib(&prefix_key(prefix)).unwrap();
    entry.is_some_and(|entry| entry.prefix_length == prefix.prefix_len())
}

/// What the trie holds for want of room comes to stage 1 with a larger table, and what finds no
/// room there is in the trie before that is asked.
#[test]
fn growth_moves_what_there_is_room_for() {
    alone(|| {
        let mut instance = Instance::create("one", here()).unwrap();
        let full = instance.lines.table().unwrap().shape().full_at();
        // More than half full, as no table is left: some find no room.
        let many: Vec<IpNet> = (0..full - 1).map(net).collect();
        let routes: Vec<_> = many
            .iter()
            .map(|prefix| (*prefix, FibRoute::Punt))
            .collect();
        instance
            .put_routes(&routes, Origin::Static, &facts(), |_| {})
            .unwrap();
        // As if it had found no room.
        let out: Vec<IpNet> = (0..3).map(net).collect();
        for prefix in &out {
            let class = netmesh_common::lines::Class {
                next_hop: 0,
                action: netmesh_common::table::Action::Punt as u8,
                origin: Origin::Static as u8,
            };
            let key = key(*prefix);
            netmesh_common::lines::copy_out(&mut instance, key, class).unwrap();
            instance.lines.table().unwrap().kill(key);
            assert!(in_trie(&instance, *prefix) && !answered_first(&instance, *prefix));
        }
        instance.renew(full, 0).unwrap();
        for prefix in &out {
            assert!(answered_first(&instance, *prefix) && in_trie(&instance, *prefix));
        }
        instance.retire().unwrap();
        for prefix in &many {
            let first = answered_first(&instance, *prefix);
            assert!(in_trie(&instance, *prefix) != first, "{prefix}");
            assert!(fib_has(&instance, *prefix));
        }
        assert!(out.iter().all(|prefix| answered_first(&instance, *prefix)));
    });
}
