//! The lab: namespaces as machines, netmesh as its users run it.
//!
//! Every lab has names, an allocation's index range and interfaces of its own, so that tests run
//! in parallel. Dropping it removes everything, also when the test panicked.

pub mod daemon;
pub mod field;
pub mod object;
pub mod oracle;
pub mod own;
pub mod pair;
pub mod scrape;
mod snapshot;
pub mod stack;
pub mod stream;
mod wait;
pub mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use netmesh::kernel::ethtool;
use netmesh::plan::state::Namespace;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use snapshot::{collect, links, normalise, tunnels};
pub use wait::{eventually, slowness, within};

/// The allocation all labs cut their prefixes from.
pub const ALLOCATION: &str = "2a02:1802:5e::/48";
/// The host behind the provider.
pub const INTERNET: Ipv6Addr = Ipv6Addr::new(0x2a02, 0x1800, 0x20, 0, 0, 0, 0, 0x10);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A set of machines.
#[derive(Debug)]
pub struct Lab {
    id: String,
    network: String,
    base: u16,
    machines: Vec<String>,
    folder: tempfile::TempDir,
    keys: BTreeMap<String, String>,
}

/// One resource of the lab's network.
#[derive(Clone, Copy, Debug)]
pub struct Resource {
    /// Its name.
    pub name: &'static str,
    /// The machine that hosts it.
    pub node: &'static str,
    /// Its index above the lab's base.
    pub index: u16,
    /// It is the exit.
    pub exit: bool,
    /// It has no endpoint.
    pub hidden: bool,
}

/// The usual three: an exit, a reachable one, a hidden one.
pub const RESOURCES: [Resource; 3] = [
    Resource {
        name: "gw",
        node: "node-1",
        index: 1,
        exit: true,
        hidden: false,
    },
    Resource {
        name: "web",
        node: "node-2",
        index: 2,
        exit: false,
        hidden: false,
    },
    Resource {
        name: "home",
        node: "node-3",
        index: 3,
        exit: false,
        hidden: true,
    },
];

impl Lab {
    /// A lab without machines.
    #[must_use]
    pub fn new() -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        assert!(number < 16, "a test binary has room for 16 labs");
        Self {
            id: format!("nmt-{pid}-{number}"),
            network: format!("t{number:x}x{:x}", pid & 0xff_ffff),
            base: ((pid % 200) as u16 + 1) << 8 | (number as u16) << 4,
            machines: Vec::new(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            keys: BTreeMap::new(),
        }
    }

    /// Three nodes, an upstream router and a provider, wired and configured; nothing is applied.
    #[must_use]
    pub fn mesh() -> Self {
        let mut lab = Self::new();
        for machine in ["switch", "node-1", "node-2", "node-3", "router", "provider"] {
            lab.machine(machine);
        }
        lab.ip("switch", "link add under type bridge");
        lab.ip("switch", "link set under up");
        lab.ip("switch", "link add segment type bridge");
        lab.ip("switch", "link set segment up");
        for node in ["node-1", "node-2", "node-3"] {
            lab.wire((node, "eth0"), ("switch", node));
            lab.ip("switch", &format!("link set {node} master under"));
            let last = node.as_bytes()[5] as char;
            lab.ip(
                node,
                &format!("addr add 2001:db8:0:1::1{last}/64 dev eth0 nodad"),
            );
        }
        lab.wire(("node-1", "eth1"), ("switch", "exit"));
        lab.ip("switch", "link set exit master segment");
        lab.segment_wire("router");
        lab.uplink_wire("router");
        lab.ip("provider", "addr add 2a02:1800:20::10/128 dev lo");
        for resource in RESOURCES {
            lab.configure(resource.node, &format!("node = \"{}\"\n", resource.node));
            lab.key(&resource);
        }
        lab.configure(
            "node-1",
            "node = \"node-1\"\n[segment]\nparent = \"eth1\"\n",
        );
        lab.configure("router", &Self::router_file());
        lab.write_network(&RESOURCES);
        lab
    }

    /// `node.toml` of the upstream router.
    #[must_use]
    pub fn router_file() -> String {
        format!(
            "node = \"router\"\n[router]\nallocations = [\"{ALLOCATION}\"]\nuplink = \"eth0\"\n\
             uplink_addresses = [\"2a02:1800:10:1052::5/127\"]\n\
             gateway = \"2a02:1800:10:1052::4\"\nsegment = \"eth1\"\n"
        )
    }

    /// Plugs a machine's `eth1` into the segment, as a router's.
    pub fn segment_wire(&self, machine: &str) {
        self.wire((machine, "eth1"), ("switch", "upstream"));
        self.ip("switch", "link set upstream master segment");
        // A frame that XDP forwards into a veth is lost unless its other end runs NAPI.
        ethtool::set_gro(&self.at("switch"), "upstream", true).expect("GRO on");
        for (machine, link) in [("switch", "exit"), ("node-1", "eth1")] {
            ethtool::set_tx_checksum(&self.at(machine), link, false).expect("checksums off");
        }
    }

    /// Wires a machine's `eth0` to the provider, as a router's.
    pub fn uplink_wire(&self, machine: &str) {
        self.wire((machine, "eth0"), ("provider", "eth0"));
        self.ip(
            "provider",
            "addr add 2a02:1800:10:1052::4/127 dev eth0 nodad",
        );
        self.ip(
            "provider",
            &format!("route add {ALLOCATION} via 2a02:1800:10:1052::5"),
        );
        ethtool::set_gro(&self.at("provider"), "eth0", true).expect("GRO on");
        ethtool::set_tx_checksum(&self.at("provider"), "eth0", false).expect("checksums off");
    }

    /// Makes a machine.
    pub fn machine(&mut self, name: &str) {
        let namespace = self.name(name);
        run(Command::new("ip").args(["netns", "add", &namespace]));
        self.machines.push(name.to_owned());
        self.ip(name, "link set lo up");
    }

    /// Removes a machine.
    pub fn remove_machine(&mut self, name: &str) {
        run(Command::new("ip").args(["netns", "del", &self.name(name)]));
        self.machines.retain(|machine| machine != name);
    }

    /// Connects two machines.
    pub fn wire(&self, one: (&str, &str), two: (&str, &str)) {
        run(Command::new("ip")
            .args([
                "link",
                "add",
                one.1,
                "netns",
                &self.name(one.0),
                "type",
                "veth",
            ])
            .args(["peer", "name", two.1, "netns", &self.name(two.0)]));
        self.ip(one.0, &format!("link set {} up", one.1));
        self.ip(two.0, &format!("link set {} up", two.1));
    }

    /// Runs `ip` on a machine.
    pub fn ip(&self, machine: &str, arguments: &str) {
        run(Command::new("ip")
            .args(["-n", &self.name(machine)])
            .args(arguments.split(' ')));
    }

    /// A machine's namespace.
    #[must_use]
    pub fn at(&self, machine: &str) -> Namespace {
        Namespace::Named(self.name(machine))
    }

    /// The name of a machine's namespace.
    #[must_use]
    pub fn name(&self, machine: &str) -> String {
        format!("{}-{machine}", self.id)
    }

    /// The name of the lab's network.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The namespace of a resource.
    #[must_use]
    pub fn resource(&self, name: &str) -> Namespace {
        Namespace::Named(format!("nm-{}-{name}", self.network))
    }

    /// A resource's address.
    #[must_use]
    pub fn address(&self, resource: &Resource) -> Ipv6Addr {
        Ipv6Addr::new(0x2a02, 0x1802, 0x5e, self.base | resource.index, 0, 0, 0, 1)
    }

    /// A resource's prefix.
    #[must_use]
    pub fn prefix(&self, resource: &Resource) -> String {
        format!("2a02:1802:5e:{:x}::/64", self.base | resource.index)
    }

    /// Writes a machine's `node.toml`.
    pub fn configure(&self, machine: &str, text: &str) {
        let folder = self.config(machine).join("networks");
        fs::create_dir_all(&folder).expect("a configuration folder");
        fs::write(self.config(machine).join("node.toml"), text).expect("node.toml");
    }

    /// Makes the key pair of a resource where it lives.
    pub fn key(&mut self, resource: &Resource) {
        let label = format!("{}/{}", self.network, resource.name);
        let public = self
            .netmesh(resource.node, &["key", "gen", &label])
            .stdout_text();
        self.keys
            .insert(resource.name.to_owned(), public.trim().to_owned());
    }

    /// The public key of a resource.
    #[must_use]
    pub fn public_key(&self, resource: &Resource) -> &str {
        &self.keys[resource.name]
    }

    /// What netmesh keeps for a machine outside of its namespaces (pins, records, sockets of
    /// tunnels), and every setting of its network.
    #[must_use]
    pub fn residue(&self, machine: &str) -> BTreeMap<String, String> {
        let (cookie, _) = netmesh::kernel::netns::identity(&self.at(machine)).expect("it is there");
        let mut residue = BTreeMap::new();
        for folder in netmesh::dataplane::pin::Folder::list().expect("the pins") {
            let ours = folder.cookie == cookie || folder.name.contains(&self.network);
            if ours {
                residue.insert(folder.path.display().to_string(), String::new());
            }
        }
        for index in 0..16 {
            let socket = format!("/run/wireguard/wg-{:x}.sock", self.base | index);
            if Path::new(&socket).exists() {
                residue.insert(socket, String::new());
            }
        }
        let record = format!("/run/netmesh/{cookie:x}");
        if Path::new(&record).exists() {
            residue.insert(record, String::new());
        }
        let settings = netmesh::kernel::netns::run_in(&self.at(machine), || {
            let mut settings = BTreeMap::new();
            for folder in ["/proc/sys/net/ipv4", "/proc/sys/net/ipv6"] {
                collect(Path::new(folder), &mut settings);
            }
            settings
        });
        residue.extend(settings.expect("the namespace"));
        residue
    }

    /// Writes the network's object to every machine that has a configuration.
    pub fn write_network(&self, resources: &[Resource]) {
        let text = self.network_file(resources);
        for machine in &self.machines {
            let folder = self.config(machine).join("networks");
            if folder.exists() {
                fs::write(folder.join("network.toml"), &text).expect("the object");
            }
        }
    }

    fn network_file(&self, resources: &[Resource]) -> String {
        let mut text = format!(
            "network    = \"{}\"\nallocation = \"{ALLOCATION}\"\n",
            self.network
        );
        for resource in resources {
            text.push_str(&format!(
                "\n[[resource]]\nname = \"{}\"\nnode = \"{}\"\nprefix = \"{}\"\npublic_key = \"{}\"\n",
                resource.name,
                resource.node,
                self.prefix(resource),
                self.keys[resource.name],
            ));
            if !resource.hidden {
                let last = resource.node.as_bytes()[5] as char;
                text.push_str(&format!("endpoint = \"[2001:db8:0:1::1{last}]:51820\"\n"));
            }
            if resource.exit {
                text.push_str("exit = { }\n");
            }
        }
        text
    }

    /// A machine's configuration folder.
    #[must_use]
    pub fn config(&self, machine: &str) -> PathBuf {
        self.folder.path().join(machine)
    }

    /// Machines that run netmesh.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        let configured = |machine: &&String| self.config(machine).join("node.toml").exists();
        self.machines.iter().filter(configured).cloned().collect()
    }

    /// Runs netmesh on a machine; it must succeed.
    #[must_use]
    pub fn netmesh(&self, machine: &str, arguments: &[&str]) -> Output {
        let output = self.try_netmesh(machine, arguments);
        assert!(
            output.status.success(),
            "netmesh {arguments:?} on {machine}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    /// Runs netmesh on a machine.
    #[must_use]
    pub fn try_netmesh(&self, machine: &str, arguments: &[&str]) -> Output {
        self.command(machine, arguments)
            .output()
            .expect("netmesh starts")
    }

    /// A netmesh command on a machine, not yet started.
    #[must_use]
    pub fn command(&self, machine: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(["--netns", &self.name(machine), "--config"])
            .arg(self.config(machine))
            .args(arguments);
        command
    }

    /// Runs netmesh in a resource's namespace and reads its JSON.
    #[must_use]
    pub fn json(&self, machine: &str, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let output = self.netmesh(machine, &all);
        serde_json::from_slice(&output.stdout).expect("JSON on stdout and nothing else")
    }

    /// Applies on every node.
    pub fn apply_all(&self) {
        for node in self.nodes() {
            let _ = self.netmesh(&node, &["apply"]);
        }
    }

    /// Asserts that no node has anything left to do.
    pub fn assert_settled(&self) {
        for node in self.nodes() {
            let output = self.try_netmesh(&node, &["plan", "--exit-code"]);
            assert_eq!(
                output.status.code(),
                Some(0),
                "{node} still has to do:\n{}{}",
                output.stdout_text(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }

    /// What the kernel and the data plane hold on a node, without what differs between two
    /// equal machines: indexes, link-layer addresses, times.
    #[must_use]
    pub fn dump(&self, node: &str, resources: &[&str]) -> Value {
        let mut namespaces = vec![self.name(node)];
        namespaces.extend(
            resources
                .iter()
                .map(|name| format!("nm-{}-{name}", self.network)),
        );
        let mut dump = serde_json::Map::new();
        for (i, namespace) in namespaces.iter().enumerate() {
            for (what, arguments) in [
                ("addr", vec!["-j", "addr"]),
                ("route6", vec!["-6", "-j", "route", "show", "table", "all"]),
                ("route4", vec!["-j", "route"]),
                ("rule", vec!["-6", "-j", "rule"]),
            ] {
                let output = Command::new("ip")
                    .args(["-n", namespace])
                    .args(arguments)
                    .output()
                    .expect("ip starts");
                let mut value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
                normalise(&mut value);
                dump.insert(format!("{i} {what}"), value);
            }
            dump.insert(format!("{i} link"), links(namespace));
            dump.insert(format!("{i} wireguard"), tunnels(namespace));
            let table = Command::new(binary())
                .args(["--netns", namespace, "--json", "route"])
                .output()
                .expect("netmesh starts");
            let mut table: Value = serde_json::from_slice(&table.stdout).unwrap_or_default();
            normalise(&mut table);
            dump.insert(format!("{i} fib"), table);
        }
        Value::Object(dump)
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in self.nodes() {
            let _ = self.try_netmesh(&node, &["destroy", "--yes", "--quiet"]);
        }
        // What a test broke on purpose, `destroy` may not find.
        let prefix = format!("nm-{}-", self.network);
        for name in netmesh::kernel::netns::list().unwrap_or_default() {
            if name.starts_with(&prefix) {
                let _ = Command::new("ip").args(["netns", "del", &name]).status();
            }
        }
        let indexes = if self.base == 0 { 0..0 } else { 0..16 };
        for index in indexes {
            let name = format!("wg-{:x}", self.base | index);
            let _ = netmesh::wireguard::userspace::stop(&name);
        }
        for machine in &self.machines {
            let _ = self.try_netmesh(machine, &["dataplane", "detach"]);
            let _ = Command::new("ip")
                .args(["netns", "del", &self.name(machine)])
                .status();
        }
    }
}

/// Text of a command's stdout.
pub trait OutputText {
    /// As text.
    fn stdout_text(&self) -> String;
    /// What was said beside it.
    fn stderr_text(&self) -> String;
}

impl OutputText for Output {
    fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Runs a test of something whose names are fixed on a thread of its own, with a `/run`, a bpffs
/// and a network namespace that nobody else sees.
///
/// # Panics
/// When the test does.
pub fn alone(test: impl FnOnce() + Send) {
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root");
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).expect("private");
            for (kind, folder) in [("tmpfs", "/run"), ("bpf", "/sys/fs/bpf")] {
                mount(Some(kind), folder, Some(kind), MsFlags::empty(), none).expect("a mount");
            }
            let _tunnels = Tunnels;
            test();
        });
        thread.join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Ends the tunnels that a test which failed left: they would hold its namespaces for good.
struct Tunnels;

impl Drop for Tunnels {
    fn drop(&mut self) {
        for entry in fs::read_dir("/run/wireguard")
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
                let _ = netmesh::wireguard::userspace::stop(name);
            }
        }
    }
}

/// The binary under test: `NETMESH_BIN`, or the one built beside this test.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("NETMESH_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("this test's own path");
    let folder = test.parent().and_then(Path::parent).expect("target/debug");
    let binary = folder.join("netmesh");
    assert!(
        binary.exists(),
        "{} is not built; run `cargo xtask test`",
        binary.display()
    );
    binary
}

fn run(command: &mut Command) {
    let output = command.output().expect("ip starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
