//! RIB and FIB: preference, replacement, counters, full tables, killed writers.

use ipnet::IpNet;
use netmesh_common::table::{FibEntry, Origin};

use super::lab::{alone, eventually, facts, here, ip, towards, veth};
use crate::dataplane::fib::rib_key_of;
use crate::dataplane::route::prefix_key;
use crate::dataplane::{Capacity, Error, Instance, View};
use crate::plan::state::FibRoute;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// The route the FIB itself holds for exactly this prefix.
fn in_fib(instance: &Instance, prefix: IpNet) -> Option<FibEntry> {
    instance
        .read_fib(&prefix_key(prefix))
        .unwrap()
        .filter(|entry| entry.prefix_length == prefix.prefix_len())
}

#[test]
fn the_preferred_origin_stands_in_the_fib() {
    alone(|| {
        for prefix in [net("2001:db8:1::/64"), net("10.1.0.0/24")] {
            let mut instance = Instance::create("one", here()).unwrap();
            let facts = facts();
            let address = prefix.hosts().next().unwrap();
            let now = |instance: &Instance| {
                let found = instance.get(address, &facts).unwrap();
                let found = found.inspect(|found| assert!(!found.stale))?;
                let entry = in_fib(instance, prefix).unwrap();
                assert_eq!(entry.origin, found.row.origin as u8);
                Some((found.row.origin, found.row.route))
            };
            assert_eq!(now(&instance), None);
            let put = |instance: &mut Instance, origin, route: &FibRoute| {
                instance.put_route(prefix, origin, route, &facts).unwrap();
            };
            put(&mut instance, Origin::Fpm, &FibRoute::Blackhole);
            assert_eq!(now(&instance), Some((Origin::Fpm, FibRoute::Blackhole)));
            put(&mut instance, Origin::Object, &FibRoute::Prohibit);
            assert_eq!(now(&instance), Some((Origin::Object, FibRoute::Prohibit)));
            put(&mut instance, Origin::Static, &FibRoute::Punt);
            assert_eq!(now(&instance), Some((Origin::Object, FibRoute::Prohibit)));
            put(&mut instance, Origin::Object, &FibRoute::Unreachable);
            assert_eq!(
                now(&instance),
                Some((Origin::Object, FibRoute::Unreachable))
            );
            instance.remove_route(prefix, Origin::Object).unwrap();
            assert_eq!(now(&instance), Some((Origin::Static, FibRoute::Punt)));
            instance.remove_route(prefix, Origin::Static).unwrap();
            instance.remove_route(prefix, Origin::Fpm).unwrap();
            assert_eq!(now(&instance), None);
            assert!(in_fib(&instance, prefix).is_none());
            assert!(matches!(
                instance.remove_route(prefix, Origin::Fpm),
                Err(Error::NoRoute { .. })
            ));
        }
    });
}

#[test]
fn the_longest_prefix_wins() {
    alone(|| {
        let mut instance = Instance::create("one", here()).unwrap();
        let facts = facts();
        for (prefix, route) in [
            ("::/0", FibRoute::Punt),
            ("2001:db8::/32", FibRoute::Unreachable),
            ("2001:db8:1::/48", FibRoute::Blackhole),
        ] {
            instance
                .put_route(net(prefix), Origin::Static, &route, &facts)
                .unwrap();
        }
        let at = |address: &str| {
            let found = instance.get(address.parse().unwrap(), &facts).unwrap();
            let found = found.unwrap();
            assert!(!found.stale && found.counted);
            found.row.prefix.to_string()
        };
        assert_eq!(at("2001:db8:1::9"), "2001:db8:1::/48");
        assert_eq!(at("2001:db8:2::9"), "2001:db8::/32");
        assert_eq!(at("2001:db9::9"), "::/0");
        assert!(
            instance
                .get([10, 0, 0, 1].into(), &facts)
                .unwrap()
                .is_none()
        );
    });
}

#[test]
fn a_counter_belongs_to_its_prefix() {
    alone(|| {
        let mut instance = Instance::create("one", here()).unwrap();
        let facts = facts();
        let (a, b) = (net("2001:db8:a::/64"), net("2001:db8:b::/64"));
        let put = |instance: &mut Instance, prefix, route: &FibRoute| {
            let origin = Origin::Object;
            instance.put_route(prefix, origin, route, &facts).unwrap();
            in_fib(instance, prefix).unwrap().counter
        };
        let of_a = put(&mut instance, a, &FibRoute::Blackhole);
        let of_b = put(&mut instance, b, &FibRoute::Blackhole);
        assert_ne!(of_a, of_b);
        assert_eq!(put(&mut instance, a, &FibRoute::Punt), of_a);
        instance.remove_route(a, Origin::Object).unwrap();
        assert!(towards(&instance).contains_key("2001:db8:a::/64"));
        drop(instance);

        let mut instance = Instance::open(here()).unwrap().unwrap();
        assert_ne!(
            put(&mut instance, net("2001:db8:c::/64"), &FibRoute::Punt),
            of_a
        );
        assert_eq!(put(&mut instance, a, &FibRoute::Punt), of_a);
    });
}

#[test]
fn counters_are_given_away_only_when_all_are_taken() {
    alone(|| {
        let capacity = Capacity {
            routes: 16,
            counters: 2,
        };
        let mut instance = Instance::create_with("one", here(), capacity).unwrap();
        assert_eq!(instance.capacity(), capacity);
        let facts = facts();
        let nets = [1, 2, 3].map(|n| net(&format!("2001:db8:{n}::/48")));
        let put = |instance: &mut Instance, n: usize, origin| {
            instance.put_route(nets[n], origin, &FibRoute::Punt, &facts)
        };
        put(&mut instance, 0, Origin::Object).unwrap();
        put(&mut instance, 1, Origin::Object).unwrap();
        // An object's prefix is counted or refused, and a refusal leaves nothing behind.
        assert!(matches!(
            put(&mut instance, 2, Origin::Object),
            Err(Error::Full { capacity: 2, .. })
        ));
        assert_eq!(instance.routes(&facts).unwrap().len(), 2);
        assert!(in_fib(&instance, nets[2]).is_none());
        // A learned one is forwarded uncounted.
        put(&mut instance, 2, Origin::Fpm).unwrap();
        let counter = in_fib(&instance, nets[2]).unwrap().counter;
        assert_eq!(counter, FibEntry::UNCOUNTED);
        let first = in_fib(&instance, nets[0]).unwrap().counter;

        instance.remove_route(nets[0], Origin::Object).unwrap();
        put(&mut instance, 2, Origin::Object).unwrap();
        assert_eq!(in_fib(&instance, nets[2]).unwrap().counter, first);
        let counted: Vec<String> = towards(&instance).into_keys().collect();
        assert_eq!(counted, ["2001:db8:2::/48", "2001:db8:3::/48"]);
        // The prefix that had it is a new one now.
        put(&mut instance, 0, Origin::Static).unwrap();
        let counter = in_fib(&instance, nets[0]).unwrap().counter;
        assert_eq!(counter, FibEntry::UNCOUNTED);
    });
}

#[test]
fn a_full_table_says_so_and_stays_whole() {
    alone(|| {
        let capacity = Capacity {
            routes: 4,
            counters: 64,
        };
        let mut instance = Instance::create_with("one", here(), capacity).unwrap();
        let facts = facts();
        let mut refused = None;
        for n in 0..6 {
            let prefix = net(&format!("2001:db8:{n}::/64"));
            let result = instance.put_route(prefix, Origin::Object, &FibRoute::Punt, &facts);
            if let Err(error) = result {
                refused = Some((n, error));
                break;
            }
        }
        let (n, error) = refused.unwrap();
        assert_eq!(n, 4);
        assert!(matches!(error, Error::Full { capacity: 4, .. }), "{error}");
        assert!(error.to_string().contains("aggregates"));
        assert_eq!(instance.routes(&facts).unwrap().len(), 4);
        // What is there can still be changed.
        let first = net("2001:db8:0::/64");
        instance
            .put_route(first, Origin::Object, &FibRoute::Blackhole, &facts)
            .unwrap();
        let found = instance.get(first.addr(), &facts).unwrap().unwrap();
        assert_eq!(found.row.route, FibRoute::Blackhole);
    });
}

#[test]
fn the_next_writer_mends_what_a_killed_one_left() {
    alone(|| {
        let facts = facts();
        let (a, b) = (net("2001:db8:a::/64"), net("2001:db8:b::/64"));
        let mut instance = Instance::create("one", here()).unwrap();
        for prefix in [a, b] {
            instance
                .put_route(prefix, Origin::Object, &FibRoute::Blackhole, &facts)
                .unwrap();
        }
        assert!(instance.path().join("dirty").exists());
        drop(instance);

        // Between the two writes of a removal, of a new route, and of a change.
        let mut instance = Instance::open(here()).unwrap().unwrap();
        assert!(!instance.path().join("dirty").exists(), "a clean end");
        instance.note().unwrap();
        instance.erase_fib(&prefix_key(a)).unwrap();
        instance
            .put_route(b, Origin::Fpm, &FibRoute::Punt, &facts)
            .unwrap();
        let of_b = rib_key_of(&prefix_key(b), Origin::Object);
        instance.erase_rib(&of_b).unwrap();
        instance.torn = true;
        drop(instance);

        let view = View::open(here()).unwrap().unwrap();
        assert!(view.get(b.addr(), &facts).unwrap().unwrap().stale);
        let instance = Instance::open(here()).unwrap().unwrap();
        assert!(in_fib(&instance, a).is_some());
        assert_eq!(in_fib(&instance, b).unwrap().origin, Origin::Fpm as u8);
        drop(instance);
        assert!(!view.path().join("dirty").exists());
    });
}

/// Changes routes until it is killed; run by the test below as a process of its own.
#[test]
#[ignore = "never ends; `a_killed_writer_leaves_nothing_torn` runs and kills it"]
fn a_writer_to_be_killed() {
    if std::env::var_os("NETMESH_TEST_VICTIM").is_none() {
        return;
    }
    let mut instance = Instance::open(here()).unwrap().unwrap();
    let facts = facts();
    for n in 0.. {
        let prefix = net(&format!("2001:db8:{:x}::/64", n % 64));
        let origin = [Origin::Object, Origin::Static][n / 64 % 2];
        let _ = instance.remove_route(prefix, origin);
        let route = [FibRoute::Punt, FibRoute::Blackhole, FibRoute::Prohibit];
        instance
            .put_route(prefix, origin, &route[n % 3], &facts)
            .unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_nothing_torn() {
    alone(|| {
        drop(Instance::create("one", here()).unwrap());
        let facts = facts();
        for round in 0..20 {
            let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "dataplane::tests::route::a_writer_to_be_killed"])
                .args(["--ignored", "--test-threads=1"])
                .env("NETMESH_TEST_VICTIM", "1")
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let view = View::open(here()).unwrap().unwrap();
            eventually("the writer at work", || view.path().join("dirty").exists());
            std::thread::sleep(std::time::Duration::from_micros(1700 * round));
            victim.kill().unwrap();
            victim.wait().unwrap();

            let instance = Instance::open(here()).unwrap().unwrap();
            let routes = instance.routes(&facts).unwrap();
            let active: Vec<_> = routes.iter().filter(|row| row.active).collect();
            for row in &active {
                let entry = in_fib(&instance, row.prefix).unwrap();
                assert_eq!(entry.origin, row.origin as u8, "{row:?}");
                let found = instance.get(row.prefix.addr(), &facts).unwrap();
                assert!(!found.unwrap().stale);
            }
            // And nothing that no route asks for.
            for n in 0..64 {
                let prefix = net(&format!("2001:db8:{n:x}::/64"));
                let wanted = active.iter().any(|row| row.prefix == prefix);
                assert_eq!(in_fib(&instance, prefix).is_some(), wanted, "{prefix}");
            }
        }
    });
}

#[test]
fn connected_routes_follow_the_addresses() {
    alone(|| {
        veth("p0", "p1");
        ip("address add 2001:db8::1/64 dev p0 nodad");
        ip("address add 10.0.0.1/24 dev p0");
        let mut instance = Instance::create("one", here()).unwrap();
        instance.set_connected(&facts()).unwrap();
        let words = |instance: &Instance| -> Vec<String> {
            let routes = instance.routes_of(Origin::Connected, &facts()).unwrap();
            routes.keys().map(ToString::to_string).collect()
        };
        let v4 = ["10.0.0.0/24", "10.0.0.1/32", "10.0.0.255/32"];
        let v6 = ["2001:db8::/64", "2001:db8::/128", "2001:db8::1/128"];
        assert_eq!(words(&instance), [v4, v6].concat());
        let subnet = instance.get("10.0.0.7".parse().unwrap(), &facts()).unwrap();
        let link = "p0".to_owned();
        assert_eq!(subnet.unwrap().row.route, FibRoute::Connected { link });

        ip("address del 10.0.0.1/24 dev p0");
        instance.set_connected(&facts()).unwrap();
        assert_eq!(words(&instance), v6);
    });
}

#[test]
fn a_route_whose_device_is_gone_is_another_route() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        let route = FibRoute::Via {
            gateway: Some("fe80::1".parse().unwrap()),
            link: "p0".into(),
        };
        let prefix = net("2001:db8::/64");
        let now = |instance: &Instance| {
            let mut routes = instance.routes_of(Origin::Object, &facts()).unwrap();
            routes.remove(&prefix).unwrap()
        };
        instance
            .put_route(prefix, Origin::Object, &route, &facts())
            .unwrap();
        assert_eq!(now(&instance), route);
        ip("link del p0");
        assert_ne!(now(&instance), route);
        veth("p0", "p1");
        assert_ne!(now(&instance), route);
        instance
            .put_route(prefix, Origin::Object, &route, &facts())
            .unwrap();
        assert_eq!(now(&instance), route);
    });
}
