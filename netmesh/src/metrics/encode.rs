//! The names and labels of what is shown: the conventions of Prometheus, base units, `_total`.

use std::fmt;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use netmesh_common::table::MAX_NEXT_HOPS;

use super::read::{Plane, Reading};
use crate::dataplane::counters::{Flow, PortCountersRow};
use crate::wireguard::device::ALIVE;

/// Writes a reading in the OpenMetrics text format.
///
/// # Errors
/// When the writer takes no more.
pub(super) fn write(reading: Reading, out: &mut impl fmt::Write) -> fmt::Result {
    let mut registry = Registry::with_prefix("netmesh");
    registry.register_collector(Box::new(reading));
    encode(out, &registry)
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// One family: its descriptor is written once, its samples after it.
struct Family<'a>(MetricEncoder<'a>);

impl Family<'_> {
    fn count(&mut self, labels: &Labels<'_>, value: u64) -> fmt::Result {
        if labels.is_empty() {
            return self.0.encode_counter::<NoLabelSet, u64, u64>(&value, None);
        }
        ConstCounter::new(value).encode(self.0.encode_family(labels)?)
    }

    fn gauge(&mut self, labels: &Labels<'_>, value: f64) -> fmt::Result {
        if labels.is_empty() {
            return self.0.encode_gauge(&value);
        }
        ConstGauge::new(value).encode(self.0.encode_family(labels)?)
    }
}

fn counter<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    unit: Option<&'a Unit>,
    help: &str,
) -> Result<Family<'a>, fmt::Error> {
    let family = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    Ok(Family(family))
}

fn gauge<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    unit: Option<&'a Unit>,
    help: &str,
) -> Result<Family<'a>, fmt::Error> {
    let family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    Ok(Family(family))
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let e = &mut encoder;
        self.node(e)?;
        self.ports(e)?;
        self.flows(e)?;
        self.programs(e)?;
        self.tables(e)?;
        self.next_hops(e)?;
        self.tunnels(e)
    }
}

impl Reading {
    fn node(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let report = &self.report;
        let none = Labels::new();
        let labels = vec![
            ("version", env!("CARGO_PKG_VERSION")),
            ("node", report.node.as_str()),
        ];
        gauge(e, "build_info", None, "What runs here, always 1.")?.gauge(&labels, 1.0)?;
        let mut one = |name, unit: Option<&Unit>, help, value| {
            gauge(e, name, unit, help).and_then(|mut family| family.gauge(&none, value))
        };
        let truth = |is| if is { 1.0 } else { 0.0 };
        one(
            "ready",
            None,
            "The node is what its objects say, and they are right.",
            truth(report.ready),
        )?;
        one(
            "objects_last_reload_successful",
            None,
            "The objects were right when they were read last.",
            truth(report.objects_good),
        )?;
        if let Some(read) = report.objects_read {
            let since = read.duration_since(UNIX_EPOCH).unwrap_or_default();
            one(
                "objects_last_reload_success_timestamp",
                Some(&Unit::Seconds),
                "When the objects were read last and found right.",
                since.as_secs_f64(),
            )?;
        }
        one(
            "reconcile_last_duration",
            Some(&Unit::Seconds),
            "How long the last pass took.",
            report.took.as_secs_f64(),
        )?;
        one(
            "scrape_duration",
            Some(&Unit::Seconds),
            "How long reading this took, without writing it.",
            self.took.as_secs_f64(),
        )?;
        one(
            "scrape_left_out",
            None,
            "Namespaces and tunnels that could not be read and are not in here.",
            self.failed as f64,
        )?;
        let help = "Passes over the node, by outcome.";
        let mut passes = counter(e, "reconcile_passes", None, help)?;
        for (outcome, value) in [
            ("unchanged", report.unchanged),
            ("changed", report.changed),
            ("failed", report.failed),
        ] {
            passes.count(&vec![("outcome", outcome)], value)?;
        }
        let help = "Steps taken to make the node what its objects say.";
        counter(e, "reconcile_steps", None, help)?.count(&none, report.steps)
    }

    fn ports(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let rows = || {
            self.planes
                .iter()
                .flat_map(|plane| plane.ports.iter().map(move |row| (plane, row)))
        };
        type Get = fn(&PortCountersRow) -> u64;
        let plain: [(&str, Option<Unit>, &str, Get); 4] = [
            (
                "port_received_packets",
                None,
                "Packets a port's program has seen.",
                |row| row.received,
            ),
            (
                "port_forwarded_packets",
                None,
                "Packets handed to another device and taken by it.",
                |row| row.forwarded.packets,
            ),
            (
                "port_forwarded",
                Some(Unit::Bytes),
                "IP bytes handed to another device.",
                |row| row.forwarded.bytes,
            ),
            (
                "port_redirect_failed_packets",
                None,
                "Packets handed to another device and not taken by it: lost.",
                |row| row.redirect_failed,
            ),
        ];
        for (name, unit, help, get) in &plain {
            let mut family = counter(e, name, unit.as_ref(), help)?;
            for (plane, row) in rows() {
                family.count(&port(plane, row), get(row))?;
            }
        }
        let help = "Packets left to the kernel, by reason.";
        let mut family = counter(e, "port_passed_packets", None, help)?;
        for (plane, row) in rows() {
            for reason in &row.punted {
                let mut labels = port(plane, row);
                labels.push(("reason", reason.reason));
                family.count(&labels, reason.packets)?;
            }
        }
        let help = "Packets dropped, by reason.";
        let mut family = counter(e, "port_dropped_packets", None, help)?;
        for (plane, row) in rows() {
            for reason in &row.dropped {
                let mut labels = port(plane, row);
                labels.push(("reason", reason.reason));
                family.count(&labels, reason.packets)?;
            }
        }
        let help = "A program is attached to the port, always 1; hook says where.";
        let mut family = gauge(e, "port_attached", None, help)?;
        for plane in &self.planes {
            for attached in &plane.attached {
                let labels = vec![
                    ("namespace", plane.namespace.as_str()),
                    ("port", attached.port.as_str()),
                    ("hook", attached.link),
                ];
                family.gauge(&labels, 1.0)?;
            }
        }
        Ok(())
    }

    fn flows(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Get = fn(&Flow) -> u64;
        let both: [(&str, &str, Option<Unit>, &str, Get); 2] = [
            (
                "prefix_forwarded_packets",
                "network_forwarded_packets",
                None,
                "Packets forwarded",
                |flow| flow.packets,
            ),
            (
                "prefix_forwarded",
                "network_forwarded",
                Some(Unit::Bytes),
                "IP bytes forwarded",
                |flow| flow.bytes,
            ),
        ];
        for (prefix, network, unit, what, get) in &both {
            let help = format!("{what} to or from a prefix.");
            let mut family = counter(e, prefix, unit.as_ref(), &help)?;
            for plane in &self.planes {
                for (row, network) in &plane.prefixes {
                    let text = row.prefix.to_string();
                    for (direction, flow) in [("to", &row.to), ("from", &row.from)] {
                        let labels = vec![
                            ("namespace", plane.namespace.as_str()),
                            ("network", network.as_str()),
                            ("prefix", text.as_str()),
                            ("direction", direction),
                        ];
                        family.count(&labels, get(flow))?;
                    }
                }
            }
            let help = format!("{what} to or from all prefixes of a network.");
            let mut family = counter(e, network, unit.as_ref(), &help)?;
            for plane in &self.planes {
                for (name, (to, from)) in &plane.networks {
                    for (direction, flow) in [("to", to), ("from", from)] {
                        let labels = vec![
                            ("namespace", plane.namespace.as_str()),
                            ("network", name.as_str()),
                            ("direction", direction),
                        ];
                        family.count(&labels, get(flow))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn programs(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "A program on a hook, always 1; tag is the kernel's hash of its instructions.";
        let mut family = gauge(e, "program_info", None, help)?;
        for plane in &self.planes {
            for program in &plane.programs {
                let tag = format!("{:016x}", program.tag);
                let labels = vec![
                    ("namespace", plane.namespace.as_str()),
                    ("program", program.name),
                    ("tag", tag.as_str()),
                ];
                family.gauge(&labels, 1.0)?;
            }
        }
        let help = "Version of the layout of the pinned tables.";
        let mut family = gauge(e, "layout", None, help)?;
        for (namespace, layout) in &self.layouts {
            let labels = vec![("namespace", namespace.as_str())];
            family.gauge(&labels, f64::from(*layout))?;
        }
        Ok(())
    }

    fn tables(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = gauge(e, "routes", None, "Routes in the table, by origin.")?;
        for plane in &self.planes {
            for (origin, count) in &plane.table.routes {
                let labels = vec![("namespace", plane.namespace.as_str()), ("origin", *origin)];
                family.gauge(&labels, *count as f64)?;
            }
        }
        type Get = fn(&Plane) -> u64;
        let plain: [(&str, &str, Get); 6] = [
            (
                "routes_capacity",
                "Prefixes of one address family the table can hold.",
                |plane| plane.capacity.routes.into(),
            ),
            (
                "routes_unresolved",
                "Routes in use whose next hop has no link-layer address: the kernel forwards.",
                |plane| plane.table.unresolved,
            ),
            ("counted_prefixes", "Prefixes that are counted.", |plane| {
                plane.counted
            }),
            (
                "counted_prefixes_capacity",
                "Prefixes that can be counted.",
                |plane| plane.capacity.counters.into(),
            ),
            (
                "next_hops",
                "Next hops of routes, each counted once.",
                |plane| plane.next_hops,
            ),
            (
                "next_hops_capacity",
                "Next hops the table can hold.",
                |_| u64::from(MAX_NEXT_HOPS) - 1,
            ),
        ];
        for (name, help, get) in plain {
            let mut family = gauge(e, name, None, help)?;
            for plane in &self.planes {
                let labels = vec![("namespace", plane.namespace.as_str())];
                family.gauge(&labels, get(plane) as f64)?;
            }
        }
        Ok(())
    }

    fn next_hops(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Packets for this neighbour are forwarded: its link-layer address is known.";
        let mut family = gauge(e, "neighbour_resolved", None, help)?;
        for plane in &self.planes {
            for ((interface, gateway), resolved) in &plane.gateways {
                let gateway = gateway.to_string();
                let labels = vec![
                    ("namespace", plane.namespace.as_str()),
                    ("interface", interface.as_str()),
                    ("gateway", gateway.as_str()),
                ];
                family.gauge(&labels, if *resolved { 1.0 } else { 0.0 })?;
            }
        }
        let help = "The next hop answers, and its groups use it.";
        let mut family = gauge(e, "next_hop_usable", None, help)?;
        for hop in &self.report.next_hops {
            let namespace = hop.namespace.to_string();
            let gateway = hop.address.map(|address| address.to_string());
            let labels = vec![
                ("namespace", namespace.as_str()),
                ("interface", hop.interface.as_str()),
                ("gateway", gateway.as_deref().unwrap_or_default()),
            ];
            family.gauge(&labels, if hop.usable { 1.0 } else { 0.0 })?;
        }
        let help = "Times that a next hop failed and was taken out of its groups.";
        let mut family = counter(e, "next_hop_withdrawals", None, help)?;
        family.count(&Labels::new(), self.report.withdrawals)?;
        let help = "Neighbours with a usable link-layer address.";
        let mut family = gauge(e, "neighbours", None, help)?;
        for (namespace, count) in &self.neighbours {
            family.gauge(&vec![("namespace", namespace.as_str())], *count as f64)?;
        }
        Ok(())
    }

    fn tunnels(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let rows = || {
            self.tunnels.iter().map(|tunnel| {
                let labels = vec![
                    ("namespace", tunnel.namespace.as_str()),
                    ("interface", tunnel.interface.as_str()),
                    ("peer", tunnel.peer.as_str()),
                ];
                (labels, &tunnel.status)
            })
        };
        let bytes = Some(&Unit::Bytes);
        let help = "Bytes received from a peer, decrypted and good.";
        let mut family = counter(e, "tunnel_received", bytes, help)?;
        for (labels, status) in rows() {
            family.count(&labels, status.received)?;
        }
        let help = "Bytes sent to a peer.";
        let mut family = counter(e, "tunnel_sent", bytes, help)?;
        for (labels, status) in rows() {
            family.count(&labels, status.sent)?;
        }
        let help = "Age of the latest handshake with a peer; absent when there was none.";
        let mut family = gauge(e, "tunnel_handshake_age", Some(&Unit::Seconds), help)?;
        for (labels, status) in rows() {
            if let Some(age) = status.handshake_age {
                family.gauge(&labels, age.as_secs_f64())?;
            }
        }
        let help = "The latest handshake with a peer is young enough for packets to be taken.";
        let mut family = gauge(e, "tunnel_up", None, help)?;
        for (labels, status) in rows() {
            let up = status.handshake_age.is_some_and(|age| age < ALIVE);
            family.gauge(&labels, if up { 1.0 } else { 0.0 })?;
        }
        Ok(())
    }
}

fn port<'a>(plane: &'a Plane, row: &'a PortCountersRow) -> Labels<'a> {
    vec![
        ("namespace", plane.namespace.as_str()),
        ("port", row.port.as_str()),
    ]
}
