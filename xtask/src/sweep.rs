//! What a test run that was killed left behind.

use std::fs;
use std::process::Command;

/// Namespaces of tests carry the test's process id: `nmt-<pid>-…`. Those of a process that is
/// gone are removed, and with them everything inside.
pub(crate) fn run() {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name
            .strip_prefix("nmt-")
            .and_then(|rest| rest.split('-').next())
        else {
            continue;
        };
        if pid.parse::<u32>().is_ok() && !fs::exists(format!("/proc/{pid}")).unwrap_or(true) {
            println!("    removing {name}, left by a run that was killed");
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}
