//! Memory of the kernel that tables are made of.

use std::fs;

use anyhow::Context as _;

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
