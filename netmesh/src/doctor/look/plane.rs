//! The data plane of the node's namespace: its ports, what else sits on them, its tables.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use super::super::Objects;
use super::super::judge::{Below, Fill, Occupied, Offers, Port, Tables, WayOut};
use super::{in_initial, setting};
use crate::dataplane::attach::PortRow;
use crate::dataplane::fill::Level;
use crate::dataplane::{View, probe};
use crate::kernel::{Kernel, ethtool};
use crate::plan::facts::{Device, NamespaceFacts};
use crate::plan::state::{Hook, LinkName, Namespace, Sources};
use crate::reconcile::{BY_HAND, identity};

/// What was seen of it.
pub(super) struct Plane {
    pub(super) ports: Result<Vec<Port>, String>,
    pub(super) occupied: Vec<Occupied>,
    pub(super) tables: Option<Tables>,
}

/// Looks at the data plane that serves this namespace; there may be none.
pub(super) async fn look(kernel: &mut Kernel, objects: Option<&Objects>) -> Plane {
    match whole(kernel, objects).await {
        Ok(plane) => plane,
        Err(error) => Plane {
            ports: Err(format!("{error:#}")),
            occupied: Vec::new(),
            tables: None,
        },
    }
}

async fn whole(kernel: &mut Kernel, objects: Option<&Objects>) -> anyhow::Result<Plane> {
    let facts = kernel.facts(&Namespace::Node).await?;
    let view = View::open(identity(&Namespace::Node)?)?;
    let rows = match &view {
        Some(view) => view.ports(&facts)?,
        None => Vec::new(),
    };
    let by_objects = view.as_ref().is_some_and(|view| view.name() != BY_HAND);
    let mut ports = Vec::new();
    for row in &rows {
        ports.push(port(kernel, row, &facts, by_objects).await?);
    }
    Ok(Plane {
        ports: Ok(ports),
        occupied: occupied(kernel, &rows, &facts, objects).await?,
        tables: view.as_ref().map(tables).transpose()?,
    })
}

async fn port(
    kernel: &mut Kernel,
    row: &PortRow,
    facts: &NamespaceFacts,
    by_objects: bool,
) -> anyhow::Result<Port> {
    let mut port = Port {
        name: row.name.clone(),
        ifindex: row.ifindex,
        link: row.link,
        warning: row.warning,
        by_objects,
        any_source: row.port.sources == Sources::Any,
        external: row.port.sources == Sources::External,
        ..Port::default()
    };
    let device = row.name.as_ref().and_then(|name| facts.devices.get(name));
    let (Some(name), Some(device)) = (&row.name, device) else {
        return Ok(port);
    };
    port.ethernet = device.mac.is_some();
    port.below = below(kernel, name, device, row, facts).await?;
    let ipv6 = |key: &str| setting(&format!("ipv6/conf/{name}/{key}"));
    let takes_defaults = ipv6("accept_ra_defrtr").is_none_or(|value| value != "0");
    port.accept_ra = ipv6("accept_ra").filter(|_| takes_defaults);
    // The kernel takes the larger of the two (Documentation/networking/ip-sysctl.rst).
    let strict = |of: &str| {
        setting(&format!("ipv4/conf/{of}/rp_filter"))?
            .parse::<u8>()
            .ok()
    };
    port.rp_filter = strict("all").max(strict(name));
    Ok(port)
}

/// The device that sends and receives for a port.
async fn below(
    kernel: &mut Kernel,
    name: &LinkName,
    device: &Device,
    row: &PortRow,
    facts: &NamespaceFacts,
) -> anyhow::Result<Below> {
    let lower = device.vlan.filter(|_| row.link == "xdpvlan");
    let lower = lower.and_then(|vlan| Some((facts.name_of(vlan.device)?, vlan.device)));
    let (name, ifindex) = lower.unwrap_or((name, device.ifindex));
    let kind = facts.device_of(ifindex).map(|device| device.kind.clone());
    let kind = kind.unwrap_or_default();
    let offers = kernel.xdp(&Namespace::Node, [ifindex].into_iter()).await?;
    // A veth has the switch, and its other end decides.
    let asked = kind != "veth" && matches!(row.link, "xdp" | "xdpvlan");
    Ok(Below {
        name: name.clone(),
        takes_tags_off: asked.then(|| ethtool::takes_tags_off(&Namespace::Node, name)),
        offers: offers.get(&ifindex).map(|xdp| Offers {
            native: xdp.native && xdp.redirects,
            takes: xdp.takes,
        }),
        kind,
    })
}

/// XDP programs of somebody else's, on ports and where the objects want ports.
async fn occupied(
    kernel: &mut Kernel,
    rows: &[PortRow],
    facts: &NamespaceFacts,
    objects: Option<&Objects>,
) -> anyhow::Result<Vec<Occupied>> {
    let device = |row: &PortRow| facts.devices.get(row.name.as_ref()?);
    let ours: BTreeSet<u32> = rows
        .iter()
        .filter_map(|row| match row.link {
            "xdp" | "xdpgeneric" => Some(row.ifindex),
            "xdpvlan" => Some(device(row)?.vlan?.device),
            _ => None,
        })
        .collect();
    let attached = rows.iter().filter_map(|row| row.name.clone());
    let attached: BTreeSet<LinkName> = attached.collect();
    let node = objects.and_then(|objects| objects.desired.namespaces.get(&Namespace::Node));
    let wanted = node.and_then(|node| node.instance.as_ref()).into_iter();
    let wanted = wanted
        .flat_map(|instance| &instance.ports)
        .filter(|(_, port)| port.hook != Hook::Tc)
        .map(|(name, _)| name.clone());
    let names: BTreeSet<LinkName> = attached.iter().cloned().chain(wanted).collect();
    let programs = kernel.xdp_programs(&Namespace::Node).await?;
    let mut occupied = Vec::new();
    for name in names {
        let ifindex = facts.devices.get(&name).map(|device| device.ifindex);
        let Some(ifindex) = ifindex.filter(|ifindex| !ours.contains(ifindex)) else {
            continue;
        };
        for id in programs.get(&ifindex).into_iter().flatten() {
            let program = probe::program_name(*id).unwrap_or_default();
            // One that lets every frame pass, at the end of a pair of ours.
            if program != "netmesh_pass" {
                occupied.push(Occupied {
                    name: name.clone(),
                    program: format!("{program} ({id})"),
                    attached: attached.contains(&name),
                });
            }
        }
    }
    Ok(occupied)
}

/// What does not fit among these is forwarded all the same.
const COUNTERS: &str = "counters";

fn tables(view: &View) -> anyhow::Result<Tables> {
    let fill = view.fill()?;
    let aggregate =
        "netmesh route shows them; put aggregates in the place of what lies inside them";
    let gateways = "netmesh route shows them; fewer gateways, the size is fixed";
    let list = [
        ("/64s and /24s", fill.exact, aggregate),
        ("other prefixes of IPv6", fill.ipv6, aggregate),
        ("other prefixes of IPv4", fill.ipv4, aggregate),
        ("next hops", fill.next_hops, gateways),
        ("groups of next hops", fill.groups, gateways),
        (COUNTERS, fill.counters, aggregate),
        (
            "ports",
            fill.ports,
            "netmesh dataplane detach --port DEV where one is not needed",
        ),
        (
            "martians",
            fill.martians,
            "netmesh dataplane attach --port DEV --sources external with fewer of them",
        ),
    ];
    let one = |(what, level, remedy): (_, Level, _)| Fill {
        what,
        used: level.used,
        capacity: level.capacity,
        remedy,
        spills: what == COUNTERS,
    };
    let most = ["ipv6", "ipv4"].map(|family| {
        let path = format!("{family}/neigh/default/gc_thresh3");
        in_initial(|| setting(&path)).and_then(|text| text.parse().ok())
    });
    Ok(Tables {
        fill: list.map(one).into(),
        neighbours: fill.neighbours,
        most,
    })
}

/// The device by which the kernel sends to the internet by IPv6: to an address of it that every
/// default route leads to.
pub(super) async fn way_out(kernel: &mut Kernel) -> WayOut {
    const FAR: Ipv6Addr = Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 1);
    match kernel.way(&Namespace::Node, IpAddr::V6(FAR)).await {
        Ok(Some(way)) => WayOut::By(way.ifindex),
        Ok(None) => WayOut::None,
        Err(_) => WayOut::Unknown,
    }
}
