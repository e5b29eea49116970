//! Which port a frame came in through.

use netmesh_common::table::Port;
use netmesh_common::verdict::DropReason;

use super::Stop;
use crate::cases::reference::{Hook, Router};
use crate::cases::{Input, lab};

/// What is known of a packet before its addresses are read.
pub(super) struct Arrival {
    pub(super) device: u32,
    pub(super) flags: u32,
    pub(super) mac: [u8; 6],
    /// The first tag that names a VLAN has led to the port.
    pub(super) is_vlan: bool,
}

/// `None`: the packet meets another program, on the sub-interface that its tag names.
///
/// Only XDP sees tags before the kernel has acted on them: IEEE 802.1Q section 9.6, the first that is
/// no priority tag names the VLAN; 802.1ad's name none of ours.
pub(super) fn arrive(
    router: &Router,
    flags: u32,
    input: &Input,
    hook: Hook,
) -> Result<Option<Arrival>, Stop> {
    let device = Arrival {
        device: lab::INGRESS,
        flags,
        mac: lab::INGRESS_MAC,
        is_vlan: false,
    };
    if hook == Hook::Tc || flags & Port::LAYER3 != 0 {
        return Ok(Some(device));
    }
    let mut tags = input.bytes.get(12..).unwrap_or_default().chunks_exact(4);
    let is_priority =
        |tag: &&[u8]| matches!(**tag, [0x81, 0, c, 0] | [0x88, 0xa8, c, 0] if c % 16 == 0);
    let mut priorities = 0;
    let first = loop {
        let tag = tags.next();
        if !tag.as_ref().is_some_and(is_priority) {
            break tag;
        }
        priorities += 1;
        // Which port the frame is of cannot be told that has more of them.
        if priorities == 5 {
            return Err(Stop::Nobody(DropReason::SourceInvalid));
        }
    };
    let Some(&[0x81, 0, high, low]) = first else {
        return Ok(Some(device));
    };
    let vid = u16::from(high % 16) * 256 + u16::from(low);
    let named = router
        .vlans
        .iter()
        .find(|(key, _)| *key == (lab::INGRESS, vid))
        .and_then(|(_, named)| router.ports.iter().find(|(port, _)| port == named));
    Ok(match named {
        None => Some(device),
        // TC serves it, behind the kernel's reading of the tag.
        Some((_, port)) if port.vlan == 0 => None,
        Some((named, port)) => Some(Arrival {
            device: *named,
            flags: port.flags,
            mac: port.mac,
            is_vlan: true,
        }),
    })
}
