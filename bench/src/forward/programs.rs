//! The measuring programs at their places, and the packets.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use aya::maps::xdp::DevMapHash;
use aya::maps::{PerCpuArray, PerCpuValues};
use aya::programs::tc::SchedClassifierLinkId;
use aya::programs::xdp::XdpLinkId;
use aya::programs::{
    Program, ProgramError, SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs,
    TestRunOptions, Xdp, XdpMode,
};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};

use super::born;
use super::clock::Clock;
use super::wires::{EGRESS, KERNEL_EGRESS, PORTS, Wires};
use crate::kernel::{STREAM, State};
use crate::memory::Mapping;

/// Bytes of a frame: Ethernet, IPv6, UDP and some.
const FRAME: usize = 78;
/// Frames that are made before they are sent.
const BATCH: u32 = 64;
/// Frames before the ones that count.
const WARM: u32 = 20_000;
/// What is still on its way has arrived after this.
const SETTLE: Duration = Duration::from_millis(5);

pub(super) struct Programs<'a> {
    object: &'a [u8],
    ebpf: Ebpf,
    stream: Mapping,
    /// Where the programs that look nothing up send to.
    egress: u32,
    /// The sink for frames, while it is there.
    sink: Option<XdpLinkId>,
}

impl<'a> Programs<'a> {
    pub(super) fn load(object: &'a [u8], wires: &Wires) -> anyhow::Result<Self> {
        let mut loader = EbpfLoader::new();
        for name in [
            "INSIDE",
            "CARRIED",
            "KEPT",
            "RIB",
            "COUNTER_IDS",
            "FIB4",
            "FIB6",
        ] {
            loader.map_max_entries(name, 16);
        }
        let mut ebpf = loader.load(object)?;
        let stream = crate::kernel::map(ebpf.map("STREAM").context("STREAM")?, STREAM * 8)?;
        let egress = wires.index("rtr", EGRESS)?;
        wires.inside("rtr", || {
            let mut tx: DevMapHash<_> = ebpf.map_mut("TX").context("TX")?.try_into()?;
            tx.insert(egress, egress, None, 0)?;
            for (name, port) in [
                ("bench_sink", PORTS.drop),
                ("bench_redirect", PORTS.redirect),
                ("bench_forward_fib", PORTS.fib),
            ] {
                let program: &mut Xdp = program(&mut ebpf, name)?;
                program.load()?;
                program.attach(&format!("r{port}"), XdpMode::Driver)?;
            }
            for (name, port) in [
                ("bench_sink_tc", PORTS.drop_tc),
                ("bench_redirect_tc", PORTS.redirect_tc),
            ] {
                let program: &mut SchedClassifier = program(&mut ebpf, name)?;
                program.load()?;
                program.attach(&format!("r{port}"), TcAttachType::Ingress)?;
            }
            anyhow::Ok(())
        })??;
        let source: &mut Xdp = program(&mut ebpf, "bench_source")?;
        source.load()?;
        let far = KERNEL_EGRESS.replace('r', "d");
        wires.inside("dst", || sink_tc(&mut ebpf, &far))??;
        Ok(Self {
            object,
            ebpf,
            stream,
            egress,
            sink: None,
        })
    }

    /// What the stream of destinations is.
    pub(super) fn set_stream(&self, keys: &[u64]) {
        for (word, key) in self.stream.words().iter().zip(keys.iter().cycle()) {
            word.store(*key, Ordering::Relaxed);
        }
    }

    /// Puts a sink at the far end of a wire: for frames, or for socket buffers.
    pub(super) fn sink(
        &mut self,
        wires: &Wires,
        egress: &str,
        buffers: bool,
    ) -> anyhow::Result<()> {
        let far = egress.replace('r', "d");
        let (ebpf, sink) = (&mut self.ebpf, &mut self.sink);
        wires.inside("dst", || {
            let xdp: &mut Xdp = program(ebpf, "bench_sink")?;
            if !buffers {
                *sink = Some(xdp.attach(&far, XdpMode::Driver)?);
                return anyhow::Ok(());
            }
            if let Some(link) = sink.take() {
                xdp.detach(link)?;
            }
            gro(&far)?;
            sink_tc(ebpf, &far).map(drop)
        })?
    }

    /// Sends packets into a port; nanoseconds each took until it had arrived.
    pub(super) fn send(&mut self, wires: &Wires, port: usize, count: u32) -> anyhow::Result<f64> {
        let device = wires.index("src", &format!("s{port}"))?;
        self.set_state(State {
            last: STREAM as u64 - 1,
            ifindex: self.egress.into(),
            ..State::default()
        })?;
        let frame = frame(port);
        // struct xdp_md: end of the data, the device it seems to have come in through.
        let mut context = [0_u8; 24];
        context[4..8].copy_from_slice(&(FRAME as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&device.to_ne_bytes());
        let source: &mut Xdp = program(&mut self.ebpf, "bench_source")?;
        let took = wires.inside("src", || {
            let mut took = Duration::ZERO;
            for count in [WARM, count] {
                let clock = Clock::start()?;
                source.test_run(TestRunOptions {
                    data_in: Some(&frame),
                    ctx_in: Some(&context),
                    repeat: count,
                    attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                    ..TestRunOptions::default()
                })?;
                took = clock.elapsed()?;
            }
            anyhow::Ok(took)
        })??;
        self.check_arrived(u64::from(count + WARM))?;
        Ok(took.as_nanos() as f64 / f64::from(count))
    }

    /// What was loaded.
    pub(super) const fn object(&self) -> &'a [u8] {
        self.object
    }

    /// The same through a socket, to destinations that are given.
    pub(super) fn send_born(
        &mut self,
        wires: &Wires,
        port: usize,
        keys: &[u64],
        count: usize,
    ) -> anyhow::Result<f64> {
        self.set_state(State {
            ifindex: self.egress.into(),
            ..State::default()
        })?;
        let took = born::send(wires, port, &frame(port), keys, count)?;
        self.check_arrived(count as u64)?;
        Ok(took)
    }

    /// Nearly all have come to the end of the way.
    fn check_arrived(&self, sent: u64) -> anyhow::Result<()> {
        std::thread::sleep(SETTLE);
        let arrived: u64 = self.state()?.iter().map(|state| state.frames).sum();
        ensure!(
            arrived * 1000 >= sent * 999,
            "{arrived} of {sent} packets arrived"
        );
        Ok(())
    }

    fn set_state(&mut self, state: State) -> anyhow::Result<()> {
        let cpus = nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let map = self.ebpf.map_mut("STATE").context("STATE")?;
        let mut map: PerCpuArray<_, State> = map.try_into()?;
        Ok(map.set(0, PerCpuValues::try_from(vec![state; cpus])?, 0)?)
    }

    fn state(&self) -> anyhow::Result<Vec<State>> {
        let map: PerCpuArray<_, State> = self.ebpf.map("STATE").context("STATE")?.try_into()?;
        Ok(map.get(&0, 0)?.to_vec())
    }
}

/// It stays until the programs go.
fn sink_tc(ebpf: &mut Ebpf, far: &str) -> anyhow::Result<SchedClassifierLinkId> {
    let sink: &mut SchedClassifier = program(ebpf, "bench_sink_tc")?;
    Ok(sink.attach(far, TcAttachType::Ingress)?)
}

/// From a source that lives behind the port it comes in through.
fn frame(port: usize) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    let payload = (FRAME - 54) as u8;
    frame[19..22].copy_from_slice(&[payload, 17, 64]);
    frame[22..26].copy_from_slice(&[0x2a, 0x02, 0x18, if port == PORTS.ours_tc { 4 } else { 3 }]);
    frame[37] = 2;
    frame[54..58].copy_from_slice(&[0x12, 0x34, 0, 9]);
    frame[59] = payload;
    frame
}

fn gro(dev: &str) -> anyhow::Result<()> {
    let done = std::process::Command::new("ethtool")
        .args(["-K", dev, "gro", "on"])
        .status()?;
    ensure!(done.success(), "GRO of {dev}");
    Ok(())
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    Ok(ebpf
        .program_mut(name)
        .with_context(|| name.to_owned())?
        .try_into()?)
}
