//! The follower: link-layer addresses of next hops change with the kernel's neighbours.

use ipnet::IpNet;
use netmesh_common::table::Origin;

use super::lab::{Machine, alone, eventually, facts, here, ip, mac, veth};
use crate::dataplane::Instance;
use crate::plan::state::FibRoute;

const PREFIX: &str = "2001:db8:b::/64";
const GATEWAY: &str = "2001:db8::2";

fn put(instance: &mut Instance, gateway: &str) {
    let route = FibRoute::Via {
        gateway: Some(gateway.parse().unwrap()),
        link: "p0".into(),
    };
    instance
        .put_route(PREFIX.parse().unwrap(), Origin::Object, &route, &facts())
        .unwrap();
}

fn link_address(instance: &Instance) -> Option<[u8; 6]> {
    let prefix: IpNet = PREFIX.parse().unwrap();
    let found = instance.get(prefix.addr(), &facts()).unwrap().unwrap();
    assert_eq!(found.row.resolved, Some(found.link_address.is_some()));
    found.link_address
}

fn neigh(words: &str) {
    ip(&format!("neigh {words}"));
}

#[test]
fn a_next_hop_starts_as_the_kernel_knows_it() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        neigh(&format!(
            "add {GATEWAY} lladdr 02:00:00:00:00:01 dev p0 nud stale"
        ));
        put(&mut instance, GATEWAY);
        assert_eq!(link_address(&instance), Some(mac("02:00:00:00:00:01")));
        neigh("add 10.0.0.2 lladdr 02:00:00:00:00:04 dev p0 nud permanent");
        put(&mut instance, "10.0.0.2");
        assert_eq!(link_address(&instance), Some(mac("02:00:00:00:00:04")));
        put(&mut instance, "2001:db8::77");
        assert_eq!(link_address(&instance), None);
        neigh("add 10.0.0.3 lladdr 02:00:00:00:00:05 dev p0 nud noarp");
        put(&mut instance, "10.0.0.3");
        assert_eq!(link_address(&instance), Some(mac("02:00:00:00:00:05")));
    });
}

#[test]
fn a_device_that_goes_down_takes_its_neighbours_along() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        put(&mut instance, GATEWAY);
        for (state, last) in [("noarp", 1), ("permanent", 2), ("stale", 3)] {
            let address = format!("02:00:00:00:00:{last:02x}");
            neigh(&format!(
                "replace {GATEWAY} lladdr {address} dev p0 nud {state}"
            ));
            eventually(state, || link_address(&instance) == Some(mac(&address)));
            // Entries die here without a change of state of their own.
            ip("link set p0 down");
            eventually("the end of the neighbour", || {
                link_address(&instance).is_none()
            });
            ip("link set p0 up");
        }
    });
}

#[test]
fn a_change_is_followed_and_another_namespace_is_not() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        put(&mut instance, GATEWAY);
        assert_eq!(link_address(&instance), None);
        let becomes = |instance: &Instance, wanted: Option<&str>| {
            let wanted = wanted.map(mac);
            eventually("the follower", || link_address(instance) == wanted);
        };
        neigh(&format!(
            "replace {GATEWAY} lladdr 02:00:00:00:00:01 dev p0 nud reachable"
        ));
        becomes(&instance, Some("02:00:00:00:00:01"));
        neigh(&format!(
            "replace {GATEWAY} lladdr 02:00:00:00:00:02 dev p0 nud permanent"
        ));
        becomes(&instance, Some("02:00:00:00:00:02"));

        // The same index, the same address, another namespace.
        let index = facts().devices["p0"].ifindex;
        let machine = Machine::new();
        machine.ip(&format!(
            "link add name q0 index {index} type veth peer name q1"
        ));
        machine.ip("link set q0 up");
        machine.ip(&format!(
            "neigh replace {GATEWAY} lladdr 02:00:00:00:00:99 dev q0 nud permanent"
        ));
        assert_eq!(link_address(&instance), Some(mac("02:00:00:00:00:02")));

        neigh(&format!("del {GATEWAY} dev p0"));
        becomes(&instance, None);
        // Followed by nobody but the kernel: no instance is open.
        drop(instance);
        neigh(&format!(
            "replace {GATEWAY} lladdr 02:00:00:00:00:03 dev p0 nud permanent"
        ));
        let instance = Instance::open(here()).unwrap().unwrap();
        becomes(&instance, Some("02:00:00:00:00:03"));
    });
}

#[test]
fn a_repair_catches_up_and_frees_what_nothing_uses() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        put(&mut instance, GATEWAY);
        // Nobody follows.
        for link in ["neigh_update_done", "neigh_timer_handler", "neigh_cleanup"] {
            std::fs::remove_file(instance.path().join("links").join(link)).unwrap();
        }
        assert!(matches!(
            instance.follower().unwrap(),
            crate::dataplane::neighbour::Follower::Missing { reason } if reason.contains("refused")
        ));
        // A link is detached when the last reference is gone, which takes a moment.
        let mut n = 0_u8;
        eventually("the end of the follower", || {
            let before = link_address(&instance);
            n += 1;
            neigh(&format!(
                "replace {GATEWAY} lladdr 02:00:00:00:00:{n:02x} dev p0 nud permanent"
            ));
            link_address(&instance) == before
        });
        instance.repair(&facts()).unwrap();
        let now = format!("02:00:00:00:00:{n:02x}");
        assert_eq!(link_address(&instance), Some(mac(&now)));

        ip("link set p0 mtu 1400");
        instance.repair(&facts()).unwrap();
        let used = |instance: &Instance| {
            let hops: Vec<_> = instance.maps.next_hops.iter().map(Result::unwrap).collect();
            hops.into_iter()
                .filter(|hop| hop.ifindex != 0)
                .collect::<Vec<_>>()
        };
        assert_eq!(used(&instance).len(), 1);
        assert_eq!(used(&instance)[0].mtu, 1400);
        instance
            .remove_route(PREFIX.parse().unwrap(), Origin::Object)
            .unwrap();
        instance.repair(&facts()).unwrap();
        assert!(used(&instance).is_empty());
        assert_eq!(instance.maps.neighbours.keys().count(), 0);
    });
}
