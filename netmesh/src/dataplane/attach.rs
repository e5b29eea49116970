//! Programs on devices.
//!
//! ```text
//!   attach: PORTS entry ─► TX entry ─► link pinned       the program finds complete tables
//!   detach: link gone ─► TX entry ─► PORTS entry
//! ```
//! A link is pinned as `<hook>-<ifindex>`; the name tells what is attached where, the kernel
//! whether it still is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use aya::programs::{SchedClassifier, TcAttachType};
use aya_obj::generated::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, bpf_attach_type};
use netmesh_common::table::Port as PortEntry;

use super::fib::device;
use super::instance::View;
use super::maps::gone;
use super::{Error, Instance, clsact, pin, sys, vlan};
use crate::plan::facts::{Device, NamespaceFacts};
use crate::plan::state::{Hook, LinkName, Port, Sources};

/// The program for TC.
const TC: &str = "netmesh_tc";

/// How a link is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Xdp,
    /// Native XDP on the device below a VLAN sub-interface; the device's own port and all of its
    /// sub-interfaces share one link, each with a pin of its own.
    XdpVlan,
    XdpGeneric,
    Tcx,
    Clsact,
}

const KINDS: [Kind; 5] = [
    Kind::Xdp,
    Kind::XdpVlan,
    Kind::XdpGeneric,
    Kind::Tcx,
    Kind::Clsact,
];

impl Kind {
    pub(super) const fn hook(self) -> Hook {
        match self {
            Self::Xdp | Self::XdpVlan => Hook::Xdp,
            Self::XdpGeneric => Hook::XdpGeneric,
            Self::Tcx | Self::Clsact => Hook::Tc,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::XdpVlan => "xdpvlan",
            Self::XdpGeneric => "xdpgeneric",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// One attached port, as the pins and the port table show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRow {
    /// Interface index.
    pub ifindex: u32,
    /// The device; `None` when it is gone from the namespace, or nothing is attached to it any
    /// more.
    pub name: Option<LinkName>,
    /// How it is attached.
    pub port: Port,
    /// `xdp`, `xdpvlan` (on the device below), `xdpgeneric`, `tcx` or `clsact`.
    pub link: &'static str,
    /// Index of its counters.
    pub slot: u32,
    /// What an operator should know about this port.
    pub warning: Option<&'static str>,
}

impl View {
    /// Every attached port.
    ///
    /// # Errors
    /// When pins or tables cannot be read.
    pub fn ports(&self, facts: &NamespaceFacts) -> Result<Vec<PortRow>, Error> {
        let mut rows = Vec::new();
        let martians = self.martians()?;
        for (kind, ifindex) in self.links()? {
            let entry = self.maps.ports.get(ifindex);
            let alive = entry.is_some() && self.is_attached(kind, ifindex)?;
            let entry = entry.unwrap_or_default();
            // A device of another shape under an old index is another device.
            let same = |device: &Device| {
                device.mac.unwrap_or_default() == entry.mac
                    && device.mac.is_none() == (entry.flags & PortEntry::LAYER3 != 0)
            };
            let seen = facts
                .name_of(ifindex)
                .filter(|_| alive)
                .and_then(|name| Some((name, facts.devices.get(name)?)))
                .filter(|(_, device)| same(device));
            rows.push(PortRow {
                ifindex,
                name: seen.map(|(name, _)| name.clone()),
                port: Port {
                    hook: kind.hook(),
                    sources: sources(&entry),
                    martians: martians.get(&ifindex).cloned().unwrap_or_default(),
                },
                link: kind.word(),
                slot: entry.slot,
                warning: seen.and_then(|(_, device)| warning(kind, device, facts)),
            });
        }
        Ok(rows)
    }

    /// The kernel still has the link on that device. A link outlives its device, and anybody may
    /// detach one.
    pub(super) fn is_attached(&self, kind: Kind, ifindex: u32) -> Result<bool, Error> {
        if kind == Kind::Clsact {
            return Ok(true);
        }
        let path = self.link_path(kind, ifindex);
        let link = match sys::open(&path) {
            // Removed since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(|source| pin_error("cannot open", path.clone(), source))?,
        };
        let facts = sys::link_facts(link.as_fd())
            .map_err(|source| pin_error("cannot ask the kernel about", path, source))?;
        let expected = match kind {
            Kind::XdpVlan => self.below(ifindex)?,
            _ => Some(ifindex),
        };
        Ok(Some(facts.ifindex) == expected)
    }

    pub(super) fn links(&self) -> Result<Vec<(Kind, u32)>, Error> {
        let names = pin::entries(&self.folder.links())?;
        Ok(names
            .iter()
            .filter_map(|name| {
                let (word, ifindex) = name.split_once('-')?;
                let kind = KINDS.into_iter().find(|kind| kind.word() == word)?;
                Some((kind, ifindex.parse().ok()?))
            })
            .collect())
    }

    pub(super) fn link_path(&self, kind: Kind, ifindex: u32) -> PathBuf {
        self.folder
            .links()
            .join(format!("{}-{ifindex}", kind.word()))
    }
}

impl Instance {
    /// Attaches to a device, or changes how it is attached. What is attached already in the way
    /// that is asked for stays as it is.
    ///
    /// # Errors
    /// When the device is missing or refuses the hook.
    pub fn attach(&mut self, name: &str, port: &Port, facts: &NamespaceFacts) -> Result<(), Error> {
        self.inside()?;
        let device = device(facts, name)?;
        if device.mac.is_none() && port.hook != Hook::Tc {
            return Err(Error::NoXdp {
                name: name.to_owned(),
            });
        }
        self.check_tags(name, device, port.hook, facts)?;
        self.forget_dead_ports()?;
        let mut attached = false;
        for (kind, ifindex) in self.links()? {
            if ifindex == device.ifindex {
                if kind.hook() == port.hook {
                    attached = true;
                } else {
                    self.detach_link(kind, ifindex)?;
                    // Its next hook may be one that must not be sent frames from XDP.
                    self.remove_transmit(ifindex)?;
                }
            }
        }
        self.put_port(device, port, facts)?;
        if attached {
            return Ok(());
        }
        let result = match port.hook {
            Hook::Xdp => match device.vlan {
                Some(vlan) => self.attach_below(device, name, vlan.device),
                None => self.attach_xdp(device, name, Kind::Xdp),
            },
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
        self.inside()?;
        if let Some(device) = facts.devices.get(name) {
            for (kind, ifindex) in self.links()? {
                if ifindex == device.ifindex {
                    self.detach_link(kind, ifindex)?;
                }
            }
            self.remove_port(device.ifindex)?;
        }
        self.forget_dead_ports()
    }

    /// Puts the program that lets every frame pass on a device of any namespace, the calling
    /// thread's: the other end of a veth pair with native XDP needs one, or GRO. It stays until
    /// the device or this instance goes. A device that has it already is fine.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn attach_pass(&mut self, ifindex: u32) -> Result<(), Error> {
        let cookie = sys::namespace_cookie().map_err(|source| Error::Namespace { source })?;
        let path = self
            .folder
            .links()
            .join(format!("pass-{ifindex}@{cookie:x}"));
        if let Ok(link) = sys::open(&path) {
            let facts = sys::link_facts(link.as_fd())
                .map_err(|source| pin_error("cannot ask the kernel about", path.clone(), source))?;
            if facts.ifindex == ifindex {
                return Ok(());
            }
            fs::remove_file(&path)
                .map_err(|source| pin_error("cannot remove", path.clone(), source))?;
        }
        let name = format!("interface {ifindex}");
        self.attach_link("netmesh_pass", Kind::Xdp, ifindex, path)
            .map_err(|source| refused(Kind::Xdp, &name, source))
    }

    pub(super) fn detach_all(&mut self) -> Result<(), Error> {
        for (kind, ifindex) in self.links()? {
            self.detach_link(kind, ifindex)?;
            self.remove_port(ifindex)?;
        }
        Ok(())
    }

    fn attach_xdp(&mut self, device: &Device, name: &str, kind: Kind) -> Result<(), Error> {
        let path = self.link_path(kind, device.ifindex);
        if kind == Kind::Xdp && self.share_link(device.ifindex, &path)? {
            return Ok(());
        }
        self.attach_link("netmesh_xdp", kind, device.ifindex, path)
            .map_err(|source| refused(kind, name, source))
    }

    /// Native XDP on the device below a VLAN sub-interface.
    fn attach_below(&mut self, device: &Device, name: &str, below: u32) -> Result<(), Error> {
        let path = self.link_path(Kind::XdpVlan, device.ifindex);
        if self.share_link(below, &path)? {
            return Ok(());
        }
        self.attach_link("netmesh_xdp", Kind::XdpVlan, below, path)
            .map_err(|source| refused(Kind::XdpVlan, name, source))
    }

    fn attach_tc(&mut self, device: &Device, name: &str) -> Result<(), Error> {
        // TCX takes any number of programs: a packet must not be decided upon by two of ours. A
        // kernel without TCX has one place for ours.
        let there = SchedClassifier::query_tcx(name, TcAttachType::Ingress);
        let there = there.map_or_else(|_| Vec::new(), |(_, programs)| programs);
        if there.iter().any(|info| info.name() == TC.as_bytes()) {
            return Err(Error::OutOfSight {
                program: TC,
                name: name.to_owned(),
            });
        }
        let path = self.link_path(Kind::Tcx, device.ifindex);
        match self.attach_link(TC, Kind::Tcx, device.ifindex, path) {
            // No kernel before 6.6 knows TCX.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.attach_clsact(device, name)
            }
            result => result.map_err(|source| refused(Kind::Tcx, name, source)),
        }
    }

    pub(super) fn attach_clsact(&mut self, device: &Device, name: &str) -> Result<(), Error> {
        let path = self.link_path(Kind::Clsact, device.ifindex);
        clsact::attach(&self.folder.program(TC), name, &path)
    }

    fn attach_link(
        &self,
        program: &str,
        kind: Kind,
        ifindex: u32,
        path: PathBuf,
    ) -> io::Result<()> {
        let (attach_type, flags) = match kind {
            Kind::Xdp | Kind::XdpVlan => (bpf_attach_type::BPF_XDP, XDP_FLAGS_DRV_MODE),
            Kind::XdpGeneric => (bpf_attach_type::BPF_XDP, XDP_FLAGS_SKB_MODE),
            Kind::Tcx | Kind::Clsact => (bpf_attach_type::BPF_TCX_INGRESS, 0),
        };
        let program = sys::open(&self.folder.program(program))?;
        let link = sys::attach(program.as_fd(), ifindex, attach_type, flags)?;
        // Dropped without a pin, the link is gone again.
        sys::pin(link.as_fd(), &path)
    }

    fn detach_link(&mut self, kind: Kind, ifindex: u32) -> Result<(), Error> {
        let path = self.link_path(kind, ifindex);
        if kind == Kind::Clsact {
            clsact::detach(ifindex);
        } else if !self.is_shared(kind, ifindex)? {
            let link = sys::open(&path)
                .map_err(|source| pin_error("cannot open", path.clone(), source))?;
            match sys::detach(link.as_fd()) {
                // The device went before.
                Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => {
                    return Err(pin_error("cannot detach", path, error));
                }
                _ => {}
            }
        }
        fs::remove_file(&path).map_err(|source| pin_error("cannot remove", path, source))
    }

    fn remove_transmit(&mut self, ifindex: u32) -> Result<(), Error> {
        gone(self.maps().tx.remove(ifindex), "TX", "remove a port")
    }

    /// Links and ports of devices that no longer exist, and what a killed writer left. Asks the
    /// kernel: the caller's facts may be older than a port of somebody else.
    fn forget_dead_ports(&mut self) -> Result<(), Error> {
        let mut alive = BTreeSet::new();
        for (kind, ifindex) in self.links()? {
            let here = nix::net::if_::if_indextoname(ifindex).is_ok();
            if here && self.is_attached(kind, ifindex)? {
                alive.insert(ifindex);
            } else {
                self.detach_link(kind, ifindex)?;
            }
        }
        self.remove_unattached(&alive)
    }
}

/// Native XDP sends frames to the other end of a veth pair only where that end runs NAPI, and loses
/// the note that a frame of a local sender has an unfinished checksum (`CHECKSUM_PARTIAL`).
const VETH_WARNING: &str = "native XDP on a veth: the other end must run NAPI or frames sent to \
                            this port are lost; turn its GRO on (`ethtool -K NAME gro on`) or \
                            attach an XDP program there. What it sends itself must carry whole \
                            checksums (`ethtool -K NAME tx off`): XDP cannot see that one is \
                            unfinished";

/// What an operator should know about a port.
fn warning(kind: Kind, device: &Device, facts: &NamespaceFacts) -> Option<&'static str> {
    let veth = kind == Kind::Xdp && device.kind == "veth";
    vlan::warning(kind, device, facts).or(veth.then_some(VETH_WARNING))
}

fn sources(entry: &PortEntry) -> Sources {
    if entry.flags & PortEntry::EXTERNAL != 0 {
        Sources::External
    } else if entry.flags & PortEntry::SOURCES_BEHIND != 0 {
        Sources::Behind
    } else {
        Sources::Any
    }
}

/// What the kernel's number means for a device.
fn refused(kind: Kind, name: &str, source: io::Error) -> Error {
    let (hook, native) = match kind {
        Kind::Xdp => ("native XDP", true),
        Kind::XdpVlan => ("native XDP on the device below", true),
        Kind::XdpGeneric => ("generic XDP", false),
        Kind::Tcx | Kind::Clsact => ("TC", false),
    };
    let remedy = match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) if kind != Kind::Tcx => {
            ": another XDP program sits there; `ip link show` names it, `ip link set dev NAME xdp \
             off` takes it off; where it is netmesh_xdp, its data plane is pinned in another bpf file \
             system than the one at /sys/fs/bpf: `findmnt /sys/fs/bpf` shows whether one is mounted \
             over it, `umount /sys/fs/bpf` takes that away"
        }
        Some(libc::EOPNOTSUPP) if native => {
            ": its driver has no native XDP; `--hook xdp-generic` or `--hook tc` work on any \
             Ethernet device"
        }
        Some(libc::ENODEV) => ": there is no such device in this namespace any more",
        _ if native => {
            ": the driver refuses native XDP with its present settings (MTU, LRO, number of \
             queues; `dmesg` may say which); `--hook tc` works on any Ethernet device"
        }
        _ => "",
    };
    Error::Attach {
        hook,
        name: name.to_owned(),
        remedy,
        source: source.into(),
    }
}

pub(super) fn pin_error(action: &'static str, path: PathBuf, source: io::Error) -> Error {
    Error::Pin {
        action,
        path,
        source,
    }
}
