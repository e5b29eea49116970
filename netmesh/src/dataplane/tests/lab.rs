//! Machines as namespaces. Everything is gone when its owner is dropped, also after a failure.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

use crate::dataplane::pin::NamespaceId;
use crate::dataplane::sys;
use crate::plan::facts::{Device, NamespaceFacts};

/// Runs a test on a thread in namespaces of its own.
pub(super) fn alone(test: fn()) {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
        let bpf = Some("bpf");
        mount(bpf, "/sys/fs/bpf", bpf, MsFlags::empty(), none).unwrap();
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What names the calling thread's namespace.
pub(super) fn here() -> NamespaceId {
    NamespaceId {
        cookie: sys::namespace_cookie().unwrap(),
        inode: fs::metadata("/proc/thread-self/ns/net").unwrap().ino() as u32,
    }
}

/// `ip` with these words, in the calling thread's namespace.
pub(super) fn ip(words: &str) -> String {
    run(Command::new("ip").args(words.split_whitespace()))
}

/// `tc` with these words, in the calling thread's namespace.
pub(super) fn tc(words: &str) -> String {
    run(Command::new("tc").args(words.split_whitespace()))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The facts of the calling thread's namespace, from the output of `ip`.
pub(super) fn facts() -> NamespaceFacts {
    let mut facts = NamespaceFacts::default();
    for link in json("-j -d address show") {
        let ifindex = link["ifindex"].as_u64().unwrap() as u32;
        let ethernet = matches!(link["link_type"].as_str(), Some("ether" | "loopback"));
        let device = Device {
            ifindex,
            mac: link["address"].as_str().filter(|_| ethernet).map(mac),
            mtu: link["mtu"].as_u64().unwrap() as u32,
            kind: link["linkinfo"]["info_kind"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            up: true,
            vlan: None,
            takes_tags_off: false,
            sends_several_buffers: false,
        };
        let name = link["ifname"].as_str().unwrap().to_owned();
        facts.devices.insert(name, device);
        for address in link["addr_info"].as_array().unwrap() {
            let local = address["local"].as_str().unwrap();
            let net = format!("{local}/{}", address["prefixlen"]);
            facts.addresses.insert((ifindex, net.parse().unwrap()));
        }
    }
    facts
}

/// A link-layer address from its text.
pub(super) fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

fn json(words: &str) -> Vec<Value> {
    serde_json::from_str(&ip(words)).unwrap()
}

/// A machine: a network namespace with a process that keeps it.
pub(super) struct Machine(Child);

impl Machine {
    pub(super) fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--net", "sleep", "120"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let machine = Self(child);
        let ours = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        eventually("the namespace of the machine", || {
            fs::metadata(machine.path()).is_ok_and(|there| there.ino() != ours)
        });
        machine.ip("link set lo up");
        machine
    }

    /// Its process, which `ip link … netns` takes as a namespace.
    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// `ip` inside it.
    pub(super) fn ip(&self, words: &str) -> String {
        let net = format!("--net={}", self.path());
        run(Command::new("nsenter")
            .args([net.as_str(), "ip"])
            .args(words.split_whitespace()))
    }

    /// Runs work on a thread inside it.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap()
        })
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a condition, a few seconds at most, or `NETMESH_TEST_PATIENCE` times as long.
pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let slowness = std::env::var("NETMESH_TEST_PATIENCE").ok();
    let slowness = slowness.and_then(|factor| factor.parse().ok()).unwrap_or(1);
    let deadline = Instant::now() + Duration::from_secs(10) * slowness;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A veth pair in the calling thread's namespace, up.
pub(super) fn veth(name: &str, peer: &str) {
    ip(&format!("link add name {name} type veth peer name {peer}"));
    ip(&format!("link set {name} up"));
    ip(&format!("link set {peer} up"));
}

/// Packets forwarded towards each prefix that has a counter.
pub(super) fn towards(view: &crate::dataplane::View) -> BTreeMap<String, u64> {
    view.prefix_counters()
        .unwrap()
        .into_iter()
        .map(|row| (row.prefix.to_string(), row.to.packets))
        .collect()
}

/// What a TC port is attached by on this kernel: TCX is there from Linux 6.6 on.
pub(super) fn tc_link() -> &'static str {
    let name = nix::sys::utsname::uname().unwrap();
    let release = name.release().to_str().unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    if version >= (6, 6) { "tcx" } else { "clsact" }
}
