//! What it costs to ask for metrics: whoever asks, the daemon, and the packets meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::programs::Programs;
use super::wires::{EGRESS, PORTS, Wires};
use super::{PACKETS, ROUNDS};
use crate::report::Cell;
use crate::sets::Set;
use crate::{Place, stay_on};

/// Where the daemon answers.
const PORT: u16 = 9586;
/// Which prefixes have series of their own, as `--metrics-prefixes` takes it.
const SELECTIONS: [&str; 2] = ["1000", "all"];

/// What asking costs.
pub(crate) struct Row {
    pub(crate) routes: usize,
    pub(crate) selection: &'static str,
    /// Seconds until the first answer was whole: the tables are read for it.
    pub(crate) first: f64,
    /// The same of the answers after it.
    pub(crate) next: Cell,
    /// Bytes of an answer.
    pub(crate) bytes: usize,
    /// KiB of the daemon's own memory before anybody asked, and the most that was seen of it. What it
    /// maps of the tables is theirs.
    pub(crate) idle: u64,
    pub(crate) peak: u64,
    /// Nanoseconds a packet while nobody asks.
    pub(crate) alone: Cell,
    /// How many times as long it takes while somebody does, over and over.
    pub(crate) ratio: Cell,
}

/// Measures with so many routes.
pub(crate) fn measure(object: &[u8], routes: usize, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    super::clock::check()?;
    let set = Set::random(routes);
    let wires = Wires::new()?;
    let mut programs = Programs::load(object, &wires)?;
    eprintln!("{routes} routes into netmesh's table");
    let _ = wires.import(&set)?;
    programs.sink(&wires, EGRESS, false)?;
    programs.set_stream(&set.uniform(crate::kernel::STREAM));
    // Counters that are not zero.
    for _ in 0..routes.div_ceil(PACKETS as usize) {
        let _ = programs.send(&wires, PORTS.ours, PACKETS)?;
    }
    for selection in SELECTIONS {
        rows.push(one(&wires, &mut programs, routes, selection)?);
    }
    Ok(())
}

fn one(
    wires: &Wires,
    programs: &mut Programs,
    routes: usize,
    selection: &'static str,
) -> anyhow::Result<Row> {
    let daemon = Daemon::start(wires, selection)?;
    let idle = daemon.memory()?;
    let seen = Seen::default();
    std::thread::scope(|scope| {
        let looker = scope.spawn(|| seen.look(&daemon));
        let row = asked(wires, programs, routes, selection);
        seen.stop.store(true, Ordering::Relaxed);
        looker
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        Ok(Row {
            idle,
            peak: seen.most.load(Ordering::Relaxed),
            ..row?
        })
    })
}

/// The most memory that is seen of the daemon, fifty times a second.
#[derive(Default)]
struct Seen {
    most: AtomicU64,
    stop: AtomicBool,
}

impl Seen {
    fn look(&self, daemon: &Daemon) -> anyhow::Result<()> {
        stay_on(Place::First)?;
        while !self.stop.load(Ordering::Relaxed) {
            self.most.fetch_max(daemon.memory()?, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn asked(
    wires: &Wires,
    programs: &mut Programs,
    routes: usize,
    selection: &'static str,
) -> anyhow::Result<Row> {
    let (first, bytes) = ask(wires)?;
    let (mut alone, mut ratios, mut next) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let quiet = programs.send(wires, PORTS.ours, PACKETS)?;
        let stop = AtomicBool::new(false);
        let (busy, asked) = std::thread::scope(|scope| {
            let asker = scope.spawn(|| -> anyhow::Result<Vec<f64>> {
                stay_on(Place::First)?;
                let mut times = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    times.push(ask(wires)?.0);
                }
                Ok(times)
            });
            // It asks before a packet is sent.
            std::thread::sleep(Duration::from_millis(100));
            let busy = programs.send(wires, PORTS.ours, PACKETS);
            stop.store(true, Ordering::Relaxed);
            (busy, asker.join())
        });
        let asked = asked.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        if round > 0 {
            alone.push(quiet);
            ratios.push(busy? / quiet);
            next.extend(asked);
        }
        eprint!("\rmetrics, {routes} routes, {selection}: round {round} of {ROUNDS}");
    }
    eprintln!();
    Ok(Row {
        routes,
        selection,
        first,
        next: Cell::of(&next),
        bytes,
        idle: 0,
        peak: 0,
        alone: Cell::of(&alone),
        ratio: Cell::of(&ratios),
    })
}

/// `netmesh run` on the other CPU; it is ended with its owner.
struct Daemon {
    child: Child,
    _config: TempDir,
}

impl Daemon {
    fn start(wires: &Wires, selection: &str) -> anyhow::Result<Self> {
        let address = format!("127.0.0.1:{PORT}");
        let config = tempfile::tempdir()?;
        std::fs::write(config.path().join("node.toml"), "node = \"bench\"\n")?;
        let folder = config.path().to_str().context("a plain path")?;
        let mut command = wires.beside_command(&[
            "--config",
            folder,
            "run",
            "--metrics",
            &address,
            "--metrics-prefixes",
            selection,
        ]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = Self {
            child: command.spawn()?,
            _config: config,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while wires.inside("rtr", connect)?.is_err() {
            ensure!(Instant::now() < deadline, "the daemon answers nobody");
            std::thread::sleep(Duration::from_millis(50));
        }
        // What it does when it is new is done.
        std::thread::sleep(Duration::from_secs(2));
        Ok(daemon)
    }

    /// KiB of its own.
    fn memory(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("RssAnon:"));
        let word = line.and_then(|line| line.split_whitespace().next());
        Ok(word.context("no such line")?.parse()?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        );
        let _ = self.child.wait();
    }
}

fn connect() -> std::io::Result<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))
}

/// Asks once; returns the seconds until all was there, and how much that was.
fn ask(wires: &Wires) -> anyhow::Result<(f64, usize)> {
    wires.inside("rtr", || {
        let begin = Instant::now();
        let mut stream = connect()?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut room = vec![0; 256 << 10];
        let (mut bytes, mut head) = (0, Vec::new());
        loop {
            let read = stream.read(&mut room)?;
            if read == 0 {
                break;
            }
            bytes += read;
            if head.len() < 16 {
                head.extend_from_slice(room.get(..read).unwrap_or_default());
            }
        }
        if !head.starts_with(b"HTTP/1.1 200") {
            bail!(
                "the daemon said {}",
                String::from_utf8_lossy(head.get(..40).unwrap_or(&head))
            );
        }
        Ok((begin.elapsed().as_secs_f64(), bytes))
    })?
}
