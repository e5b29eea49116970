//! Ports: attached, adopted, changed, detached, gone with their devices.

use std::fs;
use std::os::fd::AsFd as _;

use aya::programs::ProgramInfo;
use netmesh_common::table::Port as PortEntry;

use super::lab::{Machine, alone, eventually, facts, here, ip, tc, tc_link, veth};
use crate::dataplane::object::Object;
use crate::dataplane::{Error, Instance, View, pin, sys};
use crate::plan::state::{Hook, Port, Sources};

const XDP: Port = Port::new(Hook::Xdp, Sources::Any);
const TC: Port = Port::new(Hook::Tc, Sources::Behind);

/// `name link sources` of every port whose device is there.
fn words(view: &View) -> Vec<String> {
    let rows = view.ports(&facts()).unwrap();
    rows.into_iter()
        .filter_map(|row| Some(format!("{} {} {:?}", row.name?, row.link, row.port.sources)))
        .collect()
}

fn program_on(view: &View, pin: &str) -> u32 {
    let link = sys::open(&view.path().join("links").join(pin)).unwrap();
    sys::link_facts(link.as_fd()).unwrap().program
}

#[test]
fn a_port_outlives_its_writer_and_is_adopted() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        instance.attach("p0", &XDP, &facts()).unwrap();
        drop(instance);
        assert!(ip("link show p0").contains("prog/xdp id"));

        let mut instance = Instance::open(here()).unwrap().unwrap();
        let pin = format!("xdp-{}", facts().devices["p0"].ifindex);
        let program = program_on(&instance, &pin);
        let pinned = fs::metadata(instance.path().join("links").join(&pin)).unwrap();
        instance.attach("p0", &XDP, &facts()).unwrap();
        let again = fs::metadata(instance.path().join("links").join(&pin)).unwrap();
        assert_eq!(pinned.modified().unwrap(), again.modified().unwrap());
        assert_eq!(program, program_on(&instance, &pin));
        assert_eq!(words(&instance), ["p0 xdp Any"]);
        let row = &instance.ports(&facts()).unwrap()[0];
        let warning = row.warning.unwrap();
        for word in ["NAPI", "whole checksums"] {
            assert!(warning.contains(word), "a veth's other end: {warning}");
        }

        instance.detach("p0", &facts()).unwrap();
        assert!(!ip("link show p0").contains("xdp"));
        assert!(instance.port_entries().is_empty());
        assert_eq!(instance.maps.tx.keys().count(), 0);
        instance.detach("p0", &facts()).unwrap();
    });
}

#[test]
fn hooks_and_sources_change() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        let mut put = |hook, sources| {
            let port = Port::new(hook, sources);
            instance.attach("p0", &port, &facts()).unwrap();
            let targets = instance.maps.tx.keys().count();
            (words(&instance).join(" "), targets, ip("-d link show p0"))
        };
        let (now, targets, link) = put(Hook::Tc, Sources::External);
        assert_eq!((now, targets), (format!("p0 {} External", tc_link()), 0));
        assert!(!link.contains("prog/xdp"));
        let (now, targets, link) = put(Hook::Xdp, Sources::Behind);
        assert_eq!((now.as_str(), targets), ("p0 xdp Behind", 1));
        assert!(link.contains("xdp ") || link.contains("prog/xdp"), "{link}");
        let (now, targets, link) = put(Hook::XdpGeneric, Sources::Behind);
        assert_eq!((now.as_str(), targets), ("p0 xdpgeneric Behind", 1));
        assert!(link.contains("xdpgeneric"), "{link}");
        let (now, targets, link) = put(Hook::Tc, Sources::Any);
        assert_eq!((now, targets), (format!("p0 {} Any", tc_link()), 0));
        assert!(!link.contains("prog/xdp"), "{link}");
    });
}

#[test]
fn a_device_made_again_is_another_port() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        instance.attach("p0", &XDP, &facts()).unwrap();
        let index = facts().devices["p0"].ifindex;
        ip("link del p0");
        assert!(words(&instance).is_empty());
        // Under the very same index: only the kernel can tell that the link is not on it.
        ip(&format!(
            "link add name p0 index {index} type veth peer name p1"
        ));
        let mac = instance.port_entries()[0].1.mac;
        let [a, b, c, d, e, f] = mac;
        ip(&format!(
            "link set p0 address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
        ));
        assert_eq!(facts().devices["p0"].mac, Some(mac));
        assert!(words(&instance).is_empty());

        instance.attach("p0", &XDP, &facts()).unwrap();
        assert_eq!(words(&instance), ["p0 xdp Any"]);
        assert!(ip("link show p0").contains("prog/xdp id"));
        assert_eq!(instance.port_entries().len(), 1);

        // Somebody takes it off behind our back.
        let link = instance.path().join("links").join(format!("xdp-{index}"));
        sys::detach(sys::open(&link).unwrap().as_fd()).unwrap();
        assert!(words(&instance).is_empty());
        instance.attach("p0", &XDP, &facts()).unwrap();
        assert_eq!(words(&instance), ["p0 xdp Any"]);
    });
}

#[test]
fn what_a_killed_writer_left_of_a_port_goes() {
    alone(|| {
        veth("p0", "p1");
        veth("p2", "p3");
        let mut instance = Instance::create("one", here()).unwrap();
        let device = facts().devices["p2"].clone();
        let listed = [("10.0.0.0/8".parse().unwrap(), false)];
        let port = Port {
            martians: listed.into(),
            ..XDP
        };
        instance.put_port(&device, &port, &facts()).unwrap();
        // Killed before the port's own entry, which comes after its list.
        instance.set_martians(9999, &port.martians).unwrap();
        assert_eq!(instance.martians().unwrap().len(), 2);
        assert!(words(&instance).is_empty());
        instance.attach("p0", &XDP, &facts()).unwrap();
        let known = instance.port_entries();
        assert_eq!(known.len(), 1);
        assert_eq!(known[0].0, facts().devices["p0"].ifindex);
        assert!(instance.martians().unwrap().is_empty());
        assert_eq!(known[0].1.flags & PortEntry::LISTED, 0);
    });
}

#[test]
fn what_cannot_be_attached_says_why() {
    alone(|| {
        let mut instance = Instance::create("one", here()).unwrap();
        ip("tuntap add dev t0 mode tun");
        assert!(matches!(
            instance.attach("t0", &XDP, &facts()),
            Err(Error::NoXdp { .. })
        ));
        assert!(matches!(
            instance.attach("nothing", &XDP, &facts()),
            Err(Error::NoDevice { known, .. }) if known.contains('t')
        ));
        ip("link add name d0 type bridge");
        let refused = instance.attach("d0", &XDP, &facts()).unwrap_err();
        assert!(refused.to_string().contains("xdp-generic"), "{refused}");
        assert!(instance.port_entries().is_empty());
        assert_eq!(instance.maps.tx.keys().count(), 0);
        assert!(words(&instance).is_empty());
    });
}

#[test]
fn every_pin_of_a_deleted_instance_lets_go() {
    alone(|| {
        veth("p0", "p1");
        veth("p2", "p3");
        let mut instance = Instance::create("one", here()).unwrap();
        instance.attach("p0", &XDP, &facts()).unwrap();
        instance.attach("p2", &TC, &facts()).unwrap();
        instance.delete().unwrap();
        assert!(!ip("link show p0").contains("xdp"));
        let mut instance = Instance::create("two", here()).unwrap();
        instance.attach("p0", &XDP, &facts()).unwrap();
        assert_eq!(words(&instance), ["p0 xdp Any"]);
    });
}

#[test]
fn without_tcx_a_clsact_filter_does_it() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        let device = facts().devices["p0"].clone();
        instance.put_port(&device, &TC, &facts()).unwrap();
        instance.attach_clsact(&device, "p0").unwrap();
        drop(instance);
        let filters = tc("filter show dev p0 ingress");
        assert!(filters.contains("netmesh_tc"), "{filters}");

        let mut instance = Instance::open(here()).unwrap().unwrap();
        assert_eq!(words(&instance), ["p0 clsact Behind"]);
        instance.attach("p0", &TC, &facts()).unwrap();
        assert_eq!(words(&instance), ["p0 clsact Behind"], "adopted");
        instance.detach("p0", &facts()).unwrap();
        assert!(!tc("filter show dev p0 ingress").contains("netmesh_tc"));
        assert!(words(&instance).is_empty());
    });
}

#[test]
fn the_other_end_of_a_pair_gets_the_pass_program() {
    alone(|| {
        let machine = Machine::new();
        ip(&format!(
            "link add name p0 type veth peer name p1 netns {}",
            machine.pid()
        ));
        let mut instance = Instance::create("one", here()).unwrap();
        let index = machine.run(|| facts().devices["p1"].ifindex);
        machine.run(|| instance.attach_pass(index).unwrap());
        assert!(machine.ip("link show p1").contains("prog/xdp id"));
        machine.run(|| instance.attach_pass(index).unwrap());
        assert!(words(&instance).is_empty(), "it is no port");
        instance.delete().unwrap();
        eventually("the end of the program", || {
            !machine.ip("link show p1").contains("prog/xdp")
        });
    });
}

#[test]
fn an_upgrade_changes_the_programs_and_nothing_else() {
    alone(|| {
        for n in [0, 2, 4] {
            veth(&format!("p{n}"), &format!("p{}", n + 1));
        }
        let mut instance = Instance::create("one", here()).unwrap();
        instance.attach("p0", &XDP, &facts()).unwrap();
        instance.attach("p2", &TC, &facts()).unwrap();
        let device = facts().devices["p4"].clone();
        instance.put_port(&device, &TC, &facts()).unwrap();
        instance.attach_clsact(&device, "p4").unwrap();
        let pass = facts().devices["p1"].ifindex;
        instance.attach_pass(pass).unwrap();
        let pins = |instance: &Instance| pin::entries(&instance.path().join("links")).unwrap();
        let programs = |instance: &Instance| -> Vec<u32> {
            let names = pins(instance).into_iter();
            names
                .filter(|name| name.contains('-') && !name.starts_with("clsact"))
                .map(|name| program_on(instance, &name))
                .collect()
        };
        let (before, names) = (programs(&instance), pins(&instance));
        let filter = tc("filter show dev p4 ingress");
        let ports = words(&instance);
        // A filter of clsact has no link to ask.
        let links = if tc_link() == "tcx" { 3 } else { 2 };
        // Three ports, one pass program, five followers.
        assert_eq!((before.len(), ports.len(), names.len()), (links, 3, 9));

        // What a killed upgrade left is in nobody's way.
        let xdp = instance.path().join("progs/netmesh_xdp");
        let left = instance.path().join("progs/new-netmesh_xdp");
        sys::pin(sys::open(&xdp).unwrap().as_fd(), &left).unwrap();

        instance.upgrade(here(), &Object::default()).unwrap();
        let after = programs(&instance);
        assert!(
            after.iter().all(|id| !before.contains(id)),
            "{before:?} {after:?}"
        );
        assert_ne!(tc("filter show dev p4 ingress"), filter);
        assert_eq!(
            tc("filter show dev p4 ingress").matches("handle ").count(),
            1
        );
        assert_eq!(words(&instance), ports);
        assert_eq!(pins(&instance), names);
        assert_eq!(
            pin::entries(&instance.path().join("progs")).unwrap().len(),
            3
        );
        assert_eq!(
            instance.follower().unwrap(),
            crate::dataplane::neighbour::Follower::Follows
        );
        instance.detach("p4", &facts()).unwrap();
        assert!(!tc("filter show dev p4 ingress").contains("netmesh_tc"));
    });
}

#[test]
fn programs_are_told_by_the_tags_that_the_kernel_has_for_them() {
    alone(|| {
        for n in [0, 2, 4] {
            veth(&format!("p{n}"), &format!("p{}", n + 1));
        }
        let mut instance = Instance::create("one", here()).unwrap();
        let names = |instance: &Instance| -> Vec<&str> {
            let programs = instance.programs().unwrap();
            programs.iter().map(|program| program.name).collect()
        };
        let followers = names(&instance);
        assert_eq!(followers.len(), 5, "{followers:?}");

        instance.attach("p0", &XDP, &facts()).unwrap();
        instance.attach("p2", &TC, &facts()).unwrap();
        let device = facts().devices["p4"].clone();
        instance.put_port(&device, &TC, &facts()).unwrap();
        instance.attach_clsact(&device, "p4").unwrap();
        let found = instance.programs().unwrap();
        // One by a link and one by a filter are the same program.
        assert_eq!(found.len(), followers.len() + 2, "{found:?}");
        for program in &found {
            if let Ok(info) = ProgramInfo::from_pin(instance.folder.program(program.name)) {
                assert_eq!(program.tag, info.tag(), "{program:?}");
            }
        }
        let tag = |name: &str| {
            let program = found.iter().find(|program| program.name == name);
            format!("tag {:016x}", program.unwrap().tag)
        };
        assert!(ip("-d link show p0").contains(&tag("netmesh_xdp")));
        assert!(tc("filter show dev p4 ingress").contains(&tag("netmesh_tc")));

        // Its link stays until the next writer, on no hook.
        ip("link del p0");
        assert_eq!(names(&instance).len(), followers.len() + 1);
    });
}
