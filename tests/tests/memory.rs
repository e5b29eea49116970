//! A kernel without memory for a map: who asked is told, or killed for it; what forwards goes on, and
//! whoever comes next finds everything whole.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use netmesh::dataplane::pin::Folder;
use netmesh::kernel::netns;
use netmesh_tests::own::{machine, mounted};
use netmesh_tests::pair::{LEFT, RIGHT};
use netmesh_tests::stream::Stream;
use netmesh_tests::{Lab, OutputText as _};

/// A control group whose processes, and the maps they make, have so much memory.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        let root = PathBuf::from("/run/groups");
        fs::create_dir_all(&root).expect("a folder");
        mounted("cgroup2", &root, "nsdelegate");
        let controllers = fs::read_to_string(root.join("cgroup.controllers"));
        if controllers
            .expect("cgroup2")
            .split_whitespace()
            .any(|name| name == "memory")
        {
            let on = fs::write(root.join("cgroup.subtree_control"), "+memory");
            on.expect("the memory controller");
        } else {
            mounted("cgroup", &root, "memory");
        }
        // Numbers of processes are this machine's own, groups are everybody's.
        let group = tempfile::Builder::new().prefix("nmt-").tempdir_in(&root);
        Self(group.expect("a group").keep())
    }

    fn limit(&self, bytes: u64) {
        let names = ["memory.max", "memory.limit_in_bytes"].map(|name| self.0.join(name));
        let name = names.iter().find(|name| name.exists());
        fs::write(name.expect("a limit"), bytes.to_string()).expect("a limit");
    }

    /// Runs netmesh in it.
    fn run(&self, lab: &Lab, machine: &str, arguments: &[&str]) -> Output {
        let netmesh = lab.command(machine, arguments);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        shell
            .arg(self.0.join("cgroup.procs"))
            .arg(netmesh.get_program());
        shell.args(netmesh.get_args()).output().expect("sh starts")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// What came of commands that had ever more memory, until one had enough.
struct Tried {
    refused: usize,
    killed: usize,
}

/// Runs a command with ever more memory until it succeeds; each that is refused must say why, and
/// `check` holds after each.
fn with_ever_more(
    group: &Group,
    lab: &Lab,
    machine: &str,
    words: &[&str],
    check: impl Fn(),
) -> Tried {
    let mut tried = Tried {
        refused: 0,
        killed: 0,
    };
    for mebibytes in 4..100_u64 {
        group.limit(mebibytes << 20);
        let output = group.run(lab, machine, words);
        if output.status.success() {
            println!(
                "{words:?}: {} refused, {} killed, done with {mebibytes} MiB",
                tried.refused, tried.killed
            );
            return tried;
        }
        let text = output.stderr_text();
        if output.status.signal().is_some() {
            tried.killed += 1;
        } else {
            tried.refused += 1;
            assert_eq!(output.status.code(), Some(1), "{mebibytes} MiB: {text}");
            assert!(
                text.contains("annot allocate memory"),
                "{mebibytes} MiB: {text}"
            );
        }
        check();
    }
    panic!("{words:?} never succeeds");
}

#[test]
fn an_import_without_memory_is_told_of_and_tears_nothing() {
    machine(
        "an_import_without_memory_is_told_of_and_tears_nothing",
        || {
            let lab = Lab::pair();
            lab.whole_checksums(true);
            lab.attach_pair("xdp", "any");
            let group = Group::new();
            let rows = || {
                lab.netmesh("router", &["route", "list"])
                    .stdout_text()
                    .lines()
                    .count()
            };
            let before = rows();
            let lines: String = (0..60_000_u32)
                .map(|n| match n % 2 {
                    0 => format!("2a02:1820:0:{n:x}::/64 via {RIGHT} dev port1\n"),
                    _ => format!("2a02:1821:{n:x}::/48 via {RIGHT} dev port1\n"),
                })
                .collect();
            fs::create_dir_all(lab.config("router")).expect("a folder");
            let file = lab.config("router").join("routes");
            fs::write(&file, lines).expect("a file");
            let (left, right) = (lab.at("left"), lab.at("right"));
            let (left, right) = ((&left, LEFT.into()), (&right, RIGHT.into()));
            let period = Duration::from_millis(2);
            let running = [(left, right), (right, left)];
            let running = running.map(|(from, to)| Stream::start(from, to, period));
            let words = ["route", "import", file.to_str().expect("a plain path")];
            let tried = with_ever_more(&group, &lab, "router", &words, || {
                // Whatever was in the middle of it, the next writer finds the tables whole.
                let _ = lab.netmesh(
                    "router",
                    &["route", "replace", "blackhole", "2a02:1822::/48"],
                );
            });
            assert!(tried.refused > 0, "no import met a kernel without memory");
            let _ = lab.netmesh("router", &words);
            assert_eq!(rows(), before + 60_001);
            for account in running.map(Stream::end) {
                account.assert_whole(500);
            }
        },
    );
}

#[test]
fn a_data_plane_without_memory_is_there_as_a_whole_or_not_at_all() {
    machine(
        "a_data_plane_without_memory_is_there_as_a_whole_or_not_at_all",
        || {
            let lab = Lab::pair();
            let group = Group::new();
            let (cookie, _) = netns::identity(&lab.at("router")).expect("a namespace");
            let there = || {
                let folders = Folder::list().expect("the pins");
                folders.iter().any(|folder| folder.cookie == cookie)
            };
            let attach = [
                "dataplane",
                "attach",
                "--port",
                "port0",
                "--port",
                "port1",
                "--hook",
                "tc",
            ];
            let tried = with_ever_more(&group, &lab, "router", &attach, || {
                // One that was killed may have left it with no port, or with the first alone.
                if there() {
                    let _ = lab.netmesh("router", &["dataplane", "status"]);
                    let _ = lab.netmesh("router", &["dataplane", "detach"]);
                }
                assert!(!there());
            });
            assert!(
                tried.refused > 0,
                "no data plane met a kernel without memory"
            );
            assert!(there());
            let ports = lab.json("router", &["dataplane", "status"])["instance"]["ports"].clone();
            assert_eq!(ports.as_array().map(Vec::len), Some(2));
        },
    );
}
