//! One packet on trial: the program that is loaded, on the tables that are there, without a
//! trace in counters or on a wire (`BPF_PROG_TEST_RUN`).
//!
//! The program cannot be run in place, for it counts. A copy with counters of its own is loaded;
//! that it is the same program is shown by its tag, the kernel's hash over its instructions.

use std::net::IpAddr;

use aya::programs::ProgramInfo;
use netmesh_common::class::Address;
use netmesh_common::header::ETHERNET;
use netmesh_common::lines::key_of;
use netmesh_common::table::Port as PortEntry;
use netmesh_common::verdict::Outcome;

use super::Error;
use super::attach::PortRow;
use super::instance::View;
use super::object::Object;
use super::trial::{STAND_IN, Stand, TC, XDP, broken, failed};
use crate::plan::state::Hook;

/// The link-layer address packets on trial come from.
pub const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// What came of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The program that was run.
    pub program: &'static str,
    /// Its tag.
    pub tag: u64,
    /// The decision.
    pub outcome: Outcome,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

impl View {
    /// Where frames for a port must be sent to, so that they are for this router.
    ///
    /// # Errors
    /// When the maps cannot be read.
    pub fn address_for(&self, port: &PortRow) -> Result<[u8; 6], Error> {
        let entries = self.port_entries();
        let entry = entries.iter().find(|(ifindex, _)| *ifindex == port.ifindex);
        Ok(match entry {
            Some((_, entry)) if entry.flags & PortEntry::LAYER3 == 0 => entry.mac,
            _ => STAND_IN,
        })
    }

    /// Tries a frame that comes in through a port. A port without a link-layer header is tried as
    /// if it had one: test runs know no others.
    ///
    /// # Errors
    /// When the pinned programs are not those of this binary, or the kernel refuses the run.
    pub fn try_frame(&self, port: &PortRow, frame: &[u8]) -> Result<Trial, Error> {
        let is_tc = port.port.hook == Hook::Tc;
        let name = if is_tc { TC } else { XDP };
        let mut stand = Stand::new(self, &Object::default(), name, &keys(frame))?;
        let pinned = ProgramInfo::from_pin(self.folder.program(name)).map_err(failed)?;
        if pinned.tag() != stand.tag {
            return Err(Error::OtherProgram {
                name,
                pinned: pinned.tag(),
                own: stand.tag,
            });
        }
        stand.plain(port.ifindex)?;
        let tried = stand.run(port.ifindex, frame)?;
        Ok(Trial {
            program: name,
            tag: stand.tag,
            outcome: tried.outcome.ok_or(broken("it counted nothing"))?,
            frame: tried.frame,
        })
    }
}

/// The keys of stage 1 for both addresses of an untagged frame.
fn keys(frame: &[u8]) -> Vec<u64> {
    let six = |at: usize| {
        let bytes: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
        Some(Address::from(IpAddr::from(bytes)))
    };
    let four = |at: usize| {
        let bytes: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
        Some(Address::from(IpAddr::from(bytes)))
    };
    let addresses = match frame.get(12..14) {
        Some([0x86, 0xdd]) => [six(ETHERNET + 8), six(ETHERNET + 24)],
        Some([0x08, 0x00]) => [four(ETHERNET + 12), four(ETHERNET + 16)],
        _ => [None, None],
    };
    let known = addresses.iter().flatten();
    known.filter_map(key_of).collect()
}
