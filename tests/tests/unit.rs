//! The systemd units: what they leave the daemon is enough, and as little as they say.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use netmesh::demo::traffic::ping;
use netmesh_tests::daemon::SOON;
use netmesh_tests::{INTERNET, Lab, RESOURCES, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn path(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    folder.join(name)
}

fn unit(name: &str) -> String {
    std::fs::read_to_string(path(name)).expect("the unit")
}

/// Every word of a setting, however often it is there.
fn words(unit: &str, setting: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(setting));
    let values = lines.filter_map(|line| line.strip_prefix('='));
    values
        .flat_map(|value| value.split_whitespace().map(ToOwned::to_owned))
        .collect()
}

#[test]
fn what_the_unit_leaves_is_enough() {
    let capabilities: Vec<String> = words(&unit("netmesh.service"), "CapabilityBoundingSet")
        .iter()
        .map(|name| name.trim_start_matches("CAP_").to_lowercase())
        .collect();
    assert_eq!(capabilities.len(), 4, "{capabilities:?}");
    let bounding = format!("--bounding-set=-all,+{}", capabilities.join(",+"));
    let lab = Lab::mesh();
    let mut daemons = Vec::new();
    for node in lab.nodes() {
        let plain = lab.command(&node, &["run"]);
        let child = Command::new("setpriv")
            .args([&bounding, "--no-new-privs"])
            .arg(plain.get_program())
            .args(plain.get_args())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv starts");
        daemons.push(child);
    }
    for node in lab.nodes() {
        lab.settles(&node);
    }
    // It runs with these and nothing else.
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemons[0].id()));
    let status = status.expect("it runs");
    let effective = words(&status.replace(":\t", "="), "CapEff");
    // CAP_NET_ADMIN 12, CAP_SYS_ADMIN 21, CAP_PERFMON 38, CAP_BPF 39.
    let wanted = 1_u64 << 12 | 1 << 21 | 1 << 38 | 1 << 39;
    assert_eq!(u64::from_str_radix(&effective[0], 16), Ok(wanted));
    let web = lab.address(&RESOURCES[1]).into();
    eventually("the mesh carries packets", SOON, || {
        ping(&lab.resource("web"), web, INTERNET.into(), 104, 1)
            .is_ok_and(|pings| pings.received == 1)
    });
    for mut daemon in daemons {
        kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM).expect("it runs");
        assert_eq!(daemon.wait().expect("it ends").code(), Some(0));
    }
    // Forwarding goes on.
    let pings = ping(&lab.resource("web"), web, INTERNET.into(), 104, 5).expect("a socket");
    assert_eq!(pings.received, 5);
}

#[test]
fn names_are_made_with_the_machine_s_mounts() {
    // The names of namespaces are mounts: made in a mount namespace of the service they would be seen
    // by nobody else (`exec_needs_mount_namespace` in systemd's `core/execute.c`).
    let names = unit("netmesh-names@.service");
    for setting in [
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateIPC",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectProc",
        "ProcSubset",
        "ReadWritePaths",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "BindPaths",
        "TemporaryFileSystem",
        "RootDirectory",
        "DynamicUser",
    ] {
        assert!(words(&names, setting).is_empty(), "{setting}");
    }
    let socket = unit("netmesh-names.socket");
    let listens = words(&socket, "ListenStream");
    let daemon = unit("netmesh.service");
    assert!(words(&daemon, "ExecStart").contains(&listens[0]));
    assert_eq!(words(&daemon, "Requires"), ["netmesh-names.socket"]);
    assert_eq!(words(&socket, "SocketMode"), ["0600"]);
    assert_eq!(
        words(&daemon, "KillMode"),
        ["process"],
        "tunnels outlive the daemon"
    );
    // It would filter what the kernel sends in the namespaces that the daemon makes.
    assert!(words(&daemon, "IPAddressDeny").is_empty());
}

#[test]
fn systemd_finds_the_units_closed() {
    for name in ["netmesh.service", "netmesh-names@.service"] {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=35", "--no-pager"])
            .arg(path(name))
            .output()
            .expect("systemd-analyze starts");
        let said = String::from_utf8_lossy(&output.stdout);
        let last = said.lines().last().unwrap_or_default();
        assert!(output.status.success(), "{name}: {last}");
    }
}
