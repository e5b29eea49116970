//! What a test run that was killed left behind.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{is_root, target};

/// Machines of tests are namespaces `nmt-<pid>-…`, their resources `nm-t<number>x<pid in hex>-…`.
/// Those of a process that is gone are removed, and this work tree's tunnel processes that lived
/// in them. Whatever belongs to a process that lives, or was not made by a test, stays.
pub(crate) fn run() {
    if !is_root() {
        // The same program by sudo; what that does not reach is left for the next time.
        if let Ok(own) = env::current_exe() {
            let _ = Command::new("sudo")
                .arg("-n")
                .arg(own)
                .arg("sweep")
                .status();
        }
        return;
    }
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return;
    };
    let mut named = BTreeSet::new();
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) =
            owner(&name).filter(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true))
        else {
            named.extend(fs::metadata(entry.path()).map(|namespace| namespace.ino()));
            continue;
        };
        eprintln!("    removing {name}, left by process {pid}");
        let _ = Command::new("ip").args(["netns", "del", &name]).status();
    }
    named.extend(fs::metadata("/proc/self/ns/net").map(|namespace| namespace.ino()));
    tunnels(&named);
    pins();
}

/// Where data planes are pinned: `v<layout>/<name>@<cookie of the namespace>`.
const PINS: &str = "/sys/fs/bpf/netmesh";

/// Removes data planes whose namespace is gone: a killed test takes its namespaces along, not what is
/// pinned for them. Namespaces that live are asked by the binary that was built here.
fn pins() {
    let netmesh = target().join("debug/netmesh");
    let layouts = fs::read_dir(PINS).into_iter().flatten().flatten();
    let folders = layouts.flat_map(|layout| fs::read_dir(layout.path()).into_iter().flatten());
    // One that is being made or taken away is its writer's, or that of the next one.
    let whole = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with("new-") && !name.starts_with("old-")
    };
    let folders = folders.flatten().map(|entry| entry.path());
    let folders: Vec<PathBuf> = folders.filter(whole).collect();
    if folders.is_empty() || !netmesh.exists() {
        return;
    }
    let mut alive = BTreeSet::new();
    for namespace in namespaces() {
        let mut command = Command::new(&netmesh);
        command.arg("--netns").arg(&namespace);
        let Ok(output) = command.args(["--json", "dataplane", "status"]).output() else {
            return; // Nobody can tell which of them live.
        };
        // What it cannot read it names, too.
        for text in [&output.stdout, &output.stderr] {
            alive.extend(cookies(&String::from_utf8_lossy(text)));
        }
        if !output.status.success() && namespace.exists() && cookies_of(&output).is_empty() {
            return;
        }
    }
    for folder in folders {
        let cookie = cookies(&folder.to_string_lossy());
        if !cookie.is_empty() && cookie.is_disjoint(&alive) {
            eprintln!("    removing {}, whose namespace is gone", folder.display());
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn cookies_of(output: &std::process::Output) -> BTreeSet<u64> {
    cookies(&String::from_utf8_lossy(&output.stderr))
}

/// Every namespace that has a name, a process or a thread.
fn namespaces() -> Vec<PathBuf> {
    let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let named = list(Path::new("/run/netns")).map(|entry| entry.path());
    let is_process = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.bytes().all(|byte| byte.is_ascii_digit())
    };
    let processes = list(Path::new("/proc")).map(|entry| entry.path());
    let threads = processes.filter(is_process).flat_map(|process| {
        let threads = list(&process.join("task")).map(|task| task.path().join("ns/net"));
        threads.collect::<Vec<_>>()
    });
    let mut seen = BTreeSet::new();
    let all = named.chain(threads);
    all.filter(|path| fs::metadata(path).is_ok_and(|found| seen.insert(found.ino())))
        .collect()
}

/// The cookies in `…@<cookie>`, as they stand in the names of pins.
fn cookies(text: &str) -> BTreeSet<u64> {
    let after = text.split('@').skip(1);
    after
        .filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_hexdigit());
            u64::from_str_radix(rest.get(..end.unwrap_or(rest.len()))?, 16).ok()
        })
        .collect()
}

/// The process that made a namespace of a test.
fn owner(name: &str) -> Option<u32> {
    if let Some(rest) = name.strip_prefix("nmt-") {
        return rest.split('-').next()?.parse().ok();
    }
    let (number, rest) = name.strip_prefix("nm-t")?.split_once('x')?;
    u32::from_str_radix(number, 16).ok()?;
    u32::from_str_radix(rest.split('-').next()?, 16).ok()
}

/// Ends tunnel processes that were built here and whose namespace has lost its name: nobody can
/// find them any more. Tests that run also use namespaces without a name: while one does, all
/// stay. A netmesh that was built elsewhere, in a container say, is nobody's to end.
fn tunnels(named: &BTreeSet<u64>) {
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    let processes: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    let target = target();
    if processes.iter().any(|process| is_test(process, &target)) {
        return;
    }
    for process in processes {
        let is_lost = fs::metadata(process.join("ns/net"))
            .is_ok_and(|namespace| !named.contains(&namespace.ino()));
        if is_lost && is_tunnel(&process, &target) {
            let pid = process.file_name().unwrap_or_default().to_string_lossy();
            eprintln!("    ending tunnel process {pid}, whose namespace is gone");
            let _ = Command::new("kill").args(["-9", &pid]).status();
        }
    }
}

/// A test binary of this work tree.
fn is_test(process: &Path, target: &Path) -> bool {
    fs::read_link(process.join("exe")).is_ok_and(|exe| exe.starts_with(target.join("debug/deps")))
        && !is_tunnel(process, target)
}

/// A userspace WireGuard of this work tree.
fn is_tunnel(process: &Path, target: &Path) -> bool {
    fs::read_link(process.join("exe")).is_ok_and(|exe| exe.starts_with(target))
        && fs::read(process.join("cmdline")).is_ok_and(|line| {
            line.split(|byte| *byte == 0)
                .any(|word| word == b"wireguard-userspace")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_tests_have_an_owner() {
        assert_eq!(owner("nmt-1234-0-router"), Some(1234));
        assert_eq!(owner("nm-t3x4d2-gw"), Some(0x4d2));
        for name in [
            "nm-alice-gw",
            "nm-t3-gw",
            "nm-team-x",
            "nmd-router",
            "nmt-eyes-1",
            "prod",
        ] {
            assert_eq!(owner(name), None, "{name}");
        }
    }

    #[test]
    fn a_data_plane_names_its_namespace() {
        let text = "/sys/fs/bpf/netmesh/v4/nm-alice-gw@1f3 and v4/ports@a\"} x@y";
        assert_eq!(cookies(text), BTreeSet::from([0x1f3, 0xa]));
        assert!(cookies("/sys/fs/bpf/netmesh/v4").is_empty());
    }

    #[test]
    fn a_running_test_is_seen_and_is_no_tunnel() {
        let own = Path::new("/proc/self");
        assert!(is_test(own, &target()));
        assert!(!is_tunnel(own, &target()));
        assert!(!is_test(own, Path::new("/nowhere")));
    }
}
