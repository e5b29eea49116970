//! The router with something left out, in the place of the one that is attached, upon its tables.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use aya::programs::Xdp;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::{Ebpf, EbpfLoader};

use super::wires::Wires;

/// The router as it is.
pub(super) const WHOLE: &str = "bench_router";

pub(super) struct Variants {
    ebpf: Ebpf,
    links: PathBuf,
}

impl Variants {
    pub(super) fn load(object: &[u8], wires: &Wires) -> anyhow::Result<Self> {
        let mut loader = EbpfLoader::new();
        let pins: Vec<_> = fs::read_dir(wires.pins().join("maps"))?
            .map(|entry| entry.map(|entry| (entry.file_name(), entry.path())))
            .collect::<Result<_, _>>()?;
        for (name, path) in &pins {
            loader.map_pin_path(name.to_str().context("a name")?, path);
        }
        for name in ["HASH", "CHASE"] {
            loader.map_max_entries(name, 1);
        }
        Ok(Self {
            ebpf: loader.load(object)?,
            links: wires.pins().join("links"),
        })
    }

    /// Puts a program in the place of the one at a port.
    pub(super) fn put(&mut self, name: &str, port: u32) -> anyhow::Result<()> {
        let pinned = PinnedLink::from_pin(self.links.join(format!("xdp-{port}")))?;
        let link = XdpLink::try_from(FdLink::from(pinned))?;
        let program = self.ebpf.program_mut(name).context("a program")?;
        let program: &mut Xdp = program.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        program.attach_to_link(link)?;
        Ok(())
    }
}
