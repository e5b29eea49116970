//! The namespaces, their wires, and netmesh in the middle one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, Map, MapData, PerCpuArray};
use netmesh_common::lines::HEADER;
use netmesh_common::table::{Action, FibEntry, NextHop, Origin, PrefixCounters};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;

use super::NEXT_HOPS;
use crate::sets::Set;
use crate::usage::Cpu;

/// Ports into the router, by index: `s0` is the source's end of `r0`.
pub(super) struct Ports {
    pub(super) ours: usize,
    pub(super) drop: usize,
    pub(super) redirect: usize,
    pub(super) fib: usize,
    pub(super) kernel: usize,
    pub(super) ours_tc: usize,
    pub(super) drop_tc: usize,
    pub(super) redirect_tc: usize,
    pub(super) any: usize,
}

pub(super) const PORTS: Ports = Ports {
    ours: 0,
    drop: 1,
    redirect: 2,
    fib: 3,
    kernel: 4,
    ours_tc: 5,
    drop_tc: 6,
    redirect_tc: 7,
    any: 10,
};

/// Ports but the last.
const COUNT: usize = 8;
/// Routes that are changed in one turn of a writer.
const CHURNED: usize = 65_536;
/// The way out of the routers that are programs; `d` instead of `r` is its far end.
pub(super) const EGRESS: &str = "r9";
/// The kernel's own: its packets are socket buffers, and end in another sink.
pub(super) const KERNEL_EGRESS: &str = "r8";

/// Removed when dropped.
pub(super) struct Wires {
    name: String,
    netmesh: PathBuf,
    pins: PathBuf,
}

impl Wires {
    pub(super) fn new() -> anyhow::Result<Self> {
        let netmesh = std::env::var_os("NETMESH_BIN").context("NETMESH_BIN is not set")?;
        let mut wires = Self {
            name: format!("nmt-bench-{}", std::process::id()),
            netmesh: netmesh.into(),
            pins: PathBuf::new(),
        };
        for name in ["src", "rtr", "dst"] {
            let namespace = wires.namespace(name);
            ip(&["netns", "add", &namespace])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
            for (key, value) in [
                ("net.ipv6.conf.default.accept_dad", "0"),
                ("net.ipv6.conf.default.router_solicitations", "0"),
                ("net.ipv6.conf.all.forwarding", "1"),
            ] {
                wires.run(name, &["sysctl", "-qw", &format!("{key}={value}")])?;
            }
        }
        for port in (0..COUNT).chain([PORTS.any]) {
            wires.wire(
                ("src", &format!("s{port}"), 1),
                ("rtr", &format!("r{port}"), 2),
            )?;
        }
        for egress in [8, 9] {
            wires.wire(
                ("rtr", &format!("r{egress}"), 3),
                ("dst", &format!("d{egress}"), 4),
            )?;
            for n in 0..NEXT_HOPS {
                let dev = format!("r{egress}");
                wires.neighbour(&next_hop(n), 4, &dev)?;
            }
        }
        // Frames that are sent to a veth are lost unless its other end runs NAPI.
        for (name, dev) in [
            ("rtr", "r4"),
            ("rtr", "r5"),
            ("rtr", "r6"),
            ("rtr", "r7"),
            ("dst", "d8"),
        ] {
            wires.run(name, &["ethtool", "-K", dev, "gro", "on"])?;
        }
        for port in [PORTS.ours, PORTS.ours_tc] {
            wires.neighbour("fe80::1", 1, &format!("r{port}"))?;
        }
        for (port, hook, sources) in [
            ("r0", "xdp", "behind"),
            ("r5", "tc", "behind"),
            ("r10", "xdp", "any"),
            (EGRESS, "xdp", "any"),
        ] {
            let attach = ["dataplane", "attach", "--port", port, "--hook", hook];
            wires.netmesh(&[&attach[..], &["--sources", sources]].concat())?;
        }
        wires.pins = wires.find_pins()?;
        Ok(wires)
    }

    /// The table, from a file of text, as people would; how many seconds it took.
    pub(super) fn import(&self, set: &Set) -> anyhow::Result<f64> {
        let text = routes(set, usize::MAX, 0)?;
        let clock = Cpu::children()?;
        let mut child = self
            .command(&["route", "import"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let mut input = child.stdin.take().context("no standard input")?;
        input.write_all(text.as_bytes())?;
        drop(input);
        ensure!(child.wait()?.success(), "the routes were not taken");
        let seconds = clock.elapsed()?;
        // Sources are looked up, and counted, like destinations, and must live behind their port.
        for (prefix, dev) in [("2a02:1803::/64", "r0"), ("2a02:1804::/64", "r5")] {
            self.netmesh(&["route", "add", prefix, "via", "fe80::1", "dev", dev])?;
        }
        Ok(seconds)
    }

    /// Somebody who changes routes all the time, on another CPU than this one.
    pub(super) fn writer(&self, set: &Set) -> anyhow::Result<Beside> {
        let folder = tempfile::tempdir()?;
        for (name, shift) in [("even", 0), ("odd", 1)] {
            std::fs::write(folder.path().join(name), routes(set, CHURNED, shift)?)?;
        }
        let import = format!(
            "{} --netns {} route import",
            self.netmesh.display(),
            self.namespace("rtr")
        );
        let words =
            format!("while [ ! -e end ]; do {import} <odd && {import} <even || exit 1; done");
        beside(&words, folder)
    }

    /// Somebody who reads all counters all the time, on another CPU.
    pub(super) fn reader(&self) -> anyhow::Result<Beside> {
        let counters = format!(
            "{} --netns {} --json counters",
            self.netmesh.display(),
            self.namespace("rtr")
        );
        let words = format!("while [ ! -e end ]; do {counters} || exit 1; done");
        beside(&words, tempfile::tempdir()?)
    }

    /// Somebody who asks for packets there are none of.
    pub(super) fn watcher(&self) -> anyhow::Result<Beside> {
        let trace = format!(
            "{} --netns {} trace --prefix 2a02:18ff::/48",
            self.netmesh.display(),
            self.namespace("rtr")
        );
        let words = format!(
            "{trace} & while [ ! -e end ]; do sleep 0.02; done; kill $!; wait $! || exit 0"
        );
        beside(&words, tempfile::tempdir()?)
    }

    /// Where the pins are.
    pub(super) fn pins(&self) -> &Path {
        &self.pins
    }

    /// Puts a set into the trie, with counters of the per-CPU array, as if stage 1 had no room.
    pub(super) fn count_in_the_trie(&self, set: &Set) -> anyhow::Result<()> {
        let counters: PerCpuArray<MapData, PrefixCounters> = self.map("PREFIX_CNT")?;
        let hops: Array<MapData, NextHop> = self.map("NEXT_HOPS")?;
        let mut known = BTreeMap::new();
        let behind = self.index("rtr", "r5")?;
        for index in 1..hops.len() {
            let hop = hops.get(&index, 0)?;
            // The neighbour of this address behind another port has no source here.
            if hop.ifindex != 0 && hop.ifindex != behind {
                known.insert(Ipv6Addr::from(hop.address).to_string(), index);
            }
        }
        // And the sources, which are looked up like destinations.
        let source = (0x2a02_1803_0000_0000, "fe80::1".to_owned());
        let routes = set.keys.iter().enumerate();
        let routes = routes.map(|(n, key)| (*key, next_hop(n))).chain([source]);
        let mut trie: LpmTrie<MapData, [u8; 16], FibEntry> = self.map("FIB6")?;
        for (n, (key, gateway)) in routes.enumerate() {
            let mut address = [0; 16];
            address[..8].copy_from_slice(&key.to_be_bytes());
            let entry = FibEntry {
                next_hop: *known.get(&gateway).context("no such next hop")?,
                counter: n as u32 % counters.len(),
                action: Action::Forward as u8,
                prefix_length: 64,
                origin: Origin::Static as u8,
                reserved: [0; 5],
            };
            trie.insert(&Key::new(64, address), entry, 0)?;
        }
        Ok(())
    }

    /// While it is away the trie answers for all.
    pub(super) fn take_first_stage_away(&self, away: bool) -> anyhow::Result<()> {
        let mut active: Array<MapData, u64> = self.map("ACTIVE")?;
        let headers: Array<MapData, [u64; HEADER]> = self.map("HEADERS")?;
        // A new instance begins with the one, and has the other from its first growth on.
        let is_there = |generation: &u32| {
            let header = headers.get(generation, 0);
            header.is_ok_and(|[bits, ..]| bits != 0)
        };
        let there = [0, 1]
            .into_iter()
            .find(is_there)
            .context("no first stage")?;
        let generation = if away { 1 - there } else { there };
        Ok(active.set(0, u64::from(generation), 0)?)
    }

    fn map<T: TryFrom<Map, Error = aya::maps::MapError>>(&self, name: &str) -> anyhow::Result<T> {
        let data = MapData::from_pin(self.pins.join("maps").join(name))?;
        Ok(T::try_from(Map::from_map_data(data)?)?)
    }

    /// Where netmesh says that its tables are.
    fn find_pins(&self) -> anyhow::Result<PathBuf> {
        let output = self.command(&["--json", "dataplane", "status"]).output()?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let pins = status["instance"]["pins"].as_str();
        Ok(pins.context("netmesh has no tables there")?.into())
    }

    /// Works in one of the namespaces.
    pub(super) fn inside<T: Send>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send,
    ) -> anyhow::Result<T> {
        let namespace = File::open(format!("/run/netns/{}", self.namespace(name)))?;
        std::thread::scope(|scope| {
            let worker = scope.spawn(move || -> anyhow::Result<T> {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            worker.join().unwrap_or_else(|_| bail!("a thread panicked"))
        })
    }

    pub(super) fn index(&self, name: &str, dev: &str) -> anyhow::Result<u32> {
        Ok(self.inside(name, || if_nametoindex(dev))??)
    }

    fn wire(&self, one: (&str, &str, u8), two: (&str, &str, u8)) -> anyhow::Result<()> {
        let mac = |last: u8| format!("02:00:00:00:00:{last:02x}");
        let (from, to) = (self.namespace(one.0), self.namespace(two.0));
        let words = format!(
            "link add {} address {} netns {from} type veth peer name {} address {} netns {to}",
            one.1,
            mac(one.2),
            two.1,
            mac(two.2)
        );
        ip(&words.split(' ').collect::<Vec<_>>())?;
        for (namespace, dev) in [(&from, one.1), (&to, two.1)] {
            ip(&["-n", namespace, "link", "set", dev, "up"])?;
        }
        Ok(())
    }

    fn neighbour(&self, address: &str, mac: u8, dev: &str) -> anyhow::Result<()> {
        let namespace = self.namespace("rtr");
        let mac = format!("02:00:00:00:00:{mac:02x}");
        let words =
            format!("-n {namespace} -6 neigh add {address} lladdr {mac} dev {dev} nud permanent");
        ip(&words.split(' ').collect::<Vec<_>>())
    }

    fn netmesh(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = self.command(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "netmesh {arguments:?}: {said}");
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.netmesh);
        command
            .args(["--netns", &self.namespace("rtr")])
            .args(arguments);
        command
    }

    /// The same on another CPU.
    pub(super) fn beside_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(&self.netmesh);
        command.args(["--netns", &self.namespace("rtr")]);
        command.args(arguments);
        command
    }

    fn run(&self, name: &str, words: &[&str]) -> anyhow::Result<()> {
        let namespace = self.namespace(name);
        ip(&[&["netns", "exec", &namespace], words].concat())
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        let _ = self.netmesh(&["dataplane", "detach"]);
        for name in ["src", "rtr", "dst"] {
            let _ = ip(&["netns", "del", &self.namespace(name)]);
        }
    }
}

/// A process on another CPU, until it is told to end.
pub(super) struct Beside {
    child: Child,
    folder: TempDir,
}

impl Beside {
    /// Lets it come to the end of its turn, so that the routes are what they were.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        std::fs::write(self.folder.path().join("end"), "")?;
        ensure!(self.child.wait()?.success(), "what runs beside has failed");
        Ok(())
    }
}

fn beside(words: &str, folder: TempDir) -> anyhow::Result<Beside> {
    let child = Command::new("taskset")
        .args(["-c", "0", "sh", "-c", words])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // It reads before it does anything.
    std::thread::sleep(Duration::from_millis(100));
    Ok(Beside { child, folder })
}

/// So much of a set as text; each route by the next hop that many behind its own.
fn routes(set: &Set, most: usize, shift: usize) -> anyhow::Result<String> {
    let mut text = String::new();
    for (n, key) in set.keys.iter().enumerate().take(most) {
        writeln!(
            text,
            "{:x}:{:x}:{:x}:{:x}::/64 via {} dev {EGRESS}",
            key >> 48,
            key >> 32 & 0xffff,
            key >> 16 & 0xffff,
            key & 0xffff,
            next_hop(n + shift)
        )?;
    }
    Ok(text)
}

pub(super) fn next_hop(n: usize) -> String {
    format!("fe80::1{:x}", n % NEXT_HOPS)
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {words:?}: {said}");
    Ok(())
}
