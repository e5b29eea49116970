//! What a test run that was killed left behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

/// Machines of tests are namespaces `nmt-<pid>-…`, their resources `nm-t<number>x<pid in hex>-…`.
/// Those of a process that is gone are removed, and the tunnel processes that lived in them.
pub(crate) fn run() {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return;
    };
    let mut alive = BTreeSet::new();
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) =
            owner(&name).filter(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true))
        else {
            alive.extend(fs::metadata(entry.path()).map(|namespace| namespace.ino()));
            continue;
        };
        eprintln!("    removing {name}, left by process {pid}");
        let _ = Command::new("ip").args(["netns", "del", &name]).status();
    }
    alive.extend(fs::metadata("/proc/self/ns/net").map(|namespace| namespace.ino()));
    tunnels(&alive);
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

/// Ends tunnel processes whose namespace has lost its name: nobody can find them any more.
fn tunnels(alive: &BTreeSet<u64>) {
    let Ok(processes) = fs::read_dir("/proc") else {
        return;
    };
    for process in processes.filter_map(Result::ok) {
        let path = process.path();
        let is_tunnel = fs::read(path.join("cmdline")).is_ok_and(|line| {
            line.split(|byte| *byte == 0)
                .any(|word| word == b"wireguard-userspace")
        });
        let lost = || {
            fs::metadata(path.join("ns/net"))
                .is_ok_and(|namespace| !alive.contains(&namespace.ino()))
        };
        if is_tunnel && lost() {
            let pid = process.file_name().to_string_lossy().into_owned();
            eprintln!("    ending tunnel process {pid}, whose namespace is gone");
            let _ = Command::new("kill").args(["-9", &pid]).status();
        }
    }
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
}
