//! What this process may take of the machine.

use super::{Finding, Severity, ok};

/// From which release on the memory of maps counts against control groups, not `memlock`.
const GROUPS_PAY: (u32, u32) = (5, 11);
/// Below this a node with a handful of namespaces may run out of them.
const FILES: u64 = 1024;
/// What the smallest data plane takes at once.
const LOCKED: u64 = 64 << 20;

/// Soft limits; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `RLIMIT_NOFILE`.
    pub files: Option<u64>,
    /// `RLIMIT_MEMLOCK` in bytes.
    pub locked: Option<u64>,
}

pub(super) fn judge(limits: &Limits, release: &str) -> [Finding; 2] {
    let groups_pay = super::version(release).is_none_or(|version| version >= GROUPS_PAY);
    [files(limits.files), locked(limits.locked, groups_pay)]
}

fn files(limit: Option<u64>) -> Finding {
    let found = match limit {
        Some(limit) => format!("{limit} open files"),
        None => "any number of open files".to_owned(),
    };
    let meaning = "every namespace takes sockets, every data plane some thirty maps: netmesh run on \
                   a node with many of them must be able to hold them all";
    let finding = ok("limits.files", found, meaning);
    if limit.is_some_and(|limit| limit < FILES) {
        let remedy = "ulimit -n 4096 in the shell that starts it; LimitNOFILE=4096 in its unit";
        return finding.but(Severity::Warning, remedy);
    }
    finding
}

fn locked(limit: Option<u64>, groups_pay: bool) -> Finding {
    let check = "limits.memlock";
    let meaning = "before Linux 5.11 the memory of maps counts against it";
    if groups_pay {
        return ok(check, "not counted by this kernel", meaning);
    }
    match limit {
        Some(limit) if limit < LOCKED => ok(check, format!("{limit} bytes"), meaning)
            .but(Severity::Warning, "ulimit -l unlimited"),
        _ => ok(check, "enough", meaning),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_are_a_warning_and_locked_memory_matters_to_old_kernels_only() {
        use Severity::{Ok, Warning};
        for (files, locked, release, expected) in [
            (Some(20_000), Some(8 << 20), "6.12.9", [Ok, Ok]),
            (None, None, "5.10.1", [Ok, Ok]),
            (Some(1024), Some(8 << 20), "strange", [Ok, Ok]),
            (Some(1023), Some(8 << 20), "5.11", [Warning, Ok]),
            (Some(4096), Some(8 << 20), "5.10.0-31-amd64", [Ok, Warning]),
        ] {
            let found = judge(&Limits { files, locked }, release);
            assert_eq!(found.map(|finding| finding.severity), expected, "{release}");
        }
    }
}
