//! A Prometheus as Debian ships it scrapes a running lab: what the dashboard asks for and what alerts
//! are about is there, and says what the counters say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use netmesh::demo::traffic::{ping, spoof};
use netmesh::kernel::netns::run_in;
use netmesh::plan::state::Namespace;
use netmesh_tests::daemon::{Daemon, SOON};
use netmesh_tests::scrape::{address, counted, dashboard, file, request};
use netmesh_tests::{INTERNET, Lab, RESOURCES, eventually, within};
use serde_json::Value;

/// Where the server listens, in a namespace of its own.
const SERVER: &str = "127.0.0.1:9090";

/// The group of rules that alert soon.
const SOON_ALERTS: &str = "netmesh-soon";

/// What the dashboard asks for and this lab has nothing to show of.
const MAY_BE_EMPTY: [(&str, &str); 2] = [
    (
        "netmesh_next_hop_usable",
        "only next hops that share a prefix are watched, and the lab has one exit",
    ),
    (
        "netmesh_neighbour_resolved",
        "shown while a neighbour is not resolved, and all are",
    ),
];

/// A server, ended with the test.
struct Prometheus {
    child: Child,
    at: Namespace,
    folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one that scrapes these, and waits until it answers; `PROMETHEUS` names another one than
    /// that in the path.
    fn start(at: Namespace, targets: &[(&str, SocketAddr)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("soon.yml"), soon()).expect("the rules");
        let mut config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{}', soon.yml]\nscrape_configs:\n- job_name: netmesh\n  \
             static_configs:\n",
            rules().display()
        );
        for (instance, target) in targets {
            config.push_str(&format!(
                "  - targets: ['{target}']\n    labels: {{ instance: {instance} }}\n"
            ));
        }
        fs::write(folder.path().join("prometheus.yml"), config).expect("the configuration");
        let server = std::env::var("PROMETHEUS").unwrap_or_else(|_| "prometheus".into());
        let mut command = Command::new(server);
        command
            .arg(format!(
                "--config.file={}",
                folder.path().join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={SERVER}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("log")).expect("a log"));
        let child = run_in(&at, || command.spawn()).expect("the namespace");
        let child = child.expect("prometheus starts: apt-get install prometheus");
        let mut server = Self { child, at, folder };
        eventually("Prometheus listens", SOON, || {
            let ended = server.child.try_wait().expect("a child");
            assert!(ended.is_none(), "it has ended: {}", server.log());
            let to: SocketAddr = SERVER.parse().expect("an address");
            let reached = run_in(&server.at, || std::net::TcpStream::connect(to).is_ok());
            reached.expect("the namespace")
        });
        eventually("Prometheus is ready", SOON, || {
            let (head, _) = server.get("/-/ready");
            head.starts_with("HTTP/1.1 200 ")
        });
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn get(&self, path: &str) -> (String, String) {
        let to = SERVER.parse().expect("an address");
        request(&self.at, to, &format!("GET {path}"), "*/*")
    }

    /// What the API answers, which must be a success without a warning.
    fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let parameters: Vec<String> = parameters
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(value)))
            .collect();
        let (_, body) = self.get(&format!("/api/v1/{path}?{}", parameters.join("&")));
        let mut answer: Value = serde_json::from_str(&body).expect("JSON");
        let good = answer["status"] == "success" && answer["warnings"].is_null();
        assert!(good, "{path} {parameters:?}: {body}");
        answer["data"].take()
    }

    /// The samples that an expression gives, by their labels.
    fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let answer = self.api("query", &[("query", expression)]);
        assert_eq!(answer["resultType"], "vector", "{expression}");
        let samples = answer["result"].as_array().expect("samples").iter();
        let value = |sample: &Value| sample["value"][1].as_str().expect("a value").parse();
        samples
            .map(|sample| (sample["metric"].clone(), value(sample).expect("a number")))
            .collect()
    }

    /// The one sample that an expression gives, if it gives any.
    fn one(&self, expression: &str) -> Option<f64> {
        let samples = self.query(expression);
        assert!(samples.len() <= 1, "{expression}: {samples:?}");
        samples.first().map(|(_, value)| *value)
    }

    /// Every rule, by its group and name.
    fn rules(&self) -> BTreeMap<(String, String), Value> {
        let answer = self.api("rules", &[]);
        let mut rules = BTreeMap::new();
        for group in answer["groups"].as_array().expect("groups") {
            for rule in group["rules"].as_array().expect("rules") {
                let name = |of: &Value| of["name"].as_str().expect("a name").to_owned();
                let before = rules.insert((name(group), name(rule)), rule.clone());
                assert!(before.is_none(), "twice: {rule}");
            }
        }
        rules
    }

    /// Instances for which an alert of the group that alerts soon fires.
    fn firing(&self, alert: &str) -> BTreeSet<String> {
        let rules = self.rules();
        let rule = &rules[&(SOON_ALERTS.to_owned(), alert.to_owned())];
        let alerts = rule["alerts"].as_array().expect("alerts").iter();
        alerts
            .filter(|alert| alert["state"] == "firing")
            .map(|alert| alert["labels"]["instance"].as_str().expect("one").into())
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("Prometheus's log:\n{}", self.log());
        }
    }
}

fn rules() -> PathBuf {
    let rules = file("packaging/prometheus/netmesh.rules.yml");
    rules.canonicalize().expect("the rules")
}

/// The rules as they are, but for how long they wait.
fn soon() -> String {
    let rules = fs::read_to_string(rules()).expect("the rules");
    let mut soon = String::new();
    for line in rules.lines() {
        let (indent, words) = line.split_at(line.len() - line.trim_start().len());
        soon.push_str(indent);
        soon.push_str(match words {
            "- name: netmesh" => "- name: netmesh-soon",
            words if words.starts_with("for: ") => "for: 1s",
            words => words,
        });
        soon.push('\n');
    }
    assert!(soon.contains(SOON_ALERTS) && soon.contains("for: 1s"));
    soon
}

/// As it stands in the query of a URL.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// What Grafana asks for when all of its variables are "All".
fn asked(expression: &str) -> String {
    let asked = expression
        .replace("$instance", ".*")
        .replace("$namespace", ".*")
        .replace("$__rate_interval", "1m");
    assert!(!asked.contains('$'), "a variable is not known: {asked}");
    asked
}

#[test]
#[ignore = "needs prometheus, of Debian"]
fn a_prometheus_that_scrapes_the_mesh_sees_it_as_it_is() {
    let mut lab = Lab::mesh();
    lab.machine("monitor");
    let mut places = BTreeMap::new();
    for (net, node) in ["node-1", "router"].into_iter().enumerate() {
        let eth = format!("eth{net}");
        lab.wire(("monitor", &eth), (node, "mon"));
        let prefix = format!("2001:db8:0:a{net}");
        lab.ip(
            "monitor",
            &format!("addr add {prefix}::1/64 dev {eth} nodad"),
        );
        lab.ip(node, &format!("addr add {prefix}::2/64 dev mon nodad"));
        places.insert(node, format!("[{prefix}::2]:0"));
    }
    for node in ["node-2", "node-3"] {
        let _ = lab.netmesh(node, &["apply"]);
    }
    let start = |node: &str| Daemon::start(&lab, node, &["--metrics", &places[node]]);
    let (exit, router) = (start("node-1"), start("router"));
    for (daemon, node) in [(&exit, "node-1"), (&router, "router")] {
        daemon.until_told("READY=1");
        lab.settles(node);
    }
    let targets = [("node-1", address(&exit)), ("router", address(&router))];
    let prometheus = Prometheus::start(lab.at("monitor"), &targets);
    eventually("both are scraped", SOON, || {
        prometheus.query("up == 1").len() == targets.len()
    });
    for target in prometheus.api("targets", &[])["activeTargets"]
        .as_array()
        .expect("targets")
    {
        assert_eq!(target["health"], "up", "{target}");
        assert_eq!(target["lastError"], "", "{target}");
    }

    traffic(&lab, &prometheus);
    panels(&prometheus);
    variables(&prometheus);
    figures(&lab, &prometheus);
    alerts(&lab, &prometheus);
    drop(exit);
    eventually("a daemon that has ended is down", SOON, || {
        prometheus.one("up{instance=\"node-1\"}") == Some(0.0)
    });
    assert_eq!(prometheus.one("up{instance=\"router\"}"), Some(1.0));
}

/// Packets that are forwarded, left to the kernel and dropped.
fn traffic(lab: &Lab, prometheus: &Prometheus) {
    let (web, from) = (lab.resource("web"), lab.address(&RESOURCES[1]).into());
    eventually("the mesh carries packets", SOON, || {
        ping(&web, from, INTERNET.into(), 104, 1).is_ok_and(|pings| pings.received == 1)
    });
    // A rate is that between two scrapes, and a reason has no series before its first packet.
    for round in 1..=2_u32 {
        let pings = ping(&web, from, INTERNET.into(), 600, 50).expect("a socket");
        assert_eq!(pings.received, 50);
        let router: IpAddr = "2a02:1800:10:1052::5".parse().expect("an address");
        let provider: IpAddr = "2a02:1800:10:1052::4".parse().expect("an address");
        let pings = ping(&lab.at("provider"), provider, router, 104, 5).expect("a socket");
        assert_eq!(pings.received, 5);
        // Who is inside does not come from outside.
        let (home, web) = (lab.address(&RESOURCES[2]), lab.address(&RESOURCES[1]));
        spoof(&lab.at("provider"), home, web).expect("it is sent");
        for (name, sent) in [("passed", 5 * round), ("dropped", round)] {
            let sum = format!("sum(netmesh_port_{name}_packets_total{{port=\"eth0\"}})");
            eventually(&sum, SOON, || {
                prometheus
                    .one(&sum)
                    .is_some_and(|seen| seen >= f64::from(sent))
            });
        }
    }
}

/// Every panel has something to show.
fn panels(prometheus: &Prometheus) {
    let dashboard = dashboard();
    let mut expressions = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.insert(asked(target["expr"].as_str().expect("an expression")));
        }
    }
    assert!(expressions.len() > 30, "{expressions:?}");
    for expression in &expressions {
        let may = |(name, _): &(&str, &str)| expression.starts_with(name);
        if MAY_BE_EMPTY.iter().any(may) {
            prometheus.query(expression);
            continue;
        }
        eventually(expression, SOON, || {
            let found = prometheus.query(expression);
            !found.is_empty() && found.iter().all(|(_, value)| value.is_finite())
        });
    }
    for (name, why) in MAY_BE_EMPTY {
        let asked = expressions.iter().any(|one| one.starts_with(name));
        assert!(asked, "nobody asks for {name} ({why})");
    }
}

/// The variables of the dashboard have values to choose from.
fn variables(prometheus: &Prometheus) {
    let dashboard = dashboard();
    let mut found = BTreeMap::new();
    for variable in dashboard["templating"]["list"].as_array().expect("a list") {
        let Some(query) = variable["query"]["query"].as_str() else {
            assert_eq!(variable["type"], "datasource");
            continue;
        };
        let words = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'));
        let (series, label) = words
            .and_then(|words| words.rsplit_once(", "))
            .expect("both");
        let path = format!("label/{label}/values");
        let values = prometheus.api(&path, &[("match[]", &asked(series))]);
        found.insert(label.to_owned(), values);
    }
    assert_eq!(found["instance"], serde_json::json!(["node-1", "router"]));
    let namespaces = found["namespace"].as_array().expect("values");
    assert!(namespaces.contains(&"node".into()), "{namespaces:?}");
    assert!(namespaces.len() > 1, "the exit's too: {namespaces:?}");
}

/// Series say what the command line says.
fn figures(lab: &Lab, prometheus: &Prometheus) {
    let web = lab.prefix(&RESOURCES[1]);
    let least = format!("prefix=\"{web}\",direction=\"to\"");
    let mut wrong = Vec::new();
    // Neighbours talk on their own, seldom enough to be caught up with.
    let same = within(SOON, || {
        let counted = counted(lab, "router");
        assert!(counted.iter().any(|(series, packets)| {
            series.contains("_packets_total") && series.contains(&least) && *packets >= 100.0
        }));
        wrong = counted
            .iter()
            .map(|(series, value)| {
                let series = series.replacen('{', "{instance=\"router\",", 1);
                let seen = prometheus.one(&series);
                (series, *value, seen)
            })
            .filter(|(_, value, seen)| *seen != Some(*value))
            .collect();
        // There are as many series as rows, neither more nor less.
        let of = |name: &str| {
            counted
                .keys()
                .filter(|series| series.starts_with(name))
                .count()
        };
        let name = "netmesh_prefix_forwarded_packets_total";
        let count = format!("count({name}{{instance=\"router\",namespace=\"node\"}})");
        assert_eq!(prometheus.one(&count), Some(of(name) as f64), "{count}");
        wrong.is_empty()
    });
    assert!(same, "counted and seen: {wrong:?}");
}

/// Every rule is taken; an alert fires while there is a cause.
fn alerts(lab: &Lab, prometheus: &Prometheus) {
    eventually("every rule has been looked at", SOON, || {
        let rules = prometheus.rules();
        rules.values().all(|rule| rule["health"] == "ok")
    });
    let found = prometheus.rules();
    let text = fs::read_to_string(rules()).expect("the rules");
    let written: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .map(ToOwned::to_owned)
        .collect();
    for group in ["netmesh", SOON_ALERTS] {
        let rules = found.keys().filter(|(of, _)| of == group);
        let names: BTreeSet<String> = rules.map(|(_, name)| name.clone()).collect();
        assert_eq!(names, written, "{group}");
    }

    // The cause, and its end.
    let (rejected, not_ready) = ("NetmeshObjectsRejected", "NetmeshNotReady");
    for alert in [rejected, not_ready] {
        eventually("nothing is wrong", SOON, || {
            prometheus.firing(alert).is_empty()
        });
    }
    let broken = lab.config("node-1").join("networks/broken.toml");
    fs::write(&broken, "network = 7\n").expect("an object");
    let only = BTreeSet::from(["node-1".to_owned()]);
    for alert in [rejected, not_ready] {
        eventually(alert, SOON, || prometheus.firing(alert) == only);
    }
    let rules = prometheus.rules();
    let told = &rules[&(SOON_ALERTS.to_owned(), rejected.to_owned())]["alerts"][0];
    let summary = told["annotations"]["summary"].as_str().expect("a summary");
    assert!(
        summary.starts_with("node-1: the objects are wrong"),
        "{told}"
    );
    // The rules as they are shipped wait longer.
    let waits = &rules[&("netmesh".to_owned(), rejected.to_owned())];
    assert_eq!(waits["state"], "pending", "{waits}");
    fs::remove_file(&broken).expect("it is there");
    for alert in [rejected, not_ready] {
        eventually("the alert ends", SOON, || {
            prometheus.firing(alert).is_empty()
        });
    }
    assert_eq!(
        prometheus.one("netmesh_ready{instance=\"node-1\"}"),
        Some(1.0)
    );
}
