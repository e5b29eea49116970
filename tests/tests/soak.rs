//! A node's day in minutes: objects change, daemons are killed, links flap, routes come by the
//! thousand, and after each of it the node is what its objects say, its figures balance, and nothing
//! has been left behind.
//!
//! `cargo xtask soak --minutes N [--seed S]` runs it: `NETMESH_SOAK_SECONDS`, `NETMESH_SOAK_SEED`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netmesh::demo::traffic::ping;
use netmesh::kernel::netns;
use netmesh_tests::daemon::Daemon;
use netmesh_tests::oracle::dice::Dice;
use netmesh_tests::{INTERNET, Lab, OutputText as _, RESOURCES, Resource, within};
use nix::sys::signal::Signal;

/// What others undo again and again is left alone for up to a minute.
const PATIENCE: Duration = Duration::from_secs(100);

/// The nodes that a daemon serves; `apply` is run on the others.
const SERVED: [&str; 2] = ["node-1", "router"];

/// What a daemon may have more of than when it was new.
const MORE_FILES: usize = 40;
const MORE_MEMORY: u64 = 48 << 10;

/// What is done to the node.
#[derive(Clone, Debug)]
enum Act {
    /// The network has these of its resources.
    Objects(Vec<usize>),
    /// A daemon is killed and started again.
    Kill(&'static str),
    /// It is told to read everything.
    Reload(&'static str),
    /// A link goes and comes back after so many milliseconds.
    Flap(&'static str, &'static str, u64),
    /// So many routes come by hand, or as many change.
    Import(usize, usize),
    /// The same, killed after so many milliseconds.
    TornImport(usize, usize, u64),
    /// Those routes go.
    Remove(usize),
    /// New programs.
    Upgrade,
    /// A resource's namespace is deleted under the daemon.
    Delete,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

fn draw(dice: &mut Dice) -> Act {
    let served = |dice: &mut Dice| *dice.pick(&SERVED);
    match dice.below(12) {
        0..=2 => {
            // The exit stays: without it there is no network.
            let others = (1..RESOURCES.len()).filter(|_| dice.chance(1, 2));
            Act::Objects(
                std::iter::once(0)
                    .chain(others.collect::<Vec<_>>())
                    .collect(),
            )
        }
        3 | 4 => Act::Kill(served(dice)),
        5 => Act::Reload(served(dice)),
        6 | 7 => {
            let (machine, link) = *dice.pick(&[
                ("switch", "upstream"),
                ("switch", "exit"),
                ("provider", "eth0"),
                ("node-1", "eth0"),
            ]);
            Act::Flap(machine, link, dice.below(1500) as u64)
        }
        8 => Act::Import(1 + dice.below(3000), dice.below(2)),
        9 => Act::TornImport(1 + dice.below(3000), dice.below(2), dice.below(120) as u64),
        10 => match dice.below(2) {
            0 => Act::Remove(dice.below(3000)),
            _ => Act::Upgrade,
        },
        _ => Act::Delete,
    }
}

struct Soak {
    lab: Lab,
    daemons: BTreeMap<&'static str, Daemon>,
    /// Open files and resident memory (KiB) of a daemon that is new, by node.
    new: BTreeMap<&'static str, (usize, u64)>,
    resources: Vec<Resource>,
    /// Routes set by hand.
    routes: usize,
    log: Vec<String>,
}

impl Soak {
    fn start() -> Self {
        let lab = Lab::mesh();
        let mut soak = Self {
            lab,
            daemons: BTreeMap::new(),
            new: BTreeMap::new(),
            resources: RESOURCES.to_vec(),
            routes: 0,
            log: Vec::new(),
        };
        for node in SERVED {
            soak.serve(node);
        }
        soak.apply();
        soak
    }

    fn serve(&mut self, node: &'static str) {
        let daemon = Daemon::start(&self.lab, node, &["--metrics", "0"]);
        daemon.until_told("READY=1");
        self.daemons.insert(node, daemon);
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Objects(kept) => {
                self.resources = kept.iter().map(|n| RESOURCES[*n]).collect();
                self.lab.write_network(&self.resources);
            }
            Act::Kill(node) => {
                if let Some(mut daemon) = self.daemons.remove(node) {
                    let _ = daemon.ends(Signal::SIGKILL);
                }
                self.serve(node);
            }
            Act::Reload(node) => self.daemons[node].signal(Signal::SIGHUP),
            Act::Flap(machine, link, pause) => {
                self.lab.ip(machine, &format!("link set {link} down"));
                std::thread::sleep(Duration::from_millis(*pause));
                self.lab.ip(machine, &format!("link set {link} up"));
                match (*machine, *link) {
                    // The kernel forgets addresses and routes of the hosts around with their link.
                    ("provider", _) => {
                        let address = "addr replace 2a02:1800:10:1052::4/127 dev eth0 nodad";
                        self.lab.ip(machine, address);
                        let route = "route replace 2a02:1802:5e::/48 via 2a02:1800:10:1052::5";
                        self.lab.ip(machine, route);
                    }
                    ("node-1", _) => {
                        let address = "addr replace 2001:db8:0:1::11/64 dev eth0 nodad";
                        self.lab.ip(machine, address);
                    }
                    _ => {}
                }
            }
            Act::Import(count, gateway) => {
                let mut child = self.import(*count, *gateway);
                assert!(child.wait().expect("it ends").success(), "the import");
                self.routes = self.routes.max(*count);
            }
            Act::TornImport(count, gateway, pause) => {
                let mut child = self.import(*count, *gateway);
                std::thread::sleep(Duration::from_millis(*pause));
                let _ = child.kill();
                let _ = child.wait();
                self.routes = self.routes.max(*count);
            }
            Act::Remove(from) => {
                for n in (*from..self.routes).take(20) {
                    // It may not be there: its import was torn.
                    let _ = self
                        .lab
                        .try_netmesh("router", &["route", "del", &prefix(n)]);
                }
            }
            Act::Upgrade => {
                let _ = self.lab.netmesh("router", &["dataplane", "upgrade"]);
            }
            Act::Delete => {
                let name = self.lab.resource("gw").to_string();
                let _ = Command::new("ip").args(["netns", "del", &name]).output();
            }
        }
        self.apply();
    }

    /// On the nodes without a daemon.
    fn apply(&self) {
        for node in ["node-2", "node-3"] {
            let applied = self.lab.try_netmesh(node, &["apply", "--empty"]);
            assert!(
                applied.status.success(),
                "{node}: {}",
                applied.stderr_text()
            );
        }
    }

    fn import(&self, count: usize, gateway: usize) -> std::process::Child {
        let via = ["via 2a02:1800:10:1052::4 dev eth0", "blackhole"][gateway];
        let lines: String = (0..count)
            .map(|n| match gateway {
                0 => format!("{} {via}\n", prefix(n)),
                _ => format!("{via} {}\n", prefix(n)),
            })
            .collect();
        let mut child = self
            .lab
            .command("router", &["route", "import", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("netmesh starts");
        let _ = child
            .stdin
            .take()
            .expect("a pipe")
            .write_all(lines.as_bytes());
        child
    }

    /// Everything that holds once the node has settled; the first that does not.
    fn check(&self) -> Result<(), String> {
        let mut left = String::new();
        let settled = within(PATIENCE, || {
            left.clear();
            for node in self.lab.nodes() {
                let plan = self.lab.try_netmesh(&node, &["plan", "--exit-code"]);
                if plan.status.code() != Some(0) {
                    left += &format!("{node}: {}{}", plan.stdout_text(), plan.stderr_text());
                }
            }
            left.is_empty()
        });
        hold(settled, "nothing is left to do", || left.clone())?;
        self.check_names()?;
        self.check_figures()?;
        self.check_pins()?;
        for (node, daemon) in &self.daemons {
            let (files, memory) = cost(daemon.pid());
            let (was, had) = self.new.get(node).copied().unwrap_or((files, memory));
            hold(files <= was + MORE_FILES, "open files of a daemon", || {
                format!("{node}: {files}, {was} when it was new")
            })?;
            hold(memory <= had + MORE_MEMORY, "memory of a daemon", || {
                format!("{node}: {memory} KiB, {had} when it was new")
            })?;
            let text = daemon.text();
            hold(!text.contains("panicked"), "no daemon panics", || {
                text.clone()
            })?;
        }
        self.check_traffic()
    }

    /// The namespaces of this lab's resources are those of its objects, each with one data plane.
    fn check_names(&self) -> Result<(), String> {
        let start = format!("nm-{}-", self.lab.network());
        let found: BTreeSet<String> = netns::list()
            .map_err(|error| error.to_string())?
            .into_iter()
            .filter(|name| name.starts_with(&start))
            .collect();
        let wanted = self
            .resources
            .iter()
            .map(|resource| format!("{start}{}", resource.name));
        let wanted: BTreeSet<String> = wanted.collect();
        hold(found == wanted, "namespaces", || {
            format!("{found:?}, not {wanted:?}")
        })?;
        let folders = netmesh::dataplane::pin::Folder::list().map_err(|error| error.to_string())?;
        let mut seen = BTreeSet::new();
        for folder in folders
            .into_iter()
            .filter(|folder| folder.name.starts_with(&start))
        {
            let lives =
                netns::identity(&netmesh::plan::state::Namespace::Named(folder.name.clone()));
            let lives = lives.is_ok_and(|(cookie, _)| cookie == folder.cookie);
            hold(lives, "no data plane of a dead namespace", || {
                folder.name.clone()
            })?;
            hold(
                seen.insert(folder.name.clone()),
                "one data plane each",
                || folder.name,
            )?;
        }
        Ok(())
    }

    /// Received is forwarded, lost at the device, left to the kernel or dropped.
    fn check_figures(&self) -> Result<(), String> {
        let mut told = String::new();
        let balanced = within(Duration::from_secs(10), || {
            let ports = self.lab.json("router", &["counters", "--drops"])["ports"].clone();
            told.clear();
            for port in ports.as_array().into_iter().flatten() {
                let number = |value: &serde_json::Value| value.as_u64().unwrap_or(u64::MAX / 8);
                let sum = |field: &str| -> u64 {
                    let rows = port[field].as_array().into_iter().flatten();
                    rows.map(|row| number(&row["packets"])).sum()
                };
                let out = number(&port["forwarded"]["packets"])
                    + number(&port["redirect_failed"])
                    + sum("punted")
                    + sum("dropped");
                if number(&port["received"]) != out {
                    told += &port.to_string();
                }
            }
            told.is_empty()
        });
        hold(balanced, "figures balance", || told.clone())
    }

    /// The router's pins: every map and program once, a link for each port and follower, nothing
    /// that was being made or torn.
    fn check_pins(&self) -> Result<(), String> {
        // Tables that a killed writer has left are mended by the next one, whoever that is.
        let mend = prefix(0xfffe);
        let mended = self
            .lab
            .try_netmesh("router", &["route", "replace", "blackhole", &mend]);
        hold(mended.status.success(), "the next writer", || {
            mended.stderr_text()
        })?;
        let status = self.lab.json("router", &["dataplane", "status"]);
        let folder = status["instance"]["pins"].as_str().unwrap_or_default();
        let mut counts = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(|error| error.to_string())? {
            let entry = entry.map_err(|error| error.to_string())?;
            let inside = std::fs::read_dir(entry.path()).map_or(0, Iterator::count);
            counts.insert(entry.file_name().to_string_lossy().into_owned(), inside);
        }
        let links = counts.get("links").copied().unwrap_or_default();
        let programs = counts.get("progs").copied().unwrap_or_default();
        let maps = counts.get("maps").copied().unwrap_or_default();
        // Three maps that grow may have a second one for a while.
        let right = counts.len() == 3 && links == 7 && programs == 3 && (22..=25).contains(&maps);
        hold(right, "pins", || format!("{folder}: {counts:?}"))
    }

    /// Packets go to the internet and come back.
    fn check_traffic(&self) -> Result<(), String> {
        if !self.resources.iter().any(|resource| resource.name == "web") {
            return Ok(());
        }
        let (here, from) = (self.lab.resource("web"), self.lab.address(&RESOURCES[1]));
        let flows = within(PATIENCE, || {
            ping(&here, from.into(), INTERNET.into(), 104, 2).is_ok_and(|pings| pings.received == 2)
        });
        hold(flows, "web reaches the internet", || "no answer".to_owned())
    }
}

fn hold(holds: bool, what: &str, found: impl FnOnce() -> String) -> Result<(), String> {
    if holds {
        return Ok(());
    }
    Err(format!("{what}: {}", found()))
}

/// A prefix that nobody else uses.
fn prefix(n: usize) -> String {
    format!("2a02:1815:{n:x}::/48")
}

/// Open files and resident memory (KiB) of a process.
fn cost(pid: u32) -> (usize, u64) {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let memory = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    (files, memory.unwrap_or_default())
}

fn number(name: &str, otherwise: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
#[ignore = "takes as long as it is told to: cargo xtask soak"]
fn a_day_of_churn_leaves_the_node_what_its_objects_say() {
    let seed = number("NETMESH_SOAK_SEED", 1);
    let time = Duration::from_secs(number("NETMESH_SOAK_SECONDS", 120));
    let begun = Instant::now();
    let mut dice = Dice::new(seed);
    let mut soak = Soak::start();
    let mut acts = 0_u32;
    let mut kinds = BTreeMap::<String, u32>::new();
    let mut result = soak.check();
    // What is held open for as long as there is something to watch is open by then.
    std::thread::sleep(Duration::from_secs(3));
    for node in SERVED {
        soak.new.insert(node, cost(soak.daemons[node].pid()));
    }
    while result.is_ok() && begun.elapsed() < time {
        // Several things at once, as on a bad day.
        for _ in 0..1 + dice.below(3) {
            let act = draw(&mut dice);
            soak.log
                .push(format!("{:7.1} s  {act}", begun.elapsed().as_secs_f64()));
            let word = act.to_string();
            let kind = word.split(['(', ' ']).next().unwrap_or_default().to_owned();
            *kinds.entry(kind).or_default() += 1;
            soak.act(&act);
            acts += 1;
        }
        result = soak.check();
    }
    println!(
        "seed {seed}: {acts} acts in {} s: {kinds:?}",
        begun.elapsed().as_secs()
    );
    for (node, daemon) in &soak.daemons {
        let (files, memory) = cost(daemon.pid());
        let (was, had) = soak.new[node];
        println!("{node}: {was} to {files} open files, {had} to {memory} KiB");
    }
    if let Err(fault) = &result {
        panic!("seed {seed}, after\n{}\n{fault}", soak.log.join("\n"));
    }

    // And all of it can be taken away.
    soak.daemons.clear();
    for node in soak.lab.nodes() {
        let _ = soak.lab.netmesh(&node, &["destroy", "--yes"]);
    }
    for node in soak.lab.nodes() {
        let left = soak.lab.residue(&node);
        let ours = left
            .keys()
            .filter(|path| path.contains("/bpf/") || path.contains("wireguard"));
        assert_eq!(
            ours.collect::<Vec<_>>(),
            Vec::<&String>::new(),
            "{node}, seed {seed}"
        );
    }
}
