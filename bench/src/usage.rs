//! What tables take: memory of the kernel, and time of a CPU.

use std::fs;

use anyhow::Context as _;
use nix::sys::resource::{UsageWho, getrusage};

/// Slabs, vmalloc'ed and per-CPU memory of the whole machine: others change it too, so only large
/// differences say something.
pub(crate) struct Usage(i64);

impl Usage {
    pub(crate) fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let mut sum = 0;
        for name in ["Slab:", "VmallocUsed:", "Percpu:"] {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            sum += number.context("no such line")?.parse::<i64>()? * 1024;
        }
        Ok(Self(sum))
    }

    /// Bytes more.
    pub(crate) fn until(&self, later: &Self) -> i64 {
        later.0 - self.0
    }
}

/// Time that a thread or processes have run, theirs and the kernel's for them: waiting for a CPU
/// that others have does not count.
pub(crate) struct Cpu(UsageWho, f64);

impl Cpu {
    /// The calling thread's from here on.
    pub(crate) fn thread() -> anyhow::Result<Self> {
        Self::of(UsageWho::RUSAGE_THREAD)
    }

    /// That of processes which are started and waited for from here on.
    pub(crate) fn children() -> anyhow::Result<Self> {
        Self::of(UsageWho::RUSAGE_CHILDREN)
    }

    fn of(who: UsageWho) -> anyhow::Result<Self> {
        let usage = getrusage(who)?;
        let (user, system) = (usage.user_time(), usage.system_time());
        let seconds = (user.tv_sec() + system.tv_sec()) as f64;
        let micros = (user.tv_usec() + system.tv_usec()) as f64;
        Ok(Self(who, seconds + micros / 1e6))
    }

    /// Seconds since.
    pub(crate) fn elapsed(&self) -> anyhow::Result<f64> {
        Ok(Self::of(self.0)?.1 - self.1)
    }
}
