//! VLAN sub-interfaces as ports.
//!
//! ```text
//!   TC                the program sits on the sub-interface; the kernel takes tags off and puts
//!                     them on
//!   native XDP        on the device below: VLANS leads from (device, VID) to the sub-interface's
//!                     port, TX from the sub-interface to the device, the frame carries the tag
//!   generic XDP       on the sub-interface, which sends through the device below
//! ```
//! XDP reads tags in the frame. A device that takes them off (`rx-vlan-offload`), or a veth whose
//! other end keeps them beside the frame, shows it frames of its VLANs as untagged ones: they are
//! the kernel's as long as the device is not an XDP port itself, which is refused.

use std::os::fd::AsFd as _;
use std::path::Path;

use netmesh_common::table::{vlan_key, vlan_of};

use super::attach::{Kind, pin_error};
use super::instance::View;
use super::{Error, Instance, sys};
use crate::plan::facts::{self, Device, NamespaceFacts};
use crate::plan::state::Hook;

const VETH_REMEDY: &str = "attach it with --hook tc: the other end of a veth decides where tags \
                           are kept; the VLANs may have XDP";
const OFFLOAD_REMEDY: &str = "leave tags in the frames (`ethtool -K NAME rxvlan off`), or attach \
                              it with --hook tc";

const VETH_WARNING: &str = "native XDP on a veth: the other end must leave tags in the frames \
                            (`ethtool -K NAME txvlan off`), or what it sends is the kernel's, and \
                            run NAPI (`ethtool -K NAME gro on`), or frames sent to it are lost";
const OFFLOAD_WARNING: &str = "the device below takes tags off before XDP sees them: what it \
                               receives is the kernel's until `ethtool -K NAME rxvlan off`";
const HIDDEN_WARNING: &str = "it carries VLANs whose frames XDP may see without their tag and \
                              take for its own: attach it again for what to do";

impl View {
    /// Every key of VLANS that leads to a sub-interface.
    pub(super) fn vlan_keys(&self, ifindex: u32) -> Result<Vec<u32>, Error> {
        let mut keys = Vec::new();
        for item in self.maps.vlans.iter() {
            let (key, value) = item.map_err(|source| Error::Map {
                map: "VLANS",
                action: "read it",
                source,
            })?;
            if value.if_index == ifindex {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    /// The device below a sub-interface that is a port; the kernel forgets it with the
    /// sub-interface.
    pub(super) fn below(&self, ifindex: u32) -> Result<Option<u32>, Error> {
        let keys = self.vlan_keys(ifindex)?;
        Ok(keys.first().map(|key| vlan_of(*key).0))
    }

    /// Another pin holds the same link.
    pub(super) fn is_shared(&self, kind: Kind, ifindex: u32) -> Result<bool, Error> {
        if !is_native(kind) {
            return Ok(false);
        }
        let id = link(&self.link_path(kind, ifindex))?.id;
        for (other, of) in self.links()? {
            if is_native(other)
                && (other, of) != (kind, ifindex)
                && link(&self.link_path(other, of))?.id == id
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Instance {
    /// Pins the link that native XDP on a device already has, for one more port. `false`: there
    /// is none.
    pub(super) fn share_link(&self, device: u32, path: &Path) -> Result<bool, Error> {
        for (kind, ifindex) in self.links()? {
            let seen = self.link_path(kind, ifindex);
            if !is_native(kind) || link(&seen)?.ifindex != device {
                continue;
            }
            let link = sys::open(&seen).map_err(|source| pin_error("cannot open", seen, source))?;
            sys::pin(link.as_fd(), path)
                .map_err(|source| pin_error("cannot pin", path.to_owned(), source))?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Refuses what could take frames of one port for those of another.
    pub(super) fn check_tags(
        &self,
        name: &str,
        device: &Device,
        hook: Hook,
        facts: &NamespaceFacts,
    ) -> Result<(), Error> {
        if device.kind == facts::VLAN && hook != Hook::Tc {
            can_stand_in(name, device, facts)?;
        }
        let hidden = |name: &str, device: &Device, vlan: &str| Error::TagsHidden {
            name: name.to_owned(),
            vlan: vlan.to_owned(),
            remedy: if device.kind == "veth" {
                VETH_REMEDY
            } else {
                OFFLOAD_REMEDY
            },
        };
        if hook != Hook::Tc
            && hides_tags(device)
            && let Some((vlan, _)) = facts.vlans_of(device.ifindex).next()
        {
            return Err(hidden(name, device, vlan));
        }
        let Some((trunk, below)) = below(device, facts).filter(|(_, below)| hides_tags(below))
        else {
            return Ok(());
        };
        let is_xdp_port = |(kind, ifindex): (Kind, u32)| {
            ifindex == below.ifindex && matches!(kind, Kind::Xdp | Kind::XdpGeneric)
        };
        if self.links()?.into_iter().any(is_xdp_port) {
            return Err(hidden(trunk, below, name));
        }
        Ok(())
    }
}

/// XDP on the device below reaches this sub-interface.
fn can_stand_in(name: &str, device: &Device, facts: &NamespaceFacts) -> Result<(), Error> {
    let refuse = |reason| {
        Err(Error::NoXdpBelow {
            name: name.to_owned(),
            reason,
        })
    };
    let (Some(vlan), Some((_, below))) = (device.vlan, below(device, facts)) else {
        return refuse("its tag is not one of 802.1Q, or the device below is in another namespace");
    };
    if below.kind == facts::VLAN {
        return refuse("the device below is a VLAN sub-interface itself, and XDP reads one tag");
    }
    if vlan_key(vlan.device, vlan.vid).is_none() {
        return refuse(
            "the interface index of the device below leaves no room for a VLAN's number",
        );
    }
    Ok(())
}

/// What an operator should know about a port with regard to tags.
pub(super) fn warning(kind: Kind, device: &Device, facts: &NamespaceFacts) -> Option<&'static str> {
    match kind {
        Kind::XdpVlan => {
            let (_, below) = below(device, facts)?;
            if below.kind == "veth" {
                return Some(VETH_WARNING);
            }
            below.takes_tags_off.then_some(OFFLOAD_WARNING)
        }
        Kind::Xdp | Kind::XdpGeneric => {
            let carries = facts.vlans_of(device.ifindex).next().is_some();
            (carries && hides_tags(device)).then_some(HIDDEN_WARNING)
        }
        Kind::Tcx | Kind::Clsact => None,
    }
}

/// XDP may see a tagged frame of this device as an untagged one.
fn hides_tags(device: &Device) -> bool {
    device.kind == "veth" || device.takes_tags_off
}

fn below<'a>(device: &Device, facts: &'a NamespaceFacts) -> Option<(&'a str, &'a Device)> {
    let below = device.vlan?.device;
    let name = facts.name_of(below)?;
    Some((name, facts.devices.get(name)?))
}

const fn is_native(kind: Kind) -> bool {
    matches!(kind, Kind::Xdp | Kind::XdpVlan)
}

fn link(path: &Path) -> Result<sys::LinkFacts, Error> {
    let link =
        sys::open(path).map_err(|source| pin_error("cannot open", path.to_owned(), source))?;
    sys::link_facts(link.as_fd())
        .map_err(|source| pin_error("cannot ask the kernel about", path.to_owned(), source))
}
