//! What user space remembers grows with the table, and costs nothing before.

use ipnet::{IpNet, Ipv6Net};
use netmesh_common::table::Origin;

use super::lab::{alone, facts, here};
use crate::dataplane::growing::FIRST;
use crate::dataplane::{Instance, View};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::FibRoute;

/// Hosts of one /64: each is noted in the RIB and inside its prefix.
fn host(n: u32) -> IpNet {
    let address = (0x2a02_1802_u128 << 96) + (u128::from(n) << 64) + 1;
    Ipv6Net::new(address.into(), 128).unwrap().into()
}

fn room(instance: &Instance, name: &str) -> u32 {
    let path = instance.path().join("maps").join(name);
    let info = aya::maps::MapInfo::from_pin(path).unwrap();
    info.max_entries()
}

fn put(instance: &mut Instance, n: u32) {
    // The route names no device.
    let nothing = NamespaceFacts::default();
    instance
        .put_route(host(n), Origin::Static, &FibRoute::Punt, &nothing)
        .unwrap();
}

#[test]
fn one_route_more_than_there_is_room_for_makes_room() {
    alone(|| {
        let mut instance = Instance::create("one", here()).unwrap();
        for name in ["RIB", "INSIDE", "KEPT"] {
            assert_eq!(room(&instance, name), FIRST, "{name}");
        }
        let many: Vec<(IpNet, FibRoute)> = (0..FIRST / 2)
            .map(|n| (host(n), FibRoute::Blackhole))
            .collect();
        instance
            .put_routes(&many, Origin::Static, &facts(), |_| {})
            .unwrap();
        for n in FIRST / 2..FIRST {
            put(&mut instance, n);
        }
        assert_eq!(room(&instance, "RIB"), FIRST, "exactly full");
        // Of a writer that was killed before its rename.
        let maps = instance.path().join("maps");
        let next = maps.join("RIB_next");
        let rib = aya::maps::MapData::from_pin(maps.join("RIB")).unwrap();
        rib.pin(&next).unwrap();
        let before = View::open(here()).unwrap().unwrap();
        put(&mut instance, FIRST);
        assert_eq!(room(&instance, "RIB"), 4 * FIRST);
        assert_eq!(room(&instance, "INSIDE"), 4 * FIRST);
        assert!(!next.exists(), "nothing is left behind");
        assert_eq!(before.routes(&facts()).unwrap().len(), FIRST as usize);
        // The writer goes on with the new one, and so does the next.
        put(&mut instance, FIRST + 1);
        instance.remove_route(host(0), Origin::Static).unwrap();
        drop(instance);
        let mut instance = Instance::open(here()).unwrap().unwrap();
        let routes = instance.routes_of(Origin::Static, &facts()).unwrap();
        assert_eq!(routes.len(), FIRST as usize + 1);
        assert!(!routes.contains_key(&host(0)));
        for n in [1, FIRST / 2, FIRST - 1, FIRST, FIRST + 1] {
            assert!(routes.contains_key(&host(n)), "{n}");
        }
        put(&mut instance, FIRST + 2);
        // The next writer removes it also where there is room.
        let rib = aya::maps::MapData::from_pin(maps.join("RIB")).unwrap();
        rib.pin(&next).unwrap();
        drop(instance);
        std::fs::create_dir_all(before.path().join("dirty")).unwrap();
        drop(Instance::open(here()).unwrap().unwrap());
        assert!(!next.exists(), "nothing is left behind");
    });
}

#[test]
fn many_routes_at_once_make_room_once() {
    alone(|| {
        let mut instance = Instance::create("one", here()).unwrap();
        let count = 10 * FIRST;
        let many: Vec<(IpNet, FibRoute)> = (0..count).map(|n| (host(n), FibRoute::Punt)).collect();
        instance
            .put_routes(&many, Origin::Fpm, &facts(), |_| {})
            .unwrap();
        let routes = instance.routes_of(Origin::Fpm, &facts()).unwrap();
        assert_eq!(routes.len(), count as usize);
        assert_eq!(room(&instance, "RIB"), 16 * FIRST);
        instance
            .put_routes(&many, Origin::Fpm, &facts(), |_| {})
            .unwrap();
        assert_eq!(room(&instance, "RIB"), 16 * FIRST, "the same again");
        let found = instance.get(host(7).addr(), &facts()).unwrap().unwrap();
        assert!(!found.stale);
    });
}
