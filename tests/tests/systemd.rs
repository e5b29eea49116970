//! The units under a systemd of their own: in namespaces for processes, mounts and control groups, on a
//! root whose changes are forgotten, on a node of a lab.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use netmesh::demo::traffic::ping;
use netmesh_tests::daemon::SOON;
use netmesh_tests::{INTERNET, Lab, OutputText as _, RESOURCES, eventually, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Becomes the first process of such a machine. `$1` is an empty folder, `$2` the units, `$3` the
/// configuration, `$4` the binary.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
root="$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf -o mode=0700 bpf "$root/sys/fs/bpf"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
units="$root/run/systemd/system"
mkdir -p "$units/netmesh.service.d" "$units/netmesh-names@.service.d" "$root/etc/netmesh"
cp "$2"/* "$units"
cp -r "$3"/. "$root/etc/netmesh"
cp "$4" "$root/usr/bin/netmesh"
chmod -R go= "$root/etc/netmesh"
printf '[Unit]\nWants=netmesh.service\n' > "$units/lab.target"
# There is no journal.
for unit in netmesh.service netmesh-names@.service; do
    printf '[Service]\nStandardError=append:/var/log/netmesh.log\n' > "$units/$unit.d/log.conf"
done
# As systemd itself does where it is no container.
mount --make-rshared "$root"
exec env -i PATH="$PATH" container=lab chroot "$root" \
    /lib/systemd/systemd --system --unit=lab.target --log-target=null --show-status=0
"#;

/// A machine with systemd; it ends with its owner.
struct Machine {
    unshare: Child,
    init: u32,
    _folder: tempfile::TempDir,
}

impl Machine {
    fn boot(lab: &Lab, node: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
        let binary = lab.command(node, &[]).get_program().to_owned();
        let unshare = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", lab.name(node)))
            .args(["unshare", "--mount", "--pid", "--fork", "--uts", "--ipc"])
            .args(["--cgroup", "--kill-child", "sh", "-c", BOOT, "sh"])
            .arg(folder.path())
            .arg(units)
            .arg(lab.config(node))
            .arg(binary)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What is sent to the terminal's processes, and its own end, are not for the test.
            .process_group(0)
            .spawn()
            .expect("nsenter starts");
        let mut machine = Self {
            init: 0,
            unshare,
            _folder: folder,
        };
        let parent = machine.unshare.id();
        let children = format!("/proc/{parent}/task/{parent}/children");
        eventually("systemd listens", SOON, || {
            let child = fs::read_to_string(&children).unwrap_or_default();
            machine.init = child.trim().parse().unwrap_or(0);
            machine.init != 0 && machine.run(&["systemctl", "is-system-running"]).is_ok()
        });
        machine
    }

    /// A command of the machine's, as its administrator.
    fn output(&self, words: &[&str]) -> Output {
        let output = Command::new("nsenter")
            .args(["--target", &self.init.to_string()])
            .args(["--mount", "--pid", "--net", "--cgroup", "--root", "--wd=/"])
            .args(words)
            .stdin(Stdio::null())
            .output();
        output.expect("nsenter starts")
    }

    /// What it prints; what went wrong, when it did.
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let output = self.output(words);
        let known = ["running", "degraded", "starting"];
        let text = output.stdout_text();
        match output.status.success() || known.contains(&text.trim()) {
            true => Ok(text),
            false => Err(format!("{words:?}: {text}{}", output.stderr_text())),
        }
    }

    fn does(&self, words: &[&str]) -> String {
        self.run(words).unwrap_or_else(|error| {
            let log = fs::read_to_string(self.file("/var/log/netmesh.log"));
            let status = self.output(&["systemctl", "--no-pager", "status", "netmesh.service"]);
            panic!(
                "{error}\n{}\n{}",
                status.stdout_text(),
                log.unwrap_or_default()
            )
        })
    }

    /// A file of the machine's.
    fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    fn daemon(&self) -> String {
        let said = self.does(&["systemctl", "show", "--value", "-p", "MainPID", "netmesh"]);
        said.trim().to_owned()
    }

    /// Waits for something, and tells what the daemon said where it does not come.
    fn until(&self, what: &str, holds: impl FnMut() -> bool) {
        assert!(
            within(SOON, holds),
            "{what}: not within {SOON:?}\n{}",
            self.log()
        );
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("/var/log/netmesh.log")).expect("a log")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.init != 0 {
            let _ = kill(Pid::from_raw(self.init as i32), Signal::SIGKILL);
        }
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

#[test]
fn the_units_serve_a_node_under_systemd() {
    let lab = Lab::mesh();
    for node in ["node-2", "router"] {
        let _ = lab.netmesh(node, &["apply"]);
    }
    let machine = Machine::boot(&lab, "node-1");
    machine.until("the daemon is ready", || {
        machine
            .run(&["systemctl", "is-active", "netmesh.service"])
            .is_ok()
    });
    let (here, web) = (lab.resource("web"), lab.address(&RESOURCES[1]).into());
    let answered = |count| {
        let pings = ping(&here, web, INTERNET.into(), 104, count).expect("a socket");
        pings.received
    };
    machine.until("the mesh carries packets", || answered(1) == 1);

    // It has what it needs, and no more: not even the machine's files.
    let daemon = machine.daemon();
    let status = machine.does(&["cat", &format!("/proc/{daemon}/status")]);
    let line = |name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        value.unwrap_or_default().to_owned()
    };
    // CAP_NET_ADMIN 12, CAP_SYS_ADMIN 21, CAP_PERFMON 38, CAP_BPF 39.
    let wanted = 1_u64 << 12 | 1 << 21 | 1 << 38 | 1 << 39;
    assert_eq!(u64::from_str_radix(&line("CapEff"), 16), Ok(wanted));
    assert_eq!(
        (line("NoNewPrivs"), line("Seccomp")),
        ("1".into(), "2".into())
    );
    for path in ["/usr", "/etc/netmesh", "/var/lib", "/etc/systemd"] {
        let file = format!("/proc/{daemon}/root{path}/nobody");
        let error = machine.run(&["touch", &file]).expect_err(path);
        assert!(error.contains("Read-only file system"), "{error}");
    }

    // The names it has had made are the machine's, and namespaces.
    let gw = format!("/run/netns/nm-{}-gw", lab.network());
    let kind = |path: &str| machine.does(&["stat", "--file-system", "--format=%T", path]);
    assert_eq!(kind(&gw).trim(), "nsfs");
    let inode = machine.does(&["stat", "--format=%i", &gw]);

    // Whatever becomes of the daemon, packets are forwarded.
    for round in 0..4 {
        let before = machine.daemon();
        if round % 2 == 0 {
            let _ = machine.does(&["systemctl", "restart", "netmesh.service"]);
        } else {
            let _ = machine.does(&["kill", "-KILL", &before]);
        }
        assert_eq!(answered(20), 20, "round {round}");
        machine.until("another daemon serves", || {
            machine
                .run(&["systemctl", "is-active", "netmesh.service"])
                .is_ok()
                && machine.daemon() != before
        });
    }
    assert_eq!(machine.does(&["stat", "--format=%i", &gw]), inode);
    let _ = machine.does(&["systemctl", "stop", "netmesh.service"]);
    assert_eq!(answered(20), 20, "without a daemon");

    // A network that goes takes its names along, one that comes brings them.
    let _ = machine.does(&["systemctl", "start", "netmesh.service"]);
    let _ = machine.does(&["mv", "/etc/netmesh/networks", "/etc/netmesh/away"]);
    let _ = machine.does(&["mkdir", "/etc/netmesh/networks"]);
    let _ = machine.does(&["systemctl", "reload", "netmesh.service"]);
    machine.until("the name is gone", || machine.run(&["stat", &gw]).is_err());
    let _ = machine.does(&["rmdir", "/etc/netmesh/networks"]);
    let _ = machine.does(&["mv", "/etc/netmesh/away", "/etc/netmesh/networks"]);
    let _ = machine.does(&["systemctl", "reload", "netmesh.service"]);
    machine.until("the name is there again", || {
        machine.run(&["stat", &gw]).is_ok() && kind(&gw).trim() == "nsfs"
    });
    machine.until("the mesh carries packets again", || answered(1) == 1);
    let failed = machine.does(&["systemctl", "--failed", "--no-legend", "--plain"]);
    assert_eq!(failed, "");
    let log = machine.log();
    assert!(!log.contains("ERROR"), "{log}");
    assert!(
        !log.contains("EPERM") && !log.contains("not permitted"),
        "{log}"
    );
}
