//! What Prometheus sees of a daemon, and what else says the same: the command line, the dashboard.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use netmesh::kernel::netns::run_in;
use netmesh::plan::state::Namespace;
use serde_json::Value;

use crate::daemon::{Daemon, SOON};
use crate::{Lab, RESOURCES, eventually};

/// Where a daemon serves its metrics.
///
/// # Panics
/// When it does not.
#[must_use]
pub fn address(daemon: &Daemon) -> SocketAddr {
    let mut found = None;
    eventually("metrics are served", SOON, || {
        let log = daemon.log();
        let told = log
            .iter()
            .find(|line| line["message"] == "metrics are served");
        found = told.and_then(|line| line["address"].as_str()?.parse().ok());
        found.is_some()
    });
    found.expect("an address")
}

/// Status line and headers, and body, of one request.
///
/// # Panics
/// When nobody answers.
#[must_use]
pub fn request(at: &Namespace, to: SocketAddr, words: &str, accept: &str) -> (String, String) {
    let answer = run_in(at, || {
        let mut stream = TcpStream::connect(to).expect("somebody listens");
        stream.set_read_timeout(Some(SOON)).expect("a socket");
        write!(
            stream,
            "{words} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    })
    .expect("the namespace");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    (
        head.to_owned(),
        if chunked {
            whole(body)
        } else {
            body.to_owned()
        },
    )
}

/// The chunks of a body put together, which must be complete.
fn whole(mut body: &str) -> String {
    let mut text = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            return text;
        }
        text.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
}

/// What `netmesh counters --json` says, by the names that metrics have.
///
/// # Panics
/// When it says something else.
#[must_use]
pub fn counted(lab: &Lab, machine: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    let number = |value: &Value| value.as_u64().expect("a number") as f64;
    let ours: Vec<String> = RESOURCES.iter().map(|one| lab.prefix(one)).collect();
    for row in lab.json(machine, &["counters"])["prefixes"]
        .as_array()
        .expect("rows")
    {
        // The router's own unreachable route for the allocation is of no network.
        let known = ours.iter().any(|prefix| row["prefix"] == **prefix);
        let network = if known { lab.network() } else { "" };
        for direction in ["to", "from"] {
            for what in ["packets", "bytes"] {
                let series = format!(
                    "netmesh_prefix_forwarded_{what}_total{{namespace=\"node\",network=\"{}\",\
                     prefix={},direction=\"{direction}\"}}",
                    network, row["prefix"],
                );
                found.insert(series, number(&row[direction][what]));
            }
        }
    }
    let ports = lab.json(machine, &["counters", "--drops"])["ports"].clone();
    for row in ports.as_array().expect("rows") {
        let labels = format!("namespace=\"node\",port={}", row["port"]);
        let mut add = |name: &str, value| {
            found.insert(format!("netmesh_port_{name}_total{{{labels}}}"), value);
        };
        add("received_packets", number(&row["received"]));
        add("forwarded_packets", number(&row["forwarded"]["packets"]));
        add("forwarded_bytes", number(&row["forwarded"]["bytes"]));
        add("redirect_failed_packets", number(&row["redirect_failed"]));
        for (name, list) in [("passed", "punted"), ("dropped", "dropped")] {
            for reason in row[list].as_array().expect("reasons") {
                let labels = format!("{labels},reason={}", reason["reason"]);
                let series = format!("netmesh_port_{name}_packets_total{{{labels}}}");
                found.insert(series, number(&reason["packets"]));
            }
        }
    }
    found
}

/// A file of the work tree.
#[must_use]
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The Grafana dashboard.
///
/// # Panics
/// When it is no JSON.
#[must_use]
pub fn dashboard() -> Value {
    let text = std::fs::read_to_string(file("docs/grafana/netmesh.json")).expect("the dashboard");
    serde_json::from_str(&text).expect("JSON")
}
