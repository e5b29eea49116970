//! What the demo proves.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::report::Report;
use super::topology::{INTERNET, Lab, NODES, PLACES, Place};
use super::traffic::{Watch, ping, spoof, tcp};
use crate::kernel::snmp::{self, KernelForwarded};
use crate::plan::state::Namespace;

/// IP sizes of the echo requests, up to the tunnel's MTU.
const SIZES: [usize; 3] = [104, 700, 1420];
/// Echo requests of each size in the counted burst.
const BURST: u32 = 10;
/// Bytes of a TCP transfer.
const TRANSFER: usize = 1 << 20;

/// A group of checks.
type Group<W> = fn(&Lab, &mut Report<'_, W>) -> anyhow::Result<()>;

/// Runs all checks.
pub(super) fn run<W: Write>(lab: &Lab, report: &mut Report<'_, W>) -> anyhow::Result<()> {
    let groups: [Group<W>; 9] = [
        apply,
        meet,
        outward,
        inward,
        transfers,
        among_resources,
        forbidden,
        counted,
        again,
    ];
    for group in groups {
        report.go_on()?;
        group(lab, report)?;
    }
    Ok(())
}

fn apply<W: Write>(lab: &Lab, report: &mut Report<'_, W>) -> anyhow::Result<()> {
    for (machine, node) in NODES {
        let started = Instant::now();
        let answer = lab.netmesh(machine, &["--json", "apply"])?;
        let document: Value = serde_json::from_str(&answer.stdout).context("apply --json")?;
        let steps = document["steps"].as_array().map_or(0, Vec::len);
        let detail = format!("{steps} steps in {} ms", started.elapsed().as_millis());
        report.check(format!("apply on {node}"), steps > 0, detail)?;
    }
    Ok(())
}

/// Waits until tunnels and neighbours are up: the first packets of a mesh make them so.
fn meet<W: Write>(lab: &Lab, report: &mut Report<'_, W>) -> anyhow::Result<()> {
    let started = Instant::now();
    let deadline = started + Duration::from_secs(15);
    for place in &PLACES {
        loop {
            report.go_on()?;
            let pings = ping(
                &place.namespace(),
                place.address().into(),
                internet()?,
                104,
                1,
            )?;
            if pings.received == 1 {
                break;
            }
            if Instant::now() > deadline {
                bail!("{} does not reach the internet host", place.label());
            }
        }
    }
    // The follower may miss a change; a neighbour has another within 55 seconds.
    let deadline = started + Duration::from_secs(75);
    loop {
        let planes = ["nmd-router", "nm-alice-gw", "nm-bob-gw"];
        let mut unresolved = 0;
        for plane in planes {
            let document = json(lab, plane, &["dataplane", "status"])?;
            unresolved += document["instance"]["unresolved"].as_u64().unwrap_or(1);
        }
        if unresolved == 0 {
            break;
        }
        if Instant::now() > deadline {
            bail!("{unresolved} next hops stay unresolved");
        }
        report.go_on()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    let detail = format!("in {} ms", started.elapsed().as_millis());
    report.check("handshakes done, next hops resolved", true, detail)
}

fn outward<W: Write>(_: &Lab, report: &mut Report<'_, W>) -> anyhow::Result<()> {
    for place in &PLACES {
        let name = format!("{} -> internet", place.label());
        echoes(
            report,
            name,
            &place.namespace(),
            place.address().into(),
            internet()?,
        )?;
    }
    Ok(())
}

fn inward<W: Write>(_: &Lab, report: &mut Report<'_, W>) -> anyhow::Result<()> {
    for place in &PLACES {
        let name = format!("internet -> {}", place.label());
        echoes(
            report,
            name,
            &machine("internet"),
            internet()?,
            place.address().into(),
        )?;
    }
    Ok(())
}

/// Three echoes of each size.
fn echoes<W: Write>(
    report: &mut Report<'_, W>,
    name: String,
    namespace: &Namespace,
    from: IpAddr,
    to: IpAddr,
) -> anyhow::Result<()> {
    let mut sent = 0;
    let mut received = 0;
    for size in SIZES {
        let pings = ping(namespace, from, to, size, 3)?;
        sent += pings.sent;
        received += pings.received;
    }
    let detail = format!("{received}/{sent} echoes of {SIZES:?} bytes");
    report.check(name, sent == received, detail)
}

fn transfers<W: Write>(_: &Lab, report: &mut Report<'_, W>) -> anyhow::Result<()> {
    let host = machine("internet");
    for place in &PLACES {
        let namespace = place.namespace();
        let here = (&namespace, IpAddr::V6(place.address()));
        let there = (&host, internet()?);
        for (name, client, server) in [
            (format!("TCP {} -> internet", place.label()), here, there),
            (format!("TCP internet -> {}", place.label()), there, here),
        ] {
            match tcp(client, server, TRANSFER) {
                Ok(took) => {
                    let rate = TRANSFER as f64 * 8.0 / took.as_secs_f64() / 1e6;
                    report.check(name, true, format!("1 MiB intact, {rate:.0} Mbit/s"))?;
                }
                Err(error) => report.check(name, false, format!("{error:#}"))?,
            }
        }
    }
    Ok(())
}

fn among_resources<W: Write>(_: &Lab, report: &mut Report<'_, W>) -> anyhow::Result<()> {
    for (i, from) in PLACES.iter().enumerate() {
        for to in &PLACES[i + 1..] {
            let inside = from.network == to.network;
            let (one, two) = (IpAddr::V6(from.address()), IpAddr::V6(to.address()));
            let forth = ping(&from.namespace(), one, two, 1420, 2)?;
            let back = ping(&to.namespace(), two, one, 104, 2)?;
            let ok = forth.received == forth.sent && back.received == back.sent;
            let way = if inside {
                "inside the mesh"
            } else {
                "through the router"
            };
            let detail = format!("{}/4 echoes {way}", forth.received + back.received);
            report.check(format!("{} <-> {}", from.label(), to.label()), ok, detail)?;
            if inside {
                let pings = ping(
                    &from.namespace(),
                    from.ipv4().into(),
                    to.ipv4().into(),
                    500,
                    2,
                )?;
                let name = format!("IPv4 {} -> {}", from.ipv4(), to.ipv4());
                let detail = format!("{}/{} echoes", pings.received, pings.sent);
                report.check(name, pings.sent == pings.received, detail)?;
            }
        }
    }
    Ok(())
}

/// Forbidden packets of one kind.
const SPOOFED: u64 = 5;
/// Bytes of each: an IPv6 header.
const SPOOFED_BYTES: u64 = 40;

/// Sources that are not the sender's own: from a member, WireGuard at the exit drops them; from
/// an exit itself, the router does. Both are seen to get that far and no further.
fn forbidden<W: Write>(lab: &Lab, report: &mut Report<'_, W>) -> anyhow::Result<()> {
    let host: Ipv6Addr = INTERNET.parse()?;
    let foreign: Ipv6Addr = "2a02:1800:30::66".parse()?;
    let bob = PLACES[5].address();
    for (place, source, who) in [
        (&PLACES[1], bob, "another network's"),
        (&PLACES[1], foreign, "a foreign"),
        (&PLACES[0], foreign, "a foreign"),
    ] {
        let before = (dropped(lab)?, at_exit(lab, place)?);
        let watch = Watch::open(&machine("internet"), source)?;
        for _ in 0..SPOOFED {
            spoof(&place.namespace(), source, host)?;
        }
        let seen = watch.count(Duration::from_millis(300))?;
        let drops = dropped(lab)? - before.0;
        let after = at_exit(lab, place)?;
        let (bytes, refused) = (
            after.bytes - before.1.bytes,
            after.refused - before.1.refused,
        );
        let (stopped, detail) = if place.exit {
            let detail = format!("the router counted {drops} drops");
            (drops == SPOOFED, detail)
        } else if refused > 0 {
            let detail = format!("the exit's WireGuard refused {refused}");
            (drops == 0 && refused == SPOOFED, detail)
        } else {
            let detail = format!("the exit's WireGuard took in {bytes} bytes, passed on none");
            (drops == 0 && bytes >= SPOOFED * SPOOFED_BYTES, detail)
        };
        report.check(
            format!("{}: {who} source goes nowhere", place.label()),
            seen == 0 && stopped,
            format!("{SPOOFED} sent, {seen} arrived; {detail}"),
        )?;
    }
    // The same way with the right source does arrive: the check above can fail.
    for place in &PLACES[..2] {
        let watch = Watch::open(&machine("internet"), place.address())?;
        spoof(&place.namespace(), place.address(), host)?;
        let seen = watch.count(Duration::from_secs(2))?;
        report.check(
            format!("{}: its own source arrives", place.label()),
            seen == 1,
            format!("{seen} of 1"),
        )?;
    }
    Ok(())
}

/// What the WireGuard device of alice's exit has seen of a member. The kernel's counts what it
/// refuses as errors of the device, the embedded one as bytes of the peer.
#[derive(Default)]
struct AtExit {
    bytes: u64,
    refused: u64,
}

fn at_exit(lab: &Lab, member: &Place) -> anyhow::Result<AtExit> {
    if member.exit {
        return Ok(AtExit::default()); // It has no tunnel to itself.
    }
    let document = json(lab, "nmd-node-1", &["status"])?;
    let tunnels = document["tunnels"].as_array().context("no tunnels")?;
    let exit = PLACES[0].namespace();
    let name = exit.to_string();
    let row = tunnels
        .iter()
        .find(|row| row["namespace"] == name && row["peer"] == member.label())
        .context("the exit has no tunnel to it")?;
    let device = row["interface"]
        .as_str()
        .context("a tunnel without interface")?;
    Ok(AtExit {
        bytes: row["received_bytes"].as_u64().unwrap_or(0),
        refused: snmp::receive_errors(&exit, device)?,
    })
}

/// Packets the router dropped for their source.
fn dropped(lab: &Lab) -> anyhow::Result<u64> {
    let document = json(lab, "nmd-router", &["counters", "--drops"])?;
    let ports = document["ports"].as_array().context("no ports")?;
    Ok(ports
        .iter()
        .flat_map(|port| port["dropped"].as_array().into_iter().flatten())
        .filter(|row| row["reason"] == "source_invalid")
        .filter_map(|row| row["packets"].as_u64())
        .sum())
}

/// A burst of known size: the kernel forwards none of it, and the counters say exactly what was
/// sent.
fn counted<W: Write>(lab: &Lab, report: &mut Report<'_, W>) -> anyhow::Result<()> {
    let planes: Vec<Namespace> = ["nmd-router", "nm-alice-gw", "nm-bob-gw"]
        .iter()
        .map(|name| Namespace::Named((*name).to_owned()))
        .collect();
    let kernel_before: Vec<KernelForwarded> = planes
        .iter()
        .map(snmp::forwarded)
        .collect::<Result<_, _>>()?;
    let before = counters(lab)?;
    let mut sent = BTreeMap::new();
    for place in &PLACES {
        for size in SIZES {
            let pings = ping(
                &place.namespace(),
                place.address().into(),
                internet()?,
                size,
                BURST,
            )?;
            let entry: &mut (u64, u64) = sent.entry(place.prefix()).or_default();
            entry.0 += u64::from(pings.received);
            entry.1 += u64::from(pings.received) * size as u64;
        }
    }
    let after = counters(lab)?;
    for (plane, before) in planes.iter().zip(kernel_before) {
        let after = snmp::forwarded(plane)?;
        let moved = after.ipv6 - before.ipv6 + after.ipv4 - before.ipv4;
        let name = format!("the kernel of {plane} forwarded nothing");
        report.check(
            name,
            moved == 0,
            format!("{moved} packets during the burst"),
        )?;
    }
    let total = u64::from(BURST) * SIZES.len() as u64;
    for place in &PLACES {
        let delta = delta(&before, &after, place);
        let (packets, bytes) = sent[&place.prefix()];
        let ok = packets == total && delta == [packets, bytes, packets, bytes];
        let detail = format!(
            "sent {packets} packets, {bytes} bytes each way; counted {} {} to, {} {} from",
            delta[0], delta[1], delta[2], delta[3]
        );
        report.check(
            format!("counters of {} are exact", place.prefix()),
            ok,
            detail,
        )?;
        report.prefixes.push(serde_json::json!({
            "prefix": place.prefix(),
            "to": { "packets": delta[0], "bytes": delta[1] },
            "from": { "packets": delta[2], "bytes": delta[3] },
        }));
    }
    Ok(())
}

fn again<W: Write>(lab: &Lab, report: &mut Report<'_, W>) -> anyhow::Result<()> {
    for (machine, node) in NODES {
        let answer = lab.netmesh(machine, &["--json", "plan", "--exit-code"])?;
        let document: Value = serde_json::from_str(&answer.stdout)?;
        let pending = document["pending"].as_u64().unwrap_or(u64::MAX);
        let name = format!("a second apply on {node} has nothing to do");
        report.check(name, answer.code == 0, format!("{pending} steps pending"))?;
    }
    Ok(())
}

/// Packets and bytes, to and from.
type Row = [u64; 4];

fn counters(lab: &Lab) -> anyhow::Result<BTreeMap<String, Row>> {
    let document = json(lab, "nmd-router", &["counters"])?;
    let rows = document["prefixes"].as_array().context("no prefixes")?;
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    Ok(rows
        .iter()
        .map(|row| {
            let prefix = row["prefix"].as_str().unwrap_or_default().to_owned();
            let (to, from) = (&row["to"], &row["from"]);
            let values = [
                &to["packets"],
                &to["bytes"],
                &from["packets"],
                &from["bytes"],
            ];
            (prefix, values.map(number))
        })
        .collect())
}

fn delta(before: &BTreeMap<String, Row>, after: &BTreeMap<String, Row>, place: &Place) -> Row {
    let of = |rows: &BTreeMap<String, Row>| rows.get(&place.prefix()).copied().unwrap_or_default();
    let (before, after) = (of(before), of(after));
    std::array::from_fn(|i| after[i].saturating_sub(before[i]))
}

fn json(lab: &Lab, machine: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    let mut all = vec!["--json"];
    all.extend(arguments);
    let answer = lab.netmesh(machine, &all)?;
    serde_json::from_str(&answer.stdout).with_context(|| format!("netmesh {}", all.join(" ")))
}

fn machine(name: &str) -> Namespace {
    Namespace::Named(format!("nmd-{name}"))
}

fn internet() -> anyhow::Result<IpAddr> {
    Ok(INTERNET.parse()?)
}
