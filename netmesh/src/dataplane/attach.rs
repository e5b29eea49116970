//! Ports: programs on devices.
//!
//! ```text
//!   attach: PORTS entry ─► TX entry ─► link pinned       the program finds complete tables
//!   detach: link gone ─► TX entry ─► PORTS entry
//! ```
//! A link is pinned as `<hook>-<ifindex>`; the name tells what is attached where.

use std::collections::BTreeMap;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};

use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode, tc};
use aya_obj::programs::XdpAttachType;
use netmesh_common::table::{MAX_PORTS, Port as PortEntry, PortCounters, REASONS};

use super::fib::{device, not_found};
use super::pin;
use super::{Error, Instance};
use crate::plan::facts::{Device, NamespaceFacts};
use crate::plan::state::{Hook, LinkName, Port, Sources};

/// Priority and handle of our filter on kernels without TCX.
const CLSACT_PRIORITY: u16 = 50;
const CLSACT_HANDLE: u32 = 1;

/// How a link is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Xdp,
    XdpGeneric,
    Tcx,
    Clsact,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Xdp, "xdp"),
    (Kind::XdpGeneric, "xdpgeneric"),
    (Kind::Tcx, "tcx"),
    (Kind::Clsact, "clsact"),
];

impl Kind {
    const fn hook(self) -> Hook {
        match self {
            Self::Xdp => Hook::Xdp,
            Self::XdpGeneric => Hook::XdpGeneric,
            Self::Tcx | Self::Clsact => Hook::Tc,
        }
    }
}

/// One attached port, as the pins and the port table show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRow {
    /// Interface index.
    pub ifindex: u32,
    /// The device; `None` when it is gone from the namespace.
    pub name: Option<LinkName>,
    /// How it is attached.
    pub port: Port,
    /// `xdp`, `xdpgeneric`, `tcx` or `clsact`.
    pub link: &'static str,
    /// Index of its counters.
    pub slot: u32,
}

impl Instance {
    /// Attaches to a device, or changes how it is attached.
    ///
    /// # Errors
    /// When the device is missing or refuses the hook.
    pub fn attach(&mut self, name: &str, port: Port, facts: &NamespaceFacts) -> Result<(), Error> {
        let device = device(facts, name)?;
        if device.mac.is_none() && port.hook != Hook::Tc {
            return Err(Error::NoXdp {
                name: name.to_owned(),
            });
        }
        self.forget_dead_ports(facts)?;
        let attached = self
            .links()?
            .into_iter()
            .find(|(_, ifindex)| *ifindex == device.ifindex);
        if let Some((kind, _)) = attached
            && kind.hook() != port.hook
        {
            self.detach_link(kind, device.ifindex, name)?;
        }
        self.put_port(device, port)?;
        let attached = attached.is_some_and(|(kind, _)| kind.hook() == port.hook);
        if attached {
            return Ok(());
        }
        let result = match port.hook {
            Hook::Xdp => self.attach_xdp(device, name, Kind::Xdp),
            Hook::XdpGeneric => self.attach_xdp(device, name, Kind::XdpGeneric),
            Hook::Tc => self.attach_tc(device, name),
        };
        if result.is_err() {
            self.remove_port(device.ifindex)?;
        }
        result
    }

    /// Detaches from a device. One that is not attached is fine.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn detach(&mut self, name: &str, facts: &NamespaceFacts) -> Result<(), Error> {
        if let Some(device) = facts.devices.get(name) {
            for (kind, ifindex) in self.links()? {
                if ifindex == device.ifindex {
                    self.detach_link(kind, ifindex, name)?;
                }
            }
            self.remove_port(device.ifindex)?;
        }
        self.forget_dead_ports(facts)
    }

    /// Every attached port.
    ///
    /// # Errors
    /// When pins or tables cannot be read.
    pub fn ports(&self, facts: &NamespaceFacts) -> Result<Vec<PortRow>, Error> {
        let mut rows = Vec::new();
        for (kind, ifindex) in self.links()? {
            let Ok(entry) = self.maps.ports.get(&ifindex, 0) else {
                continue;
            };
            let sources = if entry.flags & PortEntry::EXTERNAL != 0 {
                Sources::External
            } else if entry.flags & PortEntry::SOURCES_BEHIND != 0 {
                Sources::Behind
            } else {
                Sources::Any
            };
            // A device of another shape under an old index is another device.
            let name = facts.name_of(ifindex).filter(|name| {
                facts.devices.get(*name).is_some_and(|device| {
                    device.mac.unwrap_or_default() == entry.mac
                        && device.mac.is_none() == (entry.flags & PortEntry::LAYER3 != 0)
                })
            });
            rows.push(PortRow {
                ifindex,
                name: name.cloned(),
                port: Port {
                    hook: kind.hook(),
                    sources,
                },
                link: word(kind),
                slot: entry.slot,
            });
        }
        Ok(rows)
    }

    pub(super) fn detach_all(&mut self) -> Result<(), Error> {
        for (kind, ifindex) in self.links()? {
            let name = name_of(ifindex).unwrap_or_default();
            self.detach_link(kind, ifindex, &name)?;
            self.remove_port(ifindex)?;
        }
        Ok(())
    }

    fn attach_xdp(&mut self, device: &Device, name: &str, kind: Kind) -> Result<(), Error> {
        let hook = if kind == Kind::Xdp {
            "native XDP"
        } else {
            "generic XDP"
        };
        let remedy = if kind == Kind::Xdp {
            ": its driver may lack native XDP or another program may sit there (`ip link` shows \
             it); --hook xdp-generic or --hook tc work on any Ethernet device"
        } else {
            ": another program may sit there; `ip link` shows it"
        };
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| Error::Attach {
            hook,
            name: name.to_owned(),
            remedy,
            source,
        };
        let mode = if kind == Kind::Xdp {
            XdpMode::Driver
        } else {
            XdpMode::Skb
        };
        let mut program =
            Xdp::from_pin(self.folder.program("netmesh_xdp"), XdpAttachType::Interface)
                .map_err(|error| fail(error.into()))?;
        let link = program
            .attach_to_if_index(device.ifindex, mode)
            .and_then(|id| program.take_link(id))
            .map_err(|error| fail(error.into()))?;
        // A link that fell back to netlink cannot be pinned: it would not outlive this process.
        let link = FdLink::try_from(link).map_err(|error| fail(error.into()))?;
        link.pin(self.link_path(kind, device.ifindex))
            .map_err(|error| fail(error.into()))?;
        Ok(())
    }

    fn attach_tc(&mut self, device: &Device, name: &str) -> Result<(), Error> {
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| Error::Attach {
            hook: "TC",
            name: name.to_owned(),
            remedy: "",
            source,
        };
        let path = self.folder.program("netmesh_tc");
        let mut program = SchedClassifier::from_pin(path).map_err(|error| fail(error.into()))?;
        let tcx = program
            .attach_with_options(
                name,
                TcAttachType::Ingress,
                TcAttachOptions::TcxOrder(LinkOrder::first()),
            )
            .and_then(|id| program.take_link(id));
        if let Ok(link) = tcx {
            let link = FdLink::try_from(link).map_err(|error| fail(error.into()))?;
            link.pin(self.link_path(Kind::Tcx, device.ifindex))
                .map_err(|error| fail(error.into()))?;
            return Ok(());
        }
        // Before 6.6: a filter of clsact, found again by its fixed place. The pinned program
        // only records that it is there.
        let _ = tc::qdisc_add_clsact(name); // It may be there already.
        let options = NlOptions {
            priority: CLSACT_PRIORITY,
            handle: TcHandle::new(0, CLSACT_HANDLE as u16),
            ..NlOptions::default()
        };
        let link = program
            .attach_with_options(
                name,
                TcAttachType::Ingress,
                TcAttachOptions::Netlink(options),
            )
            .and_then(|id| program.take_link(id))
            .map_err(|error| fail(error.into()))?;
        // Dropping it would remove the filter.
        std::mem::forget(link);
        program
            .pin(self.link_path(Kind::Clsact, device.ifindex))
            .map_err(|error| fail(error.into()))
    }

    fn detach_link(&mut self, kind: Kind, ifindex: u32, name: &str) -> Result<(), Error> {
        let path = self.link_path(kind, ifindex);
        if kind == Kind::Clsact && !name.is_empty() {
            let handle = TcHandle::new(0, CLSACT_HANDLE as u16);
            if let Ok(link) = SchedClassifierLink::attached(
                name,
                TcAttachType::Ingress,
                CLSACT_PRIORITY,
                handle,
                None,
            ) {
                drop(link); // Detaches; a device that is gone has taken its filters along.
            }
        }
        if kind != Kind::Clsact
            && let Ok(link) = PinnedLink::from_pin(&path)
        {
            drop(FdLink::from(link));
        }
        std::fs::remove_file(&path).map_err(|source| Error::Pin {
            action: "cannot remove",
            path,
            source,
        })
    }

    /// Links, ports and counters of devices that no longer exist.
    fn forget_dead_ports(&mut self, facts: &NamespaceFacts) -> Result<(), Error> {
        for row in self.ports(facts)? {
            if row.name.is_none() {
                for (kind, ifindex) in self.links()? {
                    if ifindex == row.ifindex {
                        self.detach_link(kind, ifindex, "")?;
                    }
                }
                self.remove_port(row.ifindex)?;
            }
        }
        Ok(())
    }

    fn put_port(&mut self, device: &Device, port: Port) -> Result<(), Error> {
        let known = self.maps.ports.get(&device.ifindex, 0).ok();
        let slot = match known {
            Some(entry) => entry.slot,
            None => self.free_slot()?,
        };
        let layer3 = if device.mac.is_none() {
            PortEntry::LAYER3
        } else {
            0
        };
        let sources = match port.sources {
            Sources::Any => 0,
            Sources::Behind => PortEntry::SOURCES_BEHIND,
            Sources::External => PortEntry::EXTERNAL,
        };
        let entry = PortEntry {
            slot,
            flags: layer3 | sources,
            mac: device.mac.unwrap_or_default(),
            reserved: 0,
        };
        self.maps
            .ports
            .insert(device.ifindex, entry, 0)
            .map_err(|source| Error::Map {
                map: "PORTS",
                action: "add a port",
                source,
            })?;
        if port.hook == Hook::Tc {
            return Ok(());
        }
        self.maps
            .tx
            .insert(device.ifindex, device.ifindex, None, 0)
            .map_err(|source| Error::Attach {
                hook: "transmit",
                name: device.kind.clone(),
                remedy: "",
                source: source.into(),
            })
    }

    fn remove_port(&mut self, ifindex: u32) -> Result<(), Error> {
        for result in [
            self.maps
                .tx
                .remove(ifindex)
                .map_err(|source| ("TX", source)),
            self.maps
                .ports
                .remove(&ifindex)
                .map_err(|source| ("PORTS", source)),
        ] {
            match result {
                Err((map, source)) if !not_found(&source) => {
                    return Err(Error::Map {
                        map,
                        action: "remove a port",
                        source,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A slot no port uses, its counters at zero.
    fn free_slot(&mut self) -> Result<u32, Error> {
        let mut used = BTreeMap::new();
        for item in self.maps.ports.iter() {
            let (ifindex, entry) = item.map_err(|source| Error::Map {
                map: "PORTS",
                action: "read it",
                source,
            })?;
            used.insert(entry.slot, ifindex);
        }
        let slot = (0..MAX_PORTS)
            .find(|slot| !used.contains_key(slot))
            .ok_or(Error::Full {
                table: "the port table",
                capacity: MAX_PORTS.into(),
            })?;
        let zero = PortCounters {
            received: 0,
            forwarded: 0,
            forwarded_bytes: 0,
            redirect_failed: 0,
            punted: [0; REASONS],
            dropped: [0; REASONS],
        };
        self.set_port_counters(slot, zero)?;
        Ok(slot)
    }

    fn links(&self) -> Result<Vec<(Kind, u32)>, Error> {
        let names = pin::entries(&self.folder.links())?;
        Ok(names
            .iter()
            .filter_map(|name| {
                let (word, ifindex) = name.split_once('-')?;
                let (kind, _) = KINDS.iter().find(|(_, known)| *known == word)?;
                Some((*kind, ifindex.parse().ok()?))
            })
            .collect())
    }

    fn link_path(&self, kind: Kind, ifindex: u32) -> std::path::PathBuf {
        self.folder
            .links()
            .join(format!("{}-{ifindex}", word(kind)))
    }
}

const fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Xdp => "xdp",
        Kind::XdpGeneric => "xdpgeneric",
        Kind::Tcx => "tcx",
        Kind::Clsact => "clsact",
    }
}

fn name_of(ifindex: u32) -> Option<String> {
    nix::net::if_::if_indextoname(ifindex)
        .ok()?
        .into_string()
        .ok()
}
