//! `netmesh run --metrics`: what Prometheus reads is what `netmesh counters` says, in a form that
//! its own tools accept, and nobody who reads slowly is in anybody's way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use netmesh::demo::traffic::ping;
use netmesh::kernel::netns::run_in;
use netmesh::plan::state::Namespace;
use netmesh_tests::daemon::{Daemon, SOON};
use netmesh_tests::scrape::{address, counted, dashboard, file, request};
use netmesh_tests::{INTERNET, Lab, RESOURCES, eventually};
use serde_json::Value;

/// Every sample by its name and labels. Each is there once, and belongs to a family that has a type
/// and a help.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let (mut families, mut helped) = (BTreeMap::new(), BTreeSet::new());
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, help] => {
                assert!(help.ends_with('.'), "{line}");
                assert!(helped.insert((*name).to_owned()), "twice: {line}");
            }
            ["#", "TYPE", name, kind] => {
                assert!(families.insert(*name, *kind).is_none(), "twice: {line}");
            }
            ["#", ..] => panic!("{line}"),
            _ => {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let name = series.split('{').next().expect("a name");
                let kind = families.get(name).copied();
                assert!(kind.is_some() && helped.contains(name), "no family: {line}");
                assert_eq!(kind == Some("counter"), name.ends_with("_total"), "{line}");
                let value = value.parse().expect("a number");
                assert!(
                    samples.insert(series.to_owned(), value).is_none(),
                    "twice: {line}"
                );
            }
        }
    }
    samples
}

fn scrape(at: &Namespace, to: SocketAddr) -> BTreeMap<String, f64> {
    let (head, body) = request(at, to, "GET /metrics", "*/*");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    samples(&body)
}

#[test]
fn a_scrape_says_what_the_counters_say() {
    let lab = Lab::mesh();
    for node in ["node-2", "node-3"] {
        let _ = lab.netmesh(node, &["apply"]);
    }
    let exit = Daemon::start(&lab, "node-1", &["--metrics", "0"]);
    let router = Daemon::start(&lab, "router", &["--metrics", "127.0.0.1:0"]);
    for (daemon, node) in [(&exit, "node-1"), (&router, "router")] {
        daemon.until_told("READY=1");
        lab.settles(node);
    }
    let (here, to) = (lab.at("router"), address(&router));
    let (web, from) = (lab.resource("web"), lab.address(&RESOURCES[1]).into());
    eventually("the mesh carries packets", SOON, || {
        ping(&web, from, INTERNET.into(), 104, 1).is_ok_and(|pings| pings.received == 1)
    });
    let before = scrape(&here, to);
    let pings = ping(&web, from, INTERNET.into(), 600, 50).expect("a socket");
    assert_eq!(pings.received, 50);
    // A packet that the router drops: who is inside does not come from outside.
    let (home, inside) = (lab.address(&RESOURCES[2]), lab.address(&RESOURCES[1]));
    let spoofed = netmesh::demo::traffic::spoof(&lab.at("provider"), home, inside);
    spoofed.expect("it is sent");
    let dropped = "netmesh_port_dropped_packets_total{namespace=\"node\",port=\"eth0\",";
    eventually("it is counted", SOON, || {
        let counted = counted(&lab, "router");
        let mut drops = counted
            .iter()
            .filter(|(series, _)| series.starts_with(dropped));
        drops.any(|(_, packets)| *packets == 1.0)
    });

    // Others send on their own: what is read in between is in between.
    let low = counted(&lab, "router");
    let seen = scrape(&here, to);
    let high = counted(&lab, "router");
    assert!(low.len() > 3 * 4 + 2 * 4, "{low:?}");
    for (series, least) in &low {
        let value = seen
            .get(series)
            .unwrap_or_else(|| panic!("{series} is missing: {seen:?}"));
        assert!(
            least <= value && *value <= high[series],
            "{series}: {value}"
        );
    }
    // What was sent, exactly: of the prefix and of its network.
    let prefix = lab.prefix(&RESOURCES[1]);
    for direction in ["to", "from"] {
        for (what, sent) in [("packets", 50.0), ("bytes", 30_000.0)] {
            let of = |name: &str, more: &str| {
                let network = lab.network();
                let series = format!(
                    "netmesh_{name}_forwarded_{what}_total{{namespace=\"node\",\
                     network=\"{network}\",{more}direction=\"{direction}\"}}"
                );
                seen[&series] - before[&series]
            };
            assert_eq!(of("prefix", &format!("prefix=\"{prefix}\",")), sent);
            assert_eq!(of("network", ""), sent);
        }
    }
    for (series, value) in [
        ("netmesh_ready", 1.0),
        ("netmesh_objects_last_reload_successful", 1.0),
        ("netmesh_scrape_left_out", 0.0),
        ("netmesh_reconcile_passes_total{outcome=\"failed\"}", 0.0),
        (
            "netmesh_port_attached{namespace=\"node\",port=\"eth0\",hook=\"xdp\"}",
            1.0,
        ),
        (
            "netmesh_routes_capacity{namespace=\"node\"}",
            f64::from(1 << 24),
        ),
    ] {
        assert_eq!(seen.get(series), Some(&value), "{series}");
    }
    assert!(seen["netmesh_routes{namespace=\"node\",origin=\"object\"}"] >= 3.0);
    assert!(seen["netmesh_neighbours{namespace=\"node\"}"] >= 2.0);
    assert!(seen["netmesh_reconcile_steps_total"] > 5.0);
    // Next hops are the provider, the exit and the subnets they are in.
    assert_eq!(seen["netmesh_next_hops{namespace=\"node\"}"], 4.0);
    let rows = |name: &str| -> Vec<(&String, &f64)> {
        let of = |(series, _): &(&String, &f64)| series.starts_with(name);
        seen.iter().filter(of).collect()
    };
    let gateways = rows("netmesh_neighbour_resolved{");
    assert_eq!(gateways.len(), 2);
    assert!(
        gateways.iter().all(|(_, value)| **value == 1.0),
        "{gateways:?}"
    );
    assert!(gateways.iter().any(|(series, _)| {
        series.contains("interface=\"eth0\",gateway=\"2a02:1800:10:1052::4\"")
    }));
    // Tags are those that the kernel tells others; nothing of the programs is there twice.
    let programs = rows("netmesh_program_info{");
    for port in ["eth0", "eth1"] {
        let tag = tag_on(&lab, "router", port);
        let info = format!(
            "netmesh_program_info{{namespace=\"node\",program=\"netmesh_xdp\",tag=\"{tag}\"}}"
        );
        assert!(programs.contains(&(&info, &1.0)), "{info}: {programs:?}");
    }
    assert!(programs.len() <= 6, "{programs:?}");
    let layout = f64::from(netmesh_common::table::LAYOUT);
    assert_eq!(seen["netmesh_layout{namespace=\"node\"}"], layout);

    // Tunnels, where they are, by the names of their peers.
    let (here, to) = (lab.at("node-1"), address(&exit));
    // An age of less than a second the embedded WireGuard does not tell from none.
    eventually("the tunnel is up", SOON, || {
        let web = format!("peer=\"{}/web\"", lab.network());
        scrape(&here, to).iter().any(|(series, value)| {
            series.starts_with("netmesh_tunnel_up{") && series.contains(&web) && *value == 1.0
        })
    });
    let text = request(&here, to, "GET /metrics", "*/*").1;
    let seen = samples(&text);
    let of = |name: &str, peer: &str| {
        let peer = format!("peer=\"{}/{peer}\"", lab.network());
        let found = seen.iter().find(|(series, _)| {
            series.starts_with(&format!("netmesh_tunnel_{name}{{")) && series.contains(&peer)
        });
        found.map(|(_, value)| *value)
    };
    assert!(of("handshake_age_seconds", "web").is_some_and(|age| age < 180.0));
    assert!(of("received_bytes_total", "web").is_some_and(|bytes| bytes > 50.0 * 600.0));
    assert!(
        of("up", "home").is_some(),
        "one that may never have spoken has a series too"
    );
    assert!(
        !text.contains(lab.public_key(&RESOURCES[1])),
        "keys are no labels"
    );

    // Alerts are about what is there.
    let rules = file("packaging/prometheus/netmesh.rules.yml");
    let rules = std::fs::read_to_string(rules).expect("the rules");
    let expressions = rules
        .lines()
        .filter(|line| line.trim().starts_with("expr:"));
    let names: BTreeSet<String> = expressions.flat_map(metric_names).collect();
    assert!(names.len() > 6, "{names:?}");
    for name in &names {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
    }
    // So is the dashboard, and it shows everything there is.
    let shown = dashboard_names();
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let served: BTreeSet<String> = families
        .filter_map(|family| Some(family.split_once(' ')?.0.to_owned()))
        .collect();
    assert_eq!(shown, served);
}

/// The tag of the XDP program on a port, as `ip` says it.
fn tag_on(lab: &Lab, machine: &str, port: &str) -> String {
    let output = Command::new("ip")
        .args(["-n", &lab.name(machine), "-json", "-detail", "link", "show"])
        .arg(port)
        .output()
        .expect("ip starts");
    let links: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let tag = links[0]["xdp"]["prog"]["tag"].as_str();
    tag.unwrap_or_else(|| panic!("{links}")).to_owned()
}

/// The metrics that an expression names.
fn metric_names(expression: &str) -> Vec<String> {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !name(c));
    let names = words.filter(|word| word.starts_with("netmesh_"));
    names.map(ToOwned::to_owned).collect()
}

/// The metrics that the dashboard asks for. Its panels have numbers and places of their own.
fn dashboard_names() -> BTreeSet<String> {
    let dashboard = dashboard();
    let mut names = BTreeSet::new();
    let (mut numbers, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(numbers.insert(panel["id"].as_u64().expect("a number")));
        let place = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        assert!(place("x") + place("w") <= 24, "{panel}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(cells.insert((x, y)), "{} lies upon another", panel["title"]);
            }
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            let asked = metric_names(target["expr"].as_str().expect("an expression"));
            assert!(!asked.is_empty(), "{panel}");
            names.extend(asked);
        }
    }
    names
}

#[test]
#[ignore = "needs promtool, of Debian's prometheus"]
fn prometheus_finds_no_fault_in_metrics_and_alerts() {
    let lab = Lab::mesh();
    let daemon = Daemon::start(&lab, "node-1", &["--metrics", "0"]);
    daemon.until_told("READY=1");
    lab.settles("node-1");
    let text = request(&lab.at("node-1"), address(&daemon), "GET /metrics", "*/*").1;
    assert!(text.contains("netmesh_tunnel_up{"));
    promtool(&["check", "metrics"], &text);
    let test = file("packaging/prometheus/netmesh.rules.test.yml");
    promtool(&["test", "rules", &test.display().to_string()], "");
}

/// Prometheus's own opinion; `PROMTOOL` names another one than that in the path.
fn promtool(words: &[&str], text: &str) {
    let tool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".into());
    let child = Command::new(tool)
        .args(words)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.expect("promtool starts");
    let mut input = child.stdin.take().expect("a pipe");
    // One that reads nothing has closed it.
    let _ = input.write_all(text.as_bytes());
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    // What it says of metrics is what could be better.
    let silent = said.is_empty() || text.is_empty();
    assert!(output.status.success() && silent, "{said}");
}

#[test]
fn whoever_asks_gets_what_he_asks_for_and_holds_up_nobody() {
    let lab = Lab::mesh();
    let daemon = Daemon::start(
        &lab,
        "router",
        &["--metrics", "0", "--metrics-prefixes", "1"],
    );
    daemon.until_told("READY=1");
    lab.settles("router");
    let (here, to) = (lab.at("router"), address(&daemon));
    // The newer format for who wants it.
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let (head, open) = request(&here, to, "GET /metrics", accept);
    assert!(
        head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(open.ends_with("# EOF\n"), "{open}");
    assert!(
        open.contains("# UNIT netmesh_port_forwarded_bytes bytes\n"),
        "{open}"
    );
    assert!(
        open.contains("# TYPE netmesh_port_forwarded_bytes counter\n"),
        "{open}"
    );
    // One prefix of three, as was asked, and the sums all the same.
    let seen = scrape(&here, to);
    let rows = |name: &str| {
        seen.keys()
            .filter(|series| series.starts_with(name))
            .count()
    };
    assert_eq!(
        rows("netmesh_prefix_forwarded_bytes_total{"),
        2,
        "both ways"
    );
    assert_eq!(
        rows("netmesh_network_forwarded_bytes_total{"),
        2,
        "both ways"
    );
    for (words, status) in [
        ("GET /", "200"),
        ("GET /other", "404"),
        ("POST /metrics", "405"),
        ("HEAD /metrics", "200"),
    ] {
        let (head, _) = request(&here, to, words, "*/*");
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{words}: {head}"
        );
    }
    // Only this machine is answered.
    assert!(to.ip().is_loopback());

    // Many who connect and say nothing, and some who ask and do not read.
    let idle = run_in(&here, || {
        let connect = |_| TcpStream::connect(to).expect("somebody listens");
        let mut idle: Vec<TcpStream> = (0..40).map(connect).collect();
        for stream in idle.iter_mut().take(20) {
            write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        }
        idle
    })
    .expect("the namespace");
    eventually("who asks is answered", Duration::from_secs(30), || {
        scrape(&here, to)["netmesh_ready"] == 1.0
    });
    drop(idle);
    // Tables of another version are told and left out.
    let (cookie, _) = netmesh::kernel::netns::identity(&here).expect("it is there");
    let other = format!("/sys/fs/bpf/netmesh/v1/ports@{cookie:x}");
    std::fs::create_dir_all(&other).expect("a folder");
    let seen = scrape(&here, to);
    let _ = std::fs::remove_dir(&other);
    let _ = std::fs::remove_dir("/sys/fs/bpf/netmesh/v1");
    assert_eq!(seen["netmesh_layout{namespace=\"node\"}"], 1.0);
    assert_eq!(seen["netmesh_scrape_left_out"], 1.0);
    // The daemon did its work meanwhile.
    let router = lab.name("router");
    lab.ip(
        "router",
        &format!("-6 route del {}", lab.prefix(&RESOURCES[1])),
    );
    eventually("the return route is back", SOON, || {
        let output = Command::new("ip")
            .args([
                "-n",
                &router,
                "-6",
                "route",
                "show",
                &lab.prefix(&RESOURCES[1]),
            ])
            .output()
            .expect("ip starts");
        !output.stdout.is_empty()
    });
}

#[test]
fn an_address_that_is_taken_is_told_and_no_metrics_are_served_unasked() {
    let lab = Lab::mesh();
    let daemon = Daemon::start(&lab, "node-2", &[]);
    daemon.until_told("READY=1");
    let taken = run_in(&lab.at("node-2"), || {
        // Nobody listens unless asked.
        let listening = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("sockets");
        assert_eq!(listening.lines().count(), 1, "{listening}");
        std::net::TcpListener::bind("127.0.0.1:0").expect("a socket")
    })
    .expect("the namespace");
    drop(daemon);
    let address = taken.local_addr().expect("an address").to_string();
    let output = lab.try_netmesh("node-2", &["run", "--metrics", &address]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&address) && said.contains("in use"), "{said}");
}
