//! VLAN sub-interfaces as ports. What stands in for one here is a veth: the data plane goes by the
//! facts, and no kernel module is needed.

use netmesh_common::table::vlan_key;

use super::lab::{alone, facts, here, ip, tc_link, veth};
use crate::dataplane::object::Object;
use crate::dataplane::{Error, Instance, View};
use crate::plan::facts::{NamespaceFacts, Vlan};
use crate::plan::state::{Hook, Port, Sources};

/// The facts, with every `DEVICE.VID` a sub-interface.
fn with_vlans() -> NamespaceFacts {
    let mut facts = facts();
    let below = facts.clone();
    for (name, device) in &mut facts.devices {
        let Some((trunk, vid)) = name.split_once('.') else {
            continue;
        };
        device.kind = "vlan".into();
        device.vlan = below.devices.get(trunk).map(|below| Vlan {
            device: below.ifindex,
            vid: vid.parse().unwrap(),
        });
    }
    facts
}

const fn port(hook: Hook) -> Port {
    Port::new(hook, Sources::Any)
}

/// `name link` of every port whose device is there.
fn words(view: &View) -> Vec<String> {
    let rows = view.ports(&with_vlans()).unwrap();
    let mut words: Vec<String> = rows
        .into_iter()
        .filter_map(|row| Some(format!("{} {}", row.name?, row.link)))
        .collect();
    words.sort();
    words
}

/// Keys and devices of a device map.
type Devices = Vec<(u32, u32)>;

/// (port, device that sends), and (device, VID, port).
fn tables(view: &View) -> (Devices, Devices) {
    let mut tx: Devices = view
        .maps
        .tx
        .iter()
        .map(|item| item.map(|(key, value)| (key, value.if_index)).unwrap())
        .collect();
    let mut vlans: Devices = view
        .maps
        .vlans
        .iter()
        .map(|item| item.map(|(key, value)| (key, value.if_index)).unwrap())
        .collect();
    tx.sort_unstable();
    vlans.sort_unstable();
    (tx, vlans)
}

fn program_on(device: &str) -> bool {
    ip(&format!("link show {device}")).contains("prog/xdp id")
}

#[test]
fn ports_of_one_trunk_share_its_program() {
    alone(|| {
        veth("trunk", "end");
        veth("trunk.7", "end7");
        veth("trunk.8", "end8");
        let index = |name: &str| facts().devices[name].ifindex;
        let (trunk, seven, eight) = (index("trunk"), index("trunk.7"), index("trunk.8"));
        let mut instance = Instance::create("one", here()).unwrap();
        for name in ["trunk.7", "trunk.8"] {
            instance
                .attach(name, &port(Hook::Xdp), &with_vlans())
                .unwrap();
        }
        // Again, and what is there stays.
        instance
            .attach("trunk.7", &port(Hook::Xdp), &with_vlans())
            .unwrap();
        assert_eq!(words(&instance), ["trunk.7 xdpvlan", "trunk.8 xdpvlan"]);
        assert!(program_on("trunk"), "on the device below");
        assert!(!program_on("trunk.7"));
        let key = |vid| vlan_key(trunk, vid).unwrap();
        assert_eq!(
            tables(&instance),
            (
                vec![(seven, trunk), (eight, trunk)],
                vec![(key(7), seven), (key(8), eight)]
            )
        );
        let row = &instance.ports(&with_vlans()).unwrap()[0];
        assert!(
            row.warning.unwrap().contains("txvlan"),
            "a veth's other end"
        );

        instance
            .attach("trunk", &port(Hook::Tc), &with_vlans())
            .unwrap();
        instance.upgrade(here(), &Object::default()).unwrap();
        drop(instance);
        let mut instance = Instance::open(here()).unwrap().unwrap();
        let tc = format!("trunk {}", tc_link());
        assert_eq!(
            words(&instance),
            [tc.as_str(), "trunk.7 xdpvlan", "trunk.8 xdpvlan"]
        );

        instance.detach("trunk.7", &with_vlans()).unwrap();
        assert!(program_on("trunk"), "the other one needs it");
        assert_eq!(words(&instance), [tc.as_str(), "trunk.8 xdpvlan"]);
        assert_eq!(
            tables(&instance),
            (vec![(eight, trunk)], vec![(key(8), eight)])
        );

        // By another hook it is the sub-interface's own, and the trunk's programs pass its frames.
        instance
            .attach("trunk.8", &port(Hook::Tc), &with_vlans())
            .unwrap();
        assert!(!program_on("trunk"));
        assert_eq!(
            words(&instance),
            [tc.clone(), format!("trunk.8 {}", tc_link())]
        );
        assert_eq!(tables(&instance), (vec![], vec![(key(8), eight)]));
        instance
            .attach("trunk.8", &port(Hook::XdpGeneric), &with_vlans())
            .unwrap();
        assert!(!program_on("trunk"));
        assert_eq!(words(&instance), [tc.as_str(), "trunk.8 xdpgeneric"]);
        assert_eq!(
            tables(&instance),
            (vec![(eight, trunk)], vec![(key(8), eight)])
        );

        instance.detach("trunk.8", &with_vlans()).unwrap();
        assert_eq!(tables(&instance), (vec![], vec![]));
        assert_eq!(words(&instance), [tc]);
    });
}

#[test]
fn a_sub_interface_that_goes_leaves_nothing() {
    alone(|| {
        veth("trunk", "end");
        veth("trunk.7", "end7");
        veth("trunk.8", "end8");
        let mut instance = Instance::create("one", here()).unwrap();
        for name in ["trunk.7", "trunk.8"] {
            instance
                .attach(name, &port(Hook::Xdp), &with_vlans())
                .unwrap();
        }
        ip("link del trunk.7");
        assert_eq!(words(&instance), ["trunk.8 xdpvlan"]);
        assert_eq!(tables(&instance).1.len(), 1, "the kernel removes it");
        instance
            .attach("trunk.8", &port(Hook::Xdp), &with_vlans())
            .unwrap();
        assert!(program_on("trunk"));
        assert_eq!(instance.port_entries().len(), 1);

        // Somebody takes the program off behind our back: both know.
        ip("link del trunk");
        assert!(words(&instance).is_empty());
        instance.delete().unwrap();
    });
}

#[test]
fn the_trunk_itself_and_its_sub_interfaces_share_one_link() {
    alone(|| {
        // One that is no veth: its own switch says what becomes of tags.
        let plain = |takes_tags_off| {
            let mut facts = with_vlans();
            let trunk = facts.devices.get_mut("trunk").unwrap();
            trunk.kind = String::new();
            trunk.takes_tags_off = takes_tags_off;
            facts
        };
        veth("trunk", "end");
        veth("trunk.7", "end7");
        let mut instance = Instance::create("one", here()).unwrap();
        instance
            .attach("trunk.7", &port(Hook::Xdp), &plain(true))
            .unwrap();
        let refused = instance.attach("trunk", &port(Hook::Xdp), &plain(true));
        let refused = refused.unwrap_err();
        assert!(matches!(&refused, Error::TagsHidden { vlan, .. } if vlan == "trunk.7"));
        assert!(refused.to_string().contains("rxvlan off"), "{refused}");
        assert_eq!(words(&instance), ["trunk.7 xdpvlan"]);

        instance
            .attach("trunk", &port(Hook::Xdp), &plain(false))
            .unwrap();
        assert_eq!(words(&instance), ["trunk xdp", "trunk.7 xdpvlan"]);
        instance.detach("trunk.7", &plain(false)).unwrap();
        assert!(program_on("trunk"));
        // The other way round, by any hook: its frames might never reach it.
        for hook in [Hook::Xdp, Hook::XdpGeneric, Hook::Tc] {
            let refused = instance.attach("trunk.7", &port(hook), &plain(true));
            assert!(matches!(refused, Err(Error::TagsHidden { name, .. }) if name == "trunk"));
        }
        let rows = instance.ports(&plain(true)).unwrap();
        assert!(rows[0].warning.unwrap().contains("VLAN"));
        instance
            .attach("trunk.7", &port(Hook::Xdp), &plain(false))
            .unwrap();
        instance.detach("trunk", &plain(false)).unwrap();
        assert!(program_on("trunk"), "the sub-interface needs it");
        instance.detach("trunk.7", &plain(false)).unwrap();
        assert!(!program_on("trunk"));
    });
}

#[test]
fn what_xdp_cannot_stand_in_for_is_refused() {
    alone(|| {
        veth("trunk", "end");
        veth("trunk.7", "end7");
        let mut instance = Instance::create("one", here()).unwrap();
        // 802.1ad, or a device below that is elsewhere.
        let mut facts = with_vlans();
        facts.devices.get_mut("trunk.7").unwrap().vlan = None;
        // A VLAN on a VLAN.
        let mut stacked = with_vlans();
        stacked.devices.get_mut("trunk").unwrap().kind = "vlan".into();
        for facts in [&facts, &stacked] {
            for hook in [Hook::Xdp, Hook::XdpGeneric] {
                let refused = instance.attach("trunk.7", &port(hook), facts).unwrap_err();
                assert!(matches!(refused, Error::NoXdpBelow { .. }), "{refused}");
                assert!(refused.to_string().contains("--hook tc"), "{refused}");
            }
        }
        instance.attach("trunk.7", &port(Hook::Tc), &facts).unwrap();
        assert_eq!(tables(&instance), (vec![], vec![]));
        assert_eq!(words(&instance), [format!("trunk.7 {}", tc_link())]);
    });
}
