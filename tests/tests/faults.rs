//! What goes wrong around a router: a table without room, neighbours that change hands, links that go, addresses that change. Each ends in an error that names it or in
//! recovery; no packet goes where it should not, and nothing that was told is forgotten.

use std::fs;
use std::net::Ipv6Addr;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use netmesh::dataplane::Instance;
use netmesh::dataplane::instance::Capacity;
use netmesh::dataplane::pin::NamespaceId;
use netmesh::demo::traffic::ping;
use netmesh::kernel::{ethtool, netns};
use netmesh_tests::daemon::{Daemon, SOON};
use netmesh_tests::pair::{LEFT, RIGHT};
use netmesh_tests::stack::counted;
use netmesh_tests::stream::Stream;
use netmesh_tests::wire::{ETHERNET, ICMPV6, IPV6, Wire, frame, ipv6, mac, transport_sum};
use netmesh_tests::{INTERNET, Lab, OutputText as _, RESOURCES, Resource, eventually, slowness};

const PERIOD: Duration = Duration::from_millis(2);

/// Both ways between the hosts of a pair.
fn streams(lab: &Lab) -> [Stream; 2] {
    let (left, right) = (lab.at("left"), lab.at("right"));
    let (left, right) = ((&left, LEFT.into()), (&right, RIGHT.into()));
    [
        Stream::start(left, right, PERIOD),
        Stream::start(right, left, PERIOD),
    ]
}

fn whole(streams: [Stream; 2], least: u64) {
    for account in streams.map(Stream::end) {
        account.assert_whole(least);
    }
}

fn import(lab: &Lab, lines: &str) -> Output {
    lab.try_netmesh("router", &["route", "import", &file(lab, lines)])
}

fn file(lab: &Lab, lines: &str) -> String {
    fs::create_dir_all(lab.config("router")).expect("a folder");
    let file = lab.config("router").join("routes");
    fs::write(&file, lines).expect("a file");
    file.to_str().expect("a plain path").to_owned()
}

fn list(lab: &Lab) -> String {
    lab.netmesh("router", &["route", "list"]).stdout_text()
}

/// So many prefixes of one kind, from this number on.
fn lines(kind: &str, numbers: std::ops::Range<u32>, via: &str) -> String {
    let prefix = |n| match kind {
        "/64" => format!("2a02:1820:0:{n:x}::/64"),
        "/48" => format!("2a02:1821:{n:x}::/48"),
        _ => format!("10.{}.{}.0/20", n >> 4, (n & 15) << 4),
    };
    numbers.map(|n| format!("{} {via}\n", prefix(n))).collect()
}

/// A table that is full: what does not fit is refused as a whole and by name, and what is there can be
/// changed.
#[test]
fn a_full_table_takes_no_part_of_an_import_and_changes_in_place() {
    const MOST: u32 = 64;
    let lab = Lab::pair();
    lab.whole_checksums(true);
    let (cookie, inode) = netns::identity(&lab.at("router")).expect("a namespace");
    let made = netns::run_in(&lab.at("router"), || {
        let capacity = Capacity {
            routes: MOST,
            counters: 64,
        };
        Instance::create_with("ports", NamespaceId { cookie, inode }, capacity).map(drop)
    });
    made.expect("the namespace").expect("a small data plane");
    lab.attach_pair("xdp", "any");
    let running = streams(&lab);
    let full = format!("the route table is full ({MOST} entries)");
    for (kind, ways) in [
        (
            "/64",
            [
                "via 2a02:1812:2::2 dev port1",
                "via 2a02:1812:1::2 dev port0",
            ],
        ),
        (
            "/48",
            [
                "via 2a02:1812:2::2 dev port1",
                "via 2a02:1812:1::2 dev port0",
            ],
        ),
        (
            "/20",
            ["via 100.81.2.2 dev port1", "via 100.81.1.2 dev port0"],
        ),
    ] {
        let refused = |output: Output| {
            let text = output.stderr_text();
            assert_eq!(output.status.code(), Some(1), "{kind}: {text}");
            for word in [full.as_str(), "nothing was changed"] {
                assert!(text.contains(word), "{kind}: {word} in {text}");
            }
        };
        let before = list(&lab);
        refused(import(&lab, &lines(kind, 0..MOST + 1, ways[0])));
        assert_eq!(list(&lab), before);
        let half = import(&lab, &lines(kind, 0..MOST / 2, ways[0]));
        assert!(half.status.success(), "{}", half.stderr_text());
        let before = list(&lab);
        refused(import(&lab, &lines(kind, 1..MOST + 1, ways[0])));
        assert_eq!(list(&lab), before);
        // As many as there is room for, one by one.
        let mut last = MOST / 2;
        let one = |verb: &str, n: u32, way: &str| {
            let words = format!("route {verb} {}", lines(kind, n..n + 1, way));
            let words: Vec<&str> = words.split_whitespace().collect();
            lab.try_netmesh("router", &words)
        };
        while one("add", last, ways[0]).status.success() {
            last += 1;
        }
        assert!((MOST - 20..=MOST).contains(&last), "{kind}: {last}");
        let before = list(&lab);
        refused(one("add", last, ways[0]));
        refused(import(&lab, &lines(kind, last - 1..last + 1, ways[1])));
        assert_eq!(list(&lab), before);
        // What is there changes, one by one and all at once.
        assert!(one("replace", 0, ways[1]).status.success(), "{kind}");
        let all = import(&lab, &lines(kind, 0..last, ways[1]));
        assert!(all.status.success(), "{kind}: {}", all.stderr_text());
        let now = list(&lab);
        assert_eq!(now.lines().count(), before.lines().count());
        assert_ne!(now, before);
        // What goes makes room.
        let gone = lines(kind, 0..1, "");
        let _ = lab.netmesh("router", &["route", "del", gone.trim()]);
        assert!(one("add", last, ways[0]).status.success(), "{kind}");
        // All kinds together are more than the table of all routes holds.
        for n in 1..=last {
            let gone = lines(kind, n..n + 1, "");
            let _ = lab.netmesh("router", &["route", "del", gone.trim()]);
        }
    }
    whole(running, 500);
}

/// `left` - `router` - a switch - `old`, `new`: two hosts that may have one address.
fn heirs() -> Lab {
    let mut lab = Lab::new();
    for machine in ["left", "router", "switch", "old", "new"] {
        lab.machine(machine);
    }
    lab.set("router", "net/ipv6/conf/all/forwarding", "1");
    lab.wire(("left", "eth0"), ("router", "port0"));
    lab.ip("router", "addr add 2a02:1812:1::1/64 dev port0 nodad");
    lab.ip("left", &format!("addr add {LEFT}/64 dev eth0 nodad"));
    lab.ip("left", "route add default via 2a02:1812:1::1");
    lab.ip("switch", "link add segment type bridge");
    lab.ip("switch", "link set segment up");
    lab.wire(("router", "port1"), ("switch", "first"));
    lab.ip("switch", "link set first master segment");
    lab.ip("router", "addr add 2a02:1812:2::1/64 dev port1 nodad");
    for host in ["old", "new"] {
        lab.wire((host, "eth0"), ("switch", host));
        lab.ip("switch", &format!("link set {host} master segment"));
        // Taken in on whatever link, and answered for on none.
        lab.ip(host, &format!("addr add {RIGHT}/128 dev lo"));
    }
    for (machine, link) in [("left", "eth0"), ("switch", "first")] {
        ethtool::set_tx_checksum(&lab.at(machine), link, false).expect("checksums whole");
        ethtool::set_gro(&lab.at(machine), link, true).expect("GRO on");
    }
    for (name, value) in [
        ("base_reachable_time_ms", "1000"),
        ("delay_first_probe_time", "1"),
        ("interval_probe_time_ms", "1000"),
    ] {
        lab.set("router", &format!("net/ipv6/neigh/port1/{name}"), value);
    }
    lab
}

/// Says that an address is at this host, without being asked (RFC 4861 section 7.2.6).
fn advertise(lab: &Lab, host: &str) {
    let (wire, own) = (
        Wire::open(&lab.at(host), "eth0"),
        mac(&lab.at(host), "eth0"),
    );
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(RIGHT.octets());
    message.extend([2, 1]);
    message.extend(own);
    let sum = !transport_sum(RIGHT.into(), all.into(), ICMPV6, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = ipv6(RIGHT, all, 255, ICMPV6, &message);
    wire.send(&frame([0x33, 0x33, 0, 0, 0, 1], own, IPV6, &packet));
}

/// Another host takes an address over.
fn an_heir_gets_the_packets(hook: &str, advertises: bool) {
    let lab = heirs();
    lab.ip("old", &format!("addr add {RIGHT}/64 dev eth0 nodad"));
    let attach = [
        "dataplane",
        "attach",
        "--hook",
        hook,
        "--port",
        "port0",
        "--port",
        "port1",
    ];
    let _ = lab.netmesh("router", &attach);
    let (host, port) = (RIGHT.to_string(), "port1");
    let _ = lab.netmesh(
        "router",
        &["route", "add", &host, "via", &host, "dev", port],
    );
    lab.resolved("router");
    let stored = || {
        lab.json("router", &["route", "list"])["routes"]
            .as_array()
            .map(Vec::len)
    };
    let before = stored();
    let hosts = ["old", "new"].map(|host| lab.at(host));
    let stream = Stream::fan(
        (&lab.at("left"), LEFT.into()),
        (&hosts, RIGHT.into()),
        PERIOD,
    );
    eventually("a stream", SOON, || stream.sent() > 100);
    lab.ip("old", &format!("addr del {RIGHT}/64 dev eth0"));
    lab.ip("new", &format!("addr add {RIGHT}/64 dev eth0 nodad"));
    let (from, begun) = (stream.sent(), Instant::now());
    if advertises {
        advertise(&lab, "new");
    }
    // The router's neighbour is the heir.
    let heir = mac(&lab.at("new"), "eth0")
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    eventually("the heir is known", SOON * 2, || {
        lab.netmesh(
            "router",
            &["explain", &LEFT.to_string(), &host, "--in", "port0"],
        )
        .stdout_text()
        .contains(&heir)
    });
    let (known, took) = (stream.sent(), begun.elapsed());
    eventually("the stream goes on", SOON, || stream.sent() > known + 100);
    let account = stream.end();
    println!(
        "{hook}, {}: known after {} ms, {} of {} packets lost",
        if advertises {
            "advertised"
        } else {
            "found out"
        },
        took.as_millis(),
        account.lost.len(),
        account.sent
    );
    assert!(account.twice.is_empty());
    let first = account.ways.iter().find(|(_, host)| **host == 1);
    let first = *first.expect("the heir gets some").0;
    for (number, host) in &account.ways {
        assert_eq!(
            *host,
            usize::from(*number >= first),
            "packet {number} of {first}"
        );
    }
    assert!(first >= from, "{first} was sent before {from}");
    if advertises {
        account.assert_whole(200);
        // At once: what was on its way, and what a busy machine sent meanwhile.
        assert!(
            first - from < 250 * u64::from(slowness()),
            "{from} to {first}"
        );
    } else {
        // While nobody answers the kernel holds packets back, a few at a time.
        let late: Vec<&u64> = account.lost.iter().filter(|n| **n >= known).collect();
        assert!(late.is_empty(), "{late:?} after {known}");
    }
    assert_eq!(stored(), before);
}

#[test]
fn an_address_that_another_host_advertises_is_followed_by_xdp() {
    an_heir_gets_the_packets("xdp", true);
}

#[test]
fn an_address_that_another_host_advertises_is_followed_by_tc() {
    an_heir_gets_the_packets("tc", true);
}

#[test]
fn an_address_that_another_host_takes_over_silently_is_found_out_by_xdp() {
    an_heir_gets_the_packets("xdp", false);
}

#[test]
fn an_address_that_another_host_takes_over_silently_is_found_out_by_tc() {
    an_heir_gets_the_packets("tc", false);
}

/// A mesh whose routers and exit are served by daemons, and a way to see what it carries.
fn mesh() -> (Lab, Vec<Daemon>) {
    let lab = Lab::mesh();
    let _ = lab.netmesh("node-2", &["apply"]);
    let daemons: Vec<Daemon> = ["node-1", "router"]
        .iter()
        .map(|node| Daemon::start(&lab, node, &[]))
        .collect();
    for daemon in &daemons {
        daemon.until_told("READY=1");
    }
    carries(&lab);
    (lab, daemons)
}

fn carries(lab: &Lab) {
    for node in ["node-1", "router"] {
        lab.settles(node);
    }
    let web = lab.address(&RESOURCES[1]).into();
    eventually("the mesh carries packets", SOON, || {
        let pings = ping(&lab.resource("web"), web, INTERNET.into(), 104, 1);
        pings.is_ok_and(|pings| pings.received == 1)
    });
    lab.resolved("router");
}

/// Both ways between web and the internet.
fn across(lab: &Lab) -> [Stream; 2] {
    let (web, far) = (lab.resource("web"), lab.at("provider"));
    let web = (&web, lab.address(&RESOURCES[1]).into());
    let far = (&far, INTERNET.into());
    [
        Stream::start(web, far, PERIOD),
        Stream::start(far, web, PERIOD),
    ]
}

/// By the programs, every packet.
fn carries_whole(lab: &Lab) {
    let (plane, prefix) = (lab.at("router"), lab.prefix(&RESOURCES[1]));
    let at = counted(&plane, &prefix);
    let running = across(lab);
    eventually("a stream", SOON, || {
        running.iter().all(|stream| stream.sent() > 100)
    });
    let [out, back] = running.map(Stream::end);
    out.assert_whole(100);
    back.assert_whole(100);
    let now = counted(&plane, &prefix);
    assert_eq!([now[0] - at[0], now[1] - at[1]], [back.sent, out.sent]);
}

/// Frames for the network's prefixes that the router sent to the provider.
fn strays(lab: &Lab, wire: &Wire) -> usize {
    let router = mac(&lab.at("router"), "eth0");
    let mut found = 0;
    while let Some(frame) = wire.next() {
        let to = frame.get(ETHERNET + 24..ETHERNET + 30);
        let for_us = to == Some(&[0x2a, 0x02, 0x18, 0x02, 0, 0x5e]);
        found += usize::from(frame[6..12] == router && for_us);
    }
    found
}

/// Both ports of the router go down under a stream and come up again, and nobody does anything.
#[test]
fn ports_that_go_down_and_come_up_carry_again_and_send_nothing_astray() {
    let (lab, _daemons) = mesh();
    let nodes = [("node-1", &["gw"][..]), ("router", &[])];
    let dump = || nodes.map(|(node, resources)| lab.dump(node, resources));
    let before = dump();
    let wire = Wire::open(&lab.at("provider"), "eth0");
    for port in ["eth1", "eth0"] {
        let running = across(&lab);
        eventually("a stream", SOON, || running[1].sent() > 50);
        lab.ip("router", &format!("link set {port} down"));
        let sent = running[0].sent();
        eventually("the stream goes on", SOON, || {
            running[0].sent() > sent + 300
        });
        lab.ip("router", &format!("link set {port} up"));
        carries(&lab);
        let [out, back] = running.map(Stream::end);
        println!(
            "{port} down and up: {} and {} lost",
            out.lost.len(),
            back.lost.len()
        );
        assert_eq!(
            strays(&lab, &wire),
            0,
            "packets for the mesh went to the provider"
        );
        assert!(out.twice.is_empty() && back.twice.is_empty());
        eventually("all is what it was", SOON, || dump() == before);
        carries_whole(&lab);
    }
}

/// The exit's whole namespace is deleted under a stream.
#[test]
fn a_namespace_that_is_deleted_under_its_daemon_comes_back_and_sends_nothing_astray() {
    let (lab, _daemons) = mesh();
    let nodes = [("node-1", &["gw"][..]), ("router", &[])];
    let dump = || nodes.map(|(node, resources)| lab.dump(node, resources));
    let before = dump();
    let wire = Wire::open(&lab.at("provider"), "eth0");
    let running = across(&lab);
    eventually("a stream", SOON, || running[1].sent() > 50);
    let gone = lab.resource("gw").to_string();
    let deleted = std::process::Command::new("ip")
        .args(["netns", "del", &gone])
        .status();
    assert!(deleted.expect("ip starts").success());
    eventually("it is back", SOON, || {
        netns::path(&lab.resource("gw")).exists()
    });
    carries(&lab);
    let [out, back] = running.map(Stream::end);
    println!(
        "{gone} deleted: {} and {} lost",
        out.lost.len(),
        back.lost.len()
    );
    assert_eq!(
        strays(&lab, &wire),
        0,
        "packets for the mesh went to the provider"
    );
    assert!(out.twice.is_empty() && back.twice.is_empty());
    eventually("all is what it was", SOON, || dump() == before);
    carries_whole(&lab);
}

/// The exit's address on the segment changes, with its number and without: the router follows.
#[test]
fn a_next_hop_whose_address_changes_is_followed() {
    let (lab, _daemons) = mesh();
    let router = lab.config("router").join("networks/network.toml");
    let plain = fs::read_to_string(&router).expect("the object");
    let numbered = plain.replace("exit = { }", "exit = { numbered = true }");
    assert_ne!(plain, numbered);
    let via = || {
        let route = lab.json(
            "router",
            &["route", "get", &lab.address(&RESOURCES[1]).to_string()],
        );
        route["routes"][0]["route"].to_string()
    };
    let first = via();
    let running = across(&lab);
    for round in 0..10 {
        let text = [&numbered, &plain][round % 2];
        write(&router, text);
        eventually("the next hop has changed", SOON, || {
            (via() == first) == (round % 2 == 1)
        });
        lab.settles("router");
    }
    for account in running.map(Stream::end) {
        println!("next hop changed 10 times: {} packets", account.sent);
        account.assert_whole(300);
    }
    // Another number is another address, tunnel and name; all of it moves on every node.
    let moved = Resource {
        index: 4,
        ..RESOURCES[0]
    };
    let mut resources = RESOURCES;
    resources[0] = moved;
    let wire = Wire::open(&lab.at("provider"), "eth0");
    let running = across(&lab);
    lab.write_network(&resources);
    let _ = lab.netmesh("node-2", &["apply"]);
    eventually("the next hop has changed", SOON, || via() != first);
    carries(&lab);
    let accounts = running.map(Stream::end);
    assert!(accounts.iter().all(|account| account.twice.is_empty()));
    assert_eq!(
        strays(&lab, &wire),
        0,
        "packets for the mesh went to the provider"
    );
    carries_whole(&lab);
}

/// As editors do.
fn write(file: &Path, text: &str) {
    let aside = file.with_extension("new");
    fs::write(&aside, text).expect("a file");
    fs::rename(&aside, file).expect("a file");
}
