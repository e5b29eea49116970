//! One reading of everything that is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::select::Selection;
use super::told::{Names, Report};
use crate::dataplane::counters::{Flow, PortCountersRow, PrefixRow};
use crate::dataplane::fib::origin_name;
use crate::dataplane::pin::Folder;
use crate::dataplane::programs::Program;
use crate::dataplane::{self, Capacity, View};
use crate::kernel::{Kernel, netns};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::{LinkName, Namespace};
use crate::reconcile::{self, identity};
use crate::wireguard::device::{self, PeerStatus};

/// A table of more prefixes than this is read as a whole once a minute only.
const LARGE: usize = 1 << 16;
/// How old figures of a large table may be.
const OLD: Duration = Duration::from_secs(60);

/// Both directions: to and from.
pub(super) type Flows = (Flow, Flow);

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) report: Report,
    pub(super) planes: Vec<Plane>,
    pub(super) tunnels: Vec<Tunnel>,
    /// Layout of the tables of each namespace that has any.
    pub(super) layouts: Vec<(String, u32)>,
    /// Usable neighbours of each namespace.
    pub(super) neighbours: Vec<(String, u64)>,
    /// Namespaces and tunnels that could not be read.
    pub(super) failed: u64,
    pub(super) took: Duration,
}

/// The data plane of one namespace.
#[derive(Debug)]
pub(super) struct Plane {
    pub(super) namespace: String,
    pub(super) ports: Vec<PortCountersRow>,
    pub(super) attached: Vec<Attached>,
    /// Programs on hooks.
    pub(super) programs: BTreeSet<Program>,
    pub(super) next_hops: u64,
    /// Those next hops that are neighbours, by device and address.
    pub(super) gateways: BTreeMap<(String, IpAddr), bool>,
    /// Prefixes that have series of their own, with their network.
    pub(super) prefixes: Vec<(PrefixRow, String)>,
    /// Sums over all prefixes of each network.
    pub(super) networks: BTreeMap<String, Flows>,
    pub(super) counted: u64,
    pub(super) capacity: Capacity,
    pub(super) table: Table,
}

/// One port and how it is attached.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) port: String,
    pub(super) link: &'static str,
}

/// Figures of the route table.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// Routes of each origin.
    pub(super) routes: BTreeMap<&'static str, u64>,
    /// Routes in use whose next hop has no link-layer address.
    pub(super) unresolved: u64,
    /// Prefixes that are never forwarded to: the node's own.
    own: BTreeSet<IpNet>,
}

/// One peer of a tunnel.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) namespace: String,
    pub(super) interface: LinkName,
    pub(super) peer: String,
    pub(super) status: PeerStatus,
}

/// What is kept from one reading to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    tables: BTreeMap<Namespace, (Instant, Table)>,
}

/// Reads everything. What cannot be read is left out and counted.
pub(super) async fn read(report: Report, selection: Selection, memory: &mut Memory) -> Reading {
    let begun = Instant::now();
    // Opened for this reading only: a socket would keep a namespace alive that was removed.
    let mut kernel = Kernel::default();
    let (mut planes, mut neighbours, mut failed) = (Vec::new(), Vec::new(), 0);
    let mut layouts = Vec::new();
    memory
        .tables
        .retain(|namespace, _| report.namespaces.contains(namespace));
    for namespace in &report.namespaces {
        // Also of tables that this binary cannot read, which are left out.
        let layout = identity(namespace).ok().map(Folder::layout_of);
        if let Some(Ok(Some(layout))) = layout {
            layouts.push((namespace.to_string(), layout));
        }
        match plane(&mut kernel, namespace, &report.names, selection, memory).await {
            Ok((count, plane)) => {
                neighbours.push((namespace.to_string(), count));
                planes.extend(plane);
            }
            Err(error) => {
                tracing::debug!("{namespace} is left out of the metrics: {error}");
                failed += 1;
            }
        }
    }
    let mut tunnels = Vec::new();
    for (namespace, interface) in &report.tunnels {
        let Ok(Ok(peers)) = netns::run_in(namespace, || device::status(interface)) else {
            failed += 1;
            continue;
        };
        for (key, status) in peers {
            // One that is not ours is told from others by the start of its public key.
            let peer = report.names.peers.get(&key).cloned();
            tunnels.push(Tunnel {
                namespace: namespace.to_string(),
                interface: interface.clone(),
                peer: peer.unwrap_or_else(|| key.0.chars().take(8).collect()),
                status,
            });
        }
    }
    Reading {
        report,
        planes,
        tunnels,
        layouts,
        neighbours,
        failed,
        took: begun.elapsed(),
    }
}

/// The number of usable neighbours, and the data plane if there is one.
async fn plane(
    kernel: &mut Kernel,
    namespace: &Namespace,
    names: &Names,
    selection: Selection,
    memory: &mut Memory,
) -> Result<(u64, Option<Plane>), reconcile::Error> {
    let facts = kernel.facts(namespace).await?;
    let id = identity(namespace)?;
    let known = memory.tables.get(namespace).cloned();
    let found = netns::run_in(namespace, || -> Result<_, dataplane::Error> {
        let Some(view) = View::open(id)? else {
            return Ok(None);
        };
        look(&view, namespace, &facts, names, selection, known).map(Some)
    })??;
    let count = facts.neighbours.len() as u64;
    Ok((
        count,
        found.map(|(plane, at)| {
            memory
                .tables
                .insert(namespace.clone(), (at, plane.table.clone()));
            plane
        }),
    ))
}

fn look(
    view: &View,
    namespace: &Namespace,
    facts: &NamespaceFacts,
    names: &Names,
    selection: Selection,
    known: Option<(Instant, Table)>,
) -> Result<(Plane, Instant), dataplane::Error> {
    let mut rows = view.prefix_counters()?;
    let counted = rows.len();
    let mut networks: BTreeMap<String, Flows> = BTreeMap::new();
    for name in names.networks.values() {
        networks.entry(name.clone()).or_default();
    }
    for row in &rows {
        let sums = names.networks.get(&row.prefix);
        if let Some((to, from)) = sums.and_then(|name| networks.get_mut(name)) {
            add(to, row.to);
            add(from, row.from);
        }
    }
    let recent = known.filter(|(at, _)| counted > LARGE && at.elapsed() < OLD);
    let (at, table) = match recent {
        Some(recent) => recent,
        None => (Instant::now(), table(view, facts)?),
    };
    rows.retain(|row| !table.own.contains(&row.prefix));
    selection.keep(&mut rows);
    let prefixes = rows.into_iter().map(|row| {
        let network = names.networks.get(&row.prefix).cloned();
        (row, network.unwrap_or_default())
    });
    let attached = view.ports(facts)?.into_iter().map(|row| Attached {
        port: row.name.unwrap_or_else(|| format!("if{}", row.ifindex)),
        link: row.link,
    });
    let hops = view.next_hops()?;
    let gateways = hops.iter().filter_map(|hop| {
        let name = facts.name_of(hop.ifindex).cloned();
        let device = name.unwrap_or_else(|| format!("if{}", hop.ifindex));
        Some(((device, hop.neighbour?), hop.resolved))
    });
    let plane = Plane {
        namespace: namespace.to_string(),
        ports: view.port_counters(facts)?,
        attached: attached.collect(),
        programs: view.programs()?,
        next_hops: hops.len() as u64,
        gateways: gateways.collect(),
        prefixes: prefixes.collect(),
        networks,
        counted: counted as u64,
        capacity: view.capacity(),
        table,
    };
    Ok((plane, at))
}

/// Figures of the table.
fn table(view: &View, facts: &NamespaceFacts) -> Result<Table, dataplane::Error> {
    let sums = view.route_sums(facts)?;
    let routes = sums.origins.into_iter();
    Ok(Table {
        routes: routes
            .map(|(origin, count)| (origin_name(origin), count))
            .collect(),
        unresolved: sums.unresolved,
        own: sums.connected,
    })
}

fn add(sum: &mut Flow, more: Flow) {
    sum.packets += more.packets;
    sum.bytes += more.bytes;
}
