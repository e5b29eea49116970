//! A copy of a program on trial: on the tables that are there, but with ports and counters of its
//! own, so that nothing it does leaves a trace (`BPF_PROG_TEST_RUN`).
//!
//! Stage 1 of the table counts beside its entries, so the copy has those of the addresses that will
//! be asked for in a table of its own.

use std::collections::BTreeMap;
use std::io;

use aya::Ebpf;
use aya::maps::{Array, PerCpuArray};
use aya::programs::{
    Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions, TestRunResult, Xdp,
};
use netmesh_common::table::{Port as PortEntry, PortCounters, PortPlace};
use netmesh_common::verdict::{DropReason, Outcome, PuntReason};

use super::instance::View;
use super::object::Object;
use super::places::arranged;
use super::{Error, load};

/// The link-layer address of a port without one, for the trial.
pub(super) const STAND_IN: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

/// Room for the packet as it leaves.
const ROOM: usize = 1 << 16;

/// Names of the programs that can be tried.
pub(super) const XDP: &str = "netmesh_xdp";
pub(super) const TC: &str = "netmesh_tc";

/// What a program did with a frame.
pub(super) struct Tried {
    /// What it counted; `None` when it counted nothing.
    pub(super) outcome: Option<Outcome>,
    /// What it returned.
    pub(super) code: u32,
    /// The frame as it left it.
    pub(super) frame: Vec<u8>,
}

/// A loaded copy.
pub(super) struct Stand {
    copy: Ebpf,
    name: &'static str,
    /// The kernel's hash of its instructions.
    pub(super) tag: u64,
    /// The ports it knows.
    pub(super) ports: BTreeMap<u32, PortEntry>,
}

impl Stand {
    /// Loads one program of an object; stage 1 has these keys.
    pub(super) fn new(
        view: &View,
        object: &Object,
        name: &'static str,
        keys: &[u64],
    ) -> Result<Self, Error> {
        let mut copy = load::copy(object, &view.folder, &view.lines, keys)?;
        let tag = if name == TC {
            let program = load::tagged(&mut copy, name, SchedClassifier::load)?;
            program.info().map_err(failed)?.tag()
        } else {
            let program = load::tagged(&mut copy, name, Xdp::load)?;
            program.info().map_err(failed)?.tag()
        };
        let mut stand = Self {
            copy,
            name,
            tag,
            ports: BTreeMap::new(),
        };
        for (ifindex, entry) in view.port_entries() {
            stand.put(ifindex, entry)?;
        }
        Ok(stand)
    }

    /// Makes a port one that takes untagged frames with a link-layer header, as if by a program of
    /// its own: a test run knows no others. Tells what it was.
    pub(super) fn plain(&mut self, ifindex: u32) -> Result<Option<PortEntry>, Error> {
        let before = self.ports.get(&ifindex).copied();
        if let Some(mut entry) = before {
            entry.vlan = 0;
            if entry.flags & PortEntry::LAYER3 != 0 {
                entry.flags &= !PortEntry::LAYER3;
                entry.mac = STAND_IN;
            }
            self.put(ifindex, entry)?;
        }
        Ok(before)
    }

    /// Writes an entry of the port table.
    pub(super) fn put(&mut self, ifindex: u32, entry: PortEntry) -> Result<(), Error> {
        self.ports.insert(ifindex, entry);
        let ports = self.copy.map_mut("PORTS");
        let ports = ports.ok_or(broken("it has no ports"))?;
        let mut ports: Array<_, PortPlace> = ports
            .try_into()
            .map_err(|_| broken("its ports are of another shape"))?;
        let all = self.ports.iter().map(|(ifindex, entry)| (*ifindex, *entry));
        for (index, place) in arranged(all).ok_or(broken("its ports find no room"))? {
            ports.set(index, place, 0).map_err(|source| Error::Map {
                map: "PORTS",
                action: "copy it",
                source,
            })?;
        }
        Ok(())
    }

    /// Runs the program on a frame that comes in through a port.
    pub(super) fn run(&self, ifindex: u32, frame: &[u8]) -> Result<Tried, Error> {
        let slot = self.ports.get(&ifindex).map_or(0, |entry| entry.slot);
        let before = self.counted(slot)?;
        let mut out = vec![0; ROOM];
        let result = self.run_on(ifindex, frame, &mut out).map_err(failed)?;
        out.truncate(result.data_size_out as usize);
        Ok(Tried {
            outcome: told(&before, &self.counted(slot)?),
            code: result.return_value,
            frame: out,
        })
    }

    fn run_on(
        &self,
        ifindex: u32,
        frame: &[u8],
        out: &mut [u8],
    ) -> Result<TestRunResult, ProgramError> {
        match self.copy.program(self.name) {
            Some(Program::SchedClassifier(program)) => {
                // struct __sk_buff: the device.
                let mut context = [0_u8; 192];
                context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
                program.test_run(options(frame, out, &context))
            }
            Some(Program::Xdp(program)) => {
                // struct xdp_md: end of the data, the device.
                let mut context = [0_u8; 24];
                context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
                context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
                program.test_run(options(frame, out, &context))
            }
            _ => Err(ProgramError::NotLoaded),
        }
    }

    fn counted(&self, slot: u32) -> Result<Vec<PortCounters>, Error> {
        let counters = self.copy.map("PORT_CNT");
        let counters: PerCpuArray<_, PortCounters> = counters
            .ok_or(broken("it has no counters"))?
            .try_into()
            .map_err(|_| broken("its counters are of another shape"))?;
        let values = counters.get(&slot, 0).map_err(|source| Error::Map {
            map: "PORT_CNT",
            action: "read the copy's",
            source,
        })?;
        Ok(values.to_vec())
    }
}

fn options<'a>(frame: &'a [u8], out: &'a mut [u8], context: &'a [u8]) -> TestRunOptions<'a> {
    TestRunOptions {
        data_in: Some(frame),
        data_out: Some(out),
        ctx_in: Some(context),
        ..TestRunOptions::default()
    }
}

/// The one outcome that was counted between two readings.
fn told(before: &[PortCounters], after: &[PortCounters]) -> Option<Outcome> {
    let rose = |get: &dyn Fn(&PortCounters) -> u64| {
        before.iter().map(get).sum::<u64>() != after.iter().map(get).sum::<u64>()
    };
    let punt = PuntReason::ALL
        .iter()
        .find(|reason| rose(&|counters| counters.punted[reason.index() as usize]));
    let drop = DropReason::ALL
        .iter()
        .find(|reason| rose(&|counters| counters.dropped[reason.index() as usize]));
    match (punt, drop) {
        (Some(reason), _) => Some(Outcome::Punt(*reason)),
        (None, Some(reason)) => Some(Outcome::Drop(*reason)),
        (None, None) => rose(&|counters| counters.forwarded).then_some(Outcome::Forward),
    }
}

pub(super) fn failed(source: ProgramError) -> Error {
    Error::Trial {
        source: io::Error::other(source),
    }
}

pub(super) fn broken(what: &'static str) -> Error {
    Error::Trial {
        source: io::Error::other(what),
    }
}
