//! The mesh is ordinary WireGuard: every implementation meets every other, and a member that
//! was set up by hand with `ip` and `wg` is one like any other.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use netmesh::demo::traffic::ping;
use netmesh::plan::state::Namespace;
use netmesh_tests::{INTERNET, Lab, RESOURCES, eventually};

fn reaches(here: &Namespace, from: IpAddr, to: IpAddr) -> bool {
    ping(here, from, to, 1420, 1).unwrap().received == 1
}

#[track_caller]
fn assert_reaches(here: &Namespace, from: IpAddr, to: IpAddr) {
    eventually(
        &format!("{here} reaches {to}"),
        Duration::from_secs(15),
        || reaches(here, from, to),
    );
}

/// The kernel's where it is there (`auto`), the embedded one, wireguard-go: in one network.
#[test]
fn every_implementation_meets_every_other() {
    let lab = Lab::mesh();
    lab.configure("node-2", "node = \"node-2\"\nwireguard = \"embedded\"\n");
    lab.configure(
        "node-3",
        "node = \"node-3\"\nwireguard = \"wireguard-go\"\n",
    );
    lab.apply_all();
    for from in &RESOURCES {
        let (here, own) = (lab.resource(from.name), lab.address(from).into());
        assert_reaches(&here, own, INTERNET.into());
        for to in RESOURCES.iter().filter(|to| to.name != from.name) {
            assert_reaches(&here, own, lab.address(to).into());
        }
    }
    lab.assert_settled();
}

fn run(program: &str, words: &[&str]) -> bool {
    Command::new(program)
        .args(words)
        .status()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"))
        .success()
}

#[test]
fn a_member_by_hand_is_one_like_any_other() {
    let mut lab = Lab::mesh();
    for machine in ["node-1", "node-2", "router"] {
        let _ = lab.netmesh(machine, &["apply"]);
    }
    // node-3 has no netmesh: an operator follows the object.
    lab.machine("hand");
    let [gw, web, home] = RESOURCES;
    let index = |resource| {
        let [_, _, _, _, _, _, hi, lo, ..] = lab.address(resource).octets();
        u16::from_be_bytes([hi, lo])
    };
    let (node, hand) = (lab.name("node-3"), lab.name("hand"));
    let device = format!("hand-{:x}", index(&home));
    // Born where the underlay is, then moved; the kernel's if there is one.
    if !run(
        "ip",
        &["-n", &node, "link", "add", &device, "type", "wireguard"],
    ) {
        assert!(run(
            "ip",
            &["netns", "exec", &node, "wireguard-go", &device]
        ));
    }
    eventually("the device is served", Duration::from_secs(5), || {
        run("ip", &["netns", "exec", &node, "wg", "show", &device])
    });
    lab.ip("node-3", &format!("link set {device} netns {hand}"));

    let folder = lab.config("node-3").join("keys").join(lab.network());
    let private = std::fs::read_to_string(folder.join("home.key")).expect("the key");
    let mut config = tempfile::NamedTempFile::new().expect("a file");
    let mut text = format!("[Interface]\nPrivateKey = {}\n", private.trim());
    for (peer, endpoint, more) in [(&gw, "::11", ", ::/0"), (&web, "::12", "")] {
        text.push_str(&format!(
            "[Peer]\nPublicKey = {}\nEndpoint = [2001:db8:0:1{endpoint}]:51820\n\
             PersistentKeepalive = 25\nAllowedIPs = fe80::{:x}/128, {}{more}\n",
            lab.public_key(peer),
            index(peer),
            lab.prefix(peer),
        ));
    }
    config.write_all(text.as_bytes()).expect("written");
    let path = config.path().to_str().expect("a path");
    assert!(run(
        "ip",
        &["netns", "exec", &hand, "wg", "setconf", &device, path]
    ));

    let own = lab.address(&home);
    lab.ip("hand", &format!("addr add {own}/64 dev lo nodad"));
    lab.ip("hand", &format!("link set {device} mtu 1420 up"));
    lab.ip(
        "hand",
        &format!("addr add fe80::{:x}/64 dev {device} nodad", index(&home)),
    );
    for peer in [&gw, &web] {
        lab.ip(
            "hand",
            &format!("route add {} dev {device}", lab.prefix(peer)),
        );
    }
    lab.ip(
        "hand",
        &format!(
            "route add default via fe80::{:x} dev {device} src {own}",
            index(&gw)
        ),
    );

    let here = lab.at("hand");
    for to in [
        IpAddr::from(INTERNET),
        lab.address(&gw).into(),
        lab.address(&web).into(),
    ] {
        assert_reaches(&here, own.into(), to);
    }
    // And it is reached, through upstream router and exit, and by its peers.
    assert_reaches(&lab.at("provider"), INTERNET.into(), own.into());
    assert_reaches(&lab.resource("web"), lab.address(&web).into(), own.into());
}
