//! Time of a CPU that others use as well: what the sender took, in its calls and in the softirqs
//! that end them, and what the kernel put off to `ksoftirqd`.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use nix::sched::sched_getcpu;
use nix::time::{ClockId, clock_gettime};

/// How much time has gone by on this CPU for the calling thread's packets.
///
/// Right as long as the kernel charges softirqs to the thread they interrupt, that is without
/// `CONFIG_IRQ_TIME_ACCOUNTING`, which [`check`] makes sure of.
pub(super) struct Clock {
    thread: Duration,
    softirqs: Duration,
}

impl Clock {
    pub(super) fn start() -> anyhow::Result<Self> {
        Ok(Self {
            thread: clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into(),
            softirqs: softirqs()?,
        })
    }

    pub(super) fn elapsed(&self) -> anyhow::Result<Duration> {
        let now = Self::start()?;
        Ok((now.thread - self.thread) + (now.softirqs - self.softirqs))
    }
}

/// Refuses to measure where a thread's time is without that of softirqs.
pub(super) fn check() -> anyhow::Result<()> {
    let read = std::process::Command::new("zcat")
        .arg("/proc/config.gz")
        .output()?;
    let text = String::from_utf8_lossy(&read.stdout);
    anyhow::ensure!(
        !text
            .lines()
            .any(|line| line == "CONFIG_IRQ_TIME_ACCOUNTING=y"),
        "this kernel does not charge softirqs to threads: the way of a packet cannot be measured"
    );
    Ok(())
}

/// What this CPU's `ksoftirqd` has run, proc(5) `schedstat`.
fn softirqs() -> anyhow::Result<Duration> {
    let name = format!("ksoftirqd/{}", sched_getcpu()?);
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if comm.trim() == name {
            let text = fs::read_to_string(path.join("schedstat"))?;
            let run = text.split(' ').next().context("no time")?;
            return Ok(Duration::from_nanos(run.parse()?));
        }
    }
    anyhow::bail!("no {name}")
}
