//! Pins: made, found again, checked, left by crashes, removed.

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use aya::maps::MapData;
use netmesh_common::table::Origin;

use super::lab::{Machine, alone, facts, here};
use crate::dataplane::neighbour::Follower;
use crate::dataplane::pin::{self, Folder};
use crate::dataplane::{Capacity, Error, Instance, View};
use crate::plan::state::FibRoute;

#[test]
fn what_is_loaded_is_found_again() {
    alone(|| {
        assert!(View::open(here()).unwrap().is_none());
        let prefix = "2001:db8:1::/48".parse().unwrap();
        let mut instance = Instance::create("nm.one", here()).unwrap();
        instance
            .put_route(prefix, Origin::Static, &FibRoute::Blackhole, &facts())
            .unwrap();
        drop(instance);

        let view = View::open(here()).unwrap().unwrap();
        assert_eq!(view.name(), "nm.one");
        assert_eq!(view.follower().unwrap(), Follower::Follows);
        assert_eq!(view.routes(&facts()).unwrap()[0].prefix, prefix);
        assert_eq!(view.capacity(), Capacity::default());

        // Loading it once more keeps everything.
        let again = Instance::create("nm.one", here()).unwrap();
        assert_eq!(again.routes(&facts()).unwrap().len(), 1);
        drop(again);
        assert!(matches!(
            Instance::create("two", here()).err().unwrap(),
            Error::Served { name, .. } if name == "nm.one"
        ));
        assert_eq!(Folder::list().unwrap().len(), 1);

        Instance::open(here()).unwrap().unwrap().delete().unwrap();
        assert!(View::open(here()).unwrap().is_none());
        assert!(pin::entries(&pin::root()).unwrap().is_empty());
    });
}

#[test]
fn a_namespace_sees_only_its_own() {
    alone(|| {
        let mut instance = Instance::create("one", here()).unwrap();
        let machine = Machine::new();
        assert!(machine.run(|| View::open(here()).unwrap().is_none()));
        // Interface indexes mean other devices there.
        let route = FibRoute::Connected { link: "lo".into() };
        let refused = machine.run(|| {
            instance.put_route(
                "2001:db8::/64".parse().unwrap(),
                Origin::Static,
                &route,
                &facts(),
            )
        });
        assert!(matches!(refused, Err(Error::Elsewhere { .. })));
        assert!(instance.routes(&facts()).unwrap().is_empty());
    });
}

#[test]
fn names_that_cannot_be_pinned_are_refused() {
    alone(|| {
        for name in ["", "a/b", "a@1", "a%b", "a b"] {
            assert!(matches!(
                Instance::create(name, here()).err().unwrap(),
                Error::Name { .. }
            ));
        }
    });
}

#[test]
fn what_crashes_left_is_no_instance_and_is_cleared() {
    alone(|| {
        let cookie = here().cookie;
        for left in ["new-one", "old-one"] {
            let path = pin::root().join(format!("{left}@{cookie:x}"));
            fs::create_dir_all(path.join("maps")).unwrap();
        }
        assert!(View::open(here()).unwrap().is_none());
        drop(Instance::create("one", here()).unwrap());
        assert_eq!(
            pin::entries(&pin::root()).unwrap(),
            [format!("one@{cookie:x}")]
        );
    });
}

#[test]
fn a_map_of_another_shape_is_refused() {
    alone(|| {
        let instance = Instance::create("one", here()).unwrap();
        let folder = instance.path().to_owned();
        drop(instance);
        let swap = |victim: &str, with: &str| {
            let (victim, with) = (
                folder.join("maps").join(victim),
                folder.join("maps").join(with),
            );
            let original = MapData::from_pin(&victim).unwrap();
            fs::remove_file(&victim).unwrap();
            MapData::from_pin(with).unwrap().pin(&victim).unwrap();
            let error = View::open(here()).err().unwrap();
            let writer = Instance::open(here()).err().unwrap();
            assert_eq!(error.to_string(), writer.to_string());
            fs::remove_file(&victim).unwrap();
            original.pin(&victim).unwrap();
            let Error::Incompatible { map, field, .. } = error else {
                panic!("{error}");
            };
            (map, field)
        };
        assert_eq!(
            swap("NEIGHBOURS", "COUNTER_IDS"),
            ("NEIGHBOURS", "key size")
        );
        assert_eq!(swap("NEXT_HOPS", "PORT_CNT"), ("NEXT_HOPS", "type"));
        assert_eq!(swap("PREFIX_CNT", "PORT_CNT"), ("PREFIX_CNT", "value size"));
        assert!(View::open(here()).unwrap().is_some());
    });
}

#[test]
fn writers_wait_for_each_other_and_readers_do_not() {
    alone(|| {
        let first = Instance::create("one", here()).unwrap();
        let namespace = here();
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                let second = Instance::open(namespace).unwrap();
                sender.send(second.is_some()).unwrap();
            });
            assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err());
            assert!(View::open(namespace).unwrap().is_some());
            drop(first);
            assert!(receiver.recv_timeout(Duration::from_secs(5)).unwrap());
        });
    });
}

#[test]
fn a_writer_that_waited_for_a_removal_finds_nothing() {
    alone(|| {
        let first = Instance::create("one", here()).unwrap();
        let namespace = here();
        thread::scope(|scope| {
            let second = scope.spawn(move || Instance::open(namespace).unwrap().is_none());
            thread::sleep(Duration::from_millis(100));
            first.delete().unwrap();
            assert!(second.join().unwrap());
        });
    });
}
