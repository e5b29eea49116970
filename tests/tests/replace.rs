//! `netmesh route import` over what is there: a hundred thousand routes lead elsewhere, again and
//! again, under streams. What stays keeps its next hop, what changes goes by the old or the new.
//!
//! ```text
//!                       ┌─ port1 ── stays    prefixes that stay
//!   left ── port0 router┼─ port2 ── first    the others, in every other generation
//!                       ├─ port3 ── second   the others, in those between
//!                       └─ port4 ── decoy    where the kernel would send all of them
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netmesh::kernel::{Kernel, ethtool, netns};
use netmesh::plan::state::Namespace;
use netmesh_tests::daemon::SOON;
use netmesh_tests::stack::counted;
use netmesh_tests::stream::{Account, Stream};
use netmesh_tests::{Lab, eventually, slowness};

/// Who may get a packet, by number.
const HOSTS: [&str; 4] = ["stays", "first", "second", "decoy"];
const STAYS: usize = 0;
/// The next hops of the two generations.
const GENERATIONS: [usize; 2] = [1, 2];

const LEFT: Ipv6Addr = Ipv6Addr::new(0x2a02, 0x1816, 0xffff, 0, 0, 0, 0, 2);
const LEFT4: Ipv4Addr = Ipv4Addr::new(100, 83, 0, 2);

/// Prefixes of both stages and families that keep their next hop, and where their stream goes.
const KEPT: [(&str, &str); 3] = [
    ("2a02:1816:a::/64", "2a02:1816:a::9"),
    ("2a02:1816:b::/48", "2a02:1816:b:ffff::9"),
    ("100.82.9.0/24", "100.82.9.9"),
];

/// The same of those whose next hop changes in each generation.
const MOVED: [(&str, &str); 3] = [
    ("2a02:1816:c::/64", "2a02:1816:c::9"),
    ("2a02:1816:d::/48", "2a02:1816:d:ffff::9"),
    ("100.82.16.0/20", "100.82.16.9"),
];

/// Around and inside them, always there, changing with the generation.
const AROUND: [&str; 8] = [
    "2a02:1816::/32",
    "2a02:1816:a:1::/64",
    "2a02:1816:a:0:3::/80",
    "2a02:1816:b:3::/64",
    "2a02:1816:d:3::/64",
    "100.82.0.0/16",
    "100.82.8.0/24",
    "100.82.9.192/27",
];

/// There in one generation only: what stays changes its stage.
const GUESTS: [[&str; 6]; 2] = [
    [
        "2a02:1816:8::/45",
        "2a02:1816:a:0:1::/80",
        "2a02:1816:b:1::/64",
        "2a02:1816:c:0:1::/80",
        "100.82.9.128/25",
        "100.82.8.0/23",
    ],
    [
        "2a02:1816::/40",
        "2a02:1816:a:0:2::/96",
        "2a02:1816:b:2::/64",
        "2a02:1816:c::8/128",
        "100.82.9.64/26",
        "100.82.0.0/19",
    ],
];

fn lab(hook: &str) -> Lab {
    let mut lab = Lab::new();
    lab.machine("left");
    lab.machine("router");
    lab.set("router", "net/ipv6/conf/all/forwarding", "1");
    lab.set("router", "net/ipv4/ip_forward", "1");
    lab.wire(("left", "eth0"), ("router", "port0"));
    lab.ip("left", &format!("addr add {LEFT}/64 dev eth0 nodad"));
    lab.ip("left", &format!("addr add {LEFT4}/24 dev eth0"));
    lab.ip("router", "addr add 2a02:1816:ffff::1/64 dev port0 nodad");
    lab.ip("router", "addr add 100.83.0.1/24 dev port0");
    lab.ip("left", "route add default via 2a02:1816:ffff::1");
    lab.ip("left", "route add default via 100.83.0.1");
    for (n, host) in (1..).zip(HOSTS) {
        let port = format!("port{n}");
        lab.machine(host);
        lab.wire((host, "eth0"), ("router", &port));
        lab.ip(
            "router",
            &format!("addr add fe80::{n}:1/64 dev {port} nodad"),
        );
        lab.ip("router", &format!("addr add 100.83.{n}.1/24 dev {port}"));
        lab.ip(host, &format!("addr add fe80::{n}:2/64 dev eth0 nodad"));
        lab.ip(host, &format!("addr add 100.83.{n}.2/24 dev eth0"));
        lab.ip(host, &format!("route add default via fe80::{n}:1 dev eth0"));
        lab.ip(host, &format!("route add default via 100.83.{n}.1"));
        for (_, address) in KEPT.iter().chain(&MOVED) {
            let length = if address.contains(':') { 128 } else { 32 };
            lab.ip(host, &format!("addr add {address}/{length} dev lo"));
        }
        ethtool::set_gro(&lab.at(host), "eth0", true).expect("GRO on");
        ethtool::set_tx_checksum(&lab.at(host), "eth0", false).expect("checksums whole");
    }
    ethtool::set_gro(&lab.at("left"), "eth0", true).expect("GRO on");
    ethtool::set_tx_checksum(&lab.at("left"), "eth0", false).expect("checksums whole");
    let decoy = HOSTS.len();
    lab.ip(
        "router",
        &format!("route add default via fe80::{decoy}:2 dev port{decoy}"),
    );
    lab.ip("router", &format!("route add default via 100.83.{decoy}.2"));
    let ports = ["port0", "port1", "port2", "port3", "port4"];
    let mut attach = vec!["dataplane", "attach", "--hook", hook];
    attach.extend(ports.iter().flat_map(|port| ["--port", port]));
    let _ = lab.netmesh("router", &attach);
    lab
}

/// A route's words behind its prefix.
fn via(prefix: &str, host: usize) -> String {
    let n = host + 1;
    if prefix.contains(':') {
        format!("via fe80::{n}:2 dev port{n}")
    } else {
        format!("via 100.83.{n}.2 dev port{n}")
    }
}

fn route(lab: &Lab, words: &str) {
    let words: Vec<&str> = ["route"].into_iter().chain(words.split(' ')).collect();
    let _ = lab.netmesh("router", &words);
}

/// The routes of a generation, in a file: prefixes of both stages and families, those that are
/// looked at in the middle of them.
fn write(lab: &Lab, generation: usize, count: usize) -> PathBuf {
    let (mut lines, host) = (Vec::new(), GENERATIONS[generation]);
    for n in 0..count {
        let (high, low) = (n >> 16, n & 0xffff);
        lines.push(match n % 5 {
            0 => format!("2a02:1817:{low:x}:{high:x}00::/56"),
            1 => format!("10.{}.{}.0/24", low >> 8, low & 255),
            _ => format!("2a02:1818:{low:x}:{high:x}::/64"),
        });
        if n == count / 2 {
            let looked_at = MOVED.iter().map(|(prefix, _)| *prefix);
            let looked_at = looked_at.chain(AROUND).chain(GUESTS[generation]);
            lines.extend(looked_at.map(ToOwned::to_owned));
        }
    }
    let lines: String = lines
        .iter()
        .map(|prefix| format!("{prefix} {}\n", via(prefix, host)))
        .collect();
    std::fs::create_dir_all(lab.config("router")).expect("a folder");
    let file = lab
        .config("router")
        .join(format!("generation-{generation}"));
    std::fs::write(&file, lines).expect("a file");
    file
}

/// A stream from the left to whoever gets it.
fn stream(lab: &Lab, address: &str) -> Stream {
    let hosts: Vec<Namespace> = HOSTS.iter().map(|host| lab.at(host)).collect();
    let to: IpAddr = address.parse().expect("an address");
    let from = if to.is_ipv6() {
        LEFT.into()
    } else {
        LEFT4.into()
    };
    Stream::fan(
        (&lab.at("left"), from),
        (&hosts, to),
        Duration::from_millis(4),
    )
}

/// What was sent while an import ran, and by which host it goes from then on.
struct Change {
    during: Range<u64>,
    host: usize,
}

/// What changes goes by the old next hop, then by the new one, and by nobody else.
fn assert_changed_once(account: &Account, changes: &[Change]) {
    let mut host = GENERATIONS[0];
    for (n, change) in changes.iter().enumerate() {
        let until = changes
            .get(n + 1)
            .map_or(account.sent, |next| next.during.start);
        for number in change.during.start..until {
            let way = account.ways[&number];
            if change.during.contains(&number) && way == host {
                continue;
            }
            // From the first one on that goes by the new one, all do.
            assert_eq!(
                HOSTS[way], HOSTS[change.host],
                "packet {number}, change {n}"
            );
            host = change.host;
        }
        assert_eq!(host, change.host, "change {n} was never seen");
    }
}

fn routes_are_replaced_under_traffic(hook: &str) {
    // An emulated machine takes ten times as long.
    let count = std::env::var("NETMESH_TEST_ROUTES").ok();
    let count = count.map_or(100_000 / slowness() as usize, |count| {
        count.parse().expect("a number")
    });
    let lab = lab(hook);
    let files = [0, 1].map(|generation| write(&lab, generation, count));
    let import = |generation: usize| {
        let file = files[generation].to_str().expect("a plain path");
        let _ = lab.netmesh("router", &["route", "import", file]);
    };
    for host in [IpAddr::from(LEFT), LEFT4.into()] {
        route(&lab, &format!("add {host} via {host} dev port0"));
    }
    for (prefix, _) in KEPT {
        route(&lab, &format!("add {prefix} {}", via(prefix, STAYS)));
    }
    import(0);
    lab.resolved("router");
    // Nobody has asked for the next hops of the other generation so far.
    let prefixes = KEPT.iter().chain(&MOVED).map(|(prefix, _)| *prefix);
    let router = lab.at("router");
    let before: Vec<_> = prefixes
        .clone()
        .map(|prefix| counted(&router, prefix))
        .collect();
    let streams: Vec<Stream> = KEPT
        .iter()
        .chain(&MOVED)
        .map(|way| stream(&lab, way.1))
        .collect();
    let (right, left) = (lab.at(HOSTS[STAYS]), lab.at("left"));
    let stays: IpAddr = KEPT[0].1.parse().expect("an address");
    let back = Stream::start(
        (&right, stays),
        (&left, LEFT.into()),
        Duration::from_millis(4),
    );
    let go_on = || {
        let sent: Vec<u64> = streams.iter().map(Stream::sent).collect();
        let more = |(stream, sent): (&Stream, u64)| stream.sent() > sent + 10;
        eventually("the streams go on", SOON, || {
            streams.iter().zip(sent.iter().copied()).all(more)
        });
    };
    let mut changes: Vec<Vec<Change>> = streams.iter().map(|_| Vec::new()).collect();
    let mut took = Duration::ZERO;
    for round in 1..=20 {
        go_on();
        let generation = round % 2;
        let start: Vec<u64> = streams.iter().map(Stream::sent).collect();
        let begun = Instant::now();
        import(generation);
        took += begun.elapsed();
        for ((stream, start), changes) in streams.iter().zip(start).zip(&mut changes) {
            changes.push(Change {
                during: start..stream.sent(),
                host: GENERATIONS[generation],
            });
        }
        for guest in GUESTS[1 - generation] {
            route(&lab, &format!("del {guest}"));
        }
    }
    go_on();
    let back = back.end();
    let accounts: Vec<Account> = streams.into_iter().map(Stream::end).collect();
    let sent: u64 = accounts.iter().map(|account| account.sent).sum();
    let lost: usize = accounts.iter().map(|account| account.lost.len()).sum();
    println!(
        "{hook}: {count} routes replaced 20 times, {} ms each: {sent} packets there, {} back, {} lost",
        took.as_millis() / 20,
        back.sent,
        lost + back.lost.len(),
    );
    back.assert_whole(200);
    for (((prefix, account), before), changes) in prefixes.zip(&accounts).zip(before).zip(&changes)
    {
        println!(
            "{prefix}: {} packets, lost {:?}",
            account.sent, account.lost
        );
        account.assert_whole(200);
        if KEPT.iter().any(|(kept, _)| *kept == prefix) {
            let elsewhere = account.ways.iter().find(|(_, host)| **host != STAYS);
            assert_eq!(elsewhere, None, "{prefix} has one next hop");
        } else {
            assert_changed_once(account, changes);
        }
        let there = counted(&router, prefix)[0] - before[0];
        assert_eq!(there, account.sent, "counted to {prefix}");
    }
}

#[test]
fn a_hundred_thousand_routes_are_replaced_under_traffic_by_xdp() {
    routes_are_replaced_under_traffic("xdp");
}

#[test]
fn a_hundred_thousand_routes_are_replaced_under_traffic_by_tc() {
    routes_are_replaced_under_traffic("tc");
}

/// The kernel keeps resolved what routes lead to, and nothing else; a next hop that nobody answers
/// for holds an import up for a moment only.
#[test]
fn neighbours_come_and_go_with_the_routes_of_an_import() {
    let lab = Lab::pair();
    lab.attach_pair("xdp", "any");
    let asked_for = || {
        let own = netns::run_in(&lab.at("router"), || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().expect("a runtime");
            runtime.block_on(async { Kernel::default().own_neighbours(&Namespace::Node).await })
        });
        let own = own
            .expect("the namespace")
            .expect("the kernel's neighbours");
        own.into_iter()
            .map(|neighbour| neighbour.address.to_string())
            .collect::<BTreeSet<_>>()
    };
    let import = |lines: &str| {
        std::fs::create_dir_all(lab.config("router")).expect("a folder");
        let file = lab.config("router").join("routes");
        std::fs::write(&file, lines).expect("a file");
        lab.try_netmesh(
            "router",
            &["route", "import", file.to_str().expect("a plain path")],
        )
    };
    let ends = asked_for();
    assert_eq!(ends.len(), 4, "both hosts: {ends:?}");
    let words = ["2a02:1812:2::7", "2a02:1812:2::8"];
    let line = |via: &str| format!("2a02:1819::/48 via {via} dev port1\n");
    for via in words {
        let begun = Instant::now();
        assert!(import(&line(via)).status.success());
        // It was waited for, and not for long.
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        let wanted: BTreeSet<String> = ends.iter().cloned().chain([via.to_owned()]).collect();
        assert_eq!(asked_for(), wanted);
    }
    let before = asked_for();
    let refused = import(&(line(words[0]) + "2a02:181a::/48 via fe80::9 dev nowhere\n"));
    assert_eq!(refused.status.code(), Some(3));
    assert_eq!(
        asked_for(),
        before,
        "an import that is refused asks for nobody"
    );
}
