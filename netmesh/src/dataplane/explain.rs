//! One packet on trial: the program that is loaded, on the tables that are there, without a
//! trace in counters or on a wire (`BPF_PROG_TEST_RUN`).
//!
//! The program cannot be run in place, for it counts. A copy with counters of its own is loaded;
//! that it is the same program is shown by its tag, the kernel's hash over its instructions. Stage 1
//! of the table counts beside its entries, so the copy has those of the packet's two addresses in a
//! table of its own.

use std::io;
use std::net::IpAddr;

use aya::maps::{Array, PerCpuArray};
use aya::programs::{
    ProgramError, ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, Xdp,
};
use netmesh_common::class::Address;
use netmesh_common::header::ETHERNET;
use netmesh_common::lines::key_of;
use netmesh_common::table::{Port as PortEntry, PortCounters, PortPlace};
use netmesh_common::verdict::{DropReason, Outcome, PuntReason};

use super::attach::PortRow;
use super::instance::View;
use super::places::arranged;
use super::{Error, load};
use crate::plan::state::Hook;

/// The link-layer address packets on trial come from.
pub const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// The link-layer address of a port without one, for the trial.
const STAND_IN: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// Room for the packet as it leaves.
const ROOM: usize = 1 << 16;

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
        let mut copy = load::copy(&self.folder, &self.lines, &keys(frame))?;
        {
            let ports = copy.map_mut("PORTS").ok_or(broken("it has no ports"))?;
            let mut ports: Array<_, PortPlace> = ports
                .try_into()
                .map_err(|_| broken("its ports are of another shape"))?;
            let entries = self.port_entries().into_iter().map(|(ifindex, mut entry)| {
                if ifindex == port.ifindex {
                    // Untagged, and as if by a program of its own.
                    entry.vlan = 0;
                    if entry.flags & PortEntry::LAYER3 != 0 {
                        entry.flags &= !PortEntry::LAYER3;
                        entry.mac = STAND_IN;
                    }
                }
                (ifindex, entry)
            });
            for (index, place) in arranged(entries).ok_or(broken("its ports find no room"))? {
                ports.set(index, place, 0).map_err(|source| Error::Map {
                    map: "PORTS",
                    action: "copy it",
                    source,
                })?;
            }
        }
        let mut out = vec![0; ROOM];
        let is_tc = port.port.hook == Hook::Tc;
        let name = if is_tc { "netmesh_tc" } else { "netmesh_xdp" };
        let (result, tag) = if is_tc {
            let program = load::tagged(&mut copy, name, SchedClassifier::load)?;
            let tag = program.info().map_err(failed)?.tag();
            // struct __sk_buff: the device.
            let mut context = [0_u8; 192];
            context[40..44].copy_from_slice(&port.ifindex.to_ne_bytes());
            (program.test_run(options(frame, &mut out, &context)), tag)
        } else {
            let program = load::tagged(&mut copy, name, Xdp::load)?;
            let tag = program.info().map_err(failed)?.tag();
            // struct xdp_md: end of the data, the device.
            let mut context = [0_u8; 24];
            context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
            context[12..16].copy_from_slice(&port.ifindex.to_ne_bytes());
            (program.test_run(options(frame, &mut out, &context)), tag)
        };
        let result = result.map_err(failed)?;
        let pinned = ProgramInfo::from_pin(self.folder.program(name)).map_err(failed)?;
        if pinned.tag() != tag {
            return Err(Error::OtherProgram {
                name,
                pinned: pinned.tag(),
                own: tag,
            });
        }
        out.truncate(result.data_size_out as usize);
        let counters: PerCpuArray<_, PortCounters> = copy
            .map("PORT_CNT")
            .ok_or(broken("it has no counters"))?
            .try_into()
            .map_err(|_| broken("its counters are of another shape"))?;
        let values = counters.get(&port.slot, 0).map_err(|source| Error::Map {
            map: "PORT_CNT",
            action: "read the copy's",
            source,
        })?;
        let outcome = values
            .iter()
            .find_map(told)
            .ok_or(broken("it counted nothing"))?;
        Ok(Trial {
            program: name,
            tag,
            outcome,
            frame: out,
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

fn options<'a>(frame: &'a [u8], out: &'a mut [u8], context: &'a [u8]) -> TestRunOptions<'a> {
    TestRunOptions {
        data_in: Some(frame),
        data_out: Some(out),
        ctx_in: Some(context),
        ..TestRunOptions::default()
    }
}

/// The one outcome that was counted.
fn told(counters: &PortCounters) -> Option<Outcome> {
    let punt = PuntReason::ALL
        .iter()
        .find(|reason| counters.punted[reason.index() as usize] != 0);
    let drop = DropReason::ALL
        .iter()
        .find(|reason| counters.dropped[reason.index() as usize] != 0);
    match (punt, drop) {
        (Some(reason), _) => Some(Outcome::Punt(*reason)),
        (None, Some(reason)) => Some(Outcome::Drop(*reason)),
        (None, None) => (counters.forwarded != 0).then_some(Outcome::Forward),
    }
}

fn failed(source: ProgramError) -> Error {
    Error::Trial {
        source: io::Error::other(source),
    }
}

fn broken(what: &'static str) -> Error {
    Error::Trial {
        source: io::Error::other(what),
    }
}
