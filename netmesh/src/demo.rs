//! `netmesh demo`: the README's picture on one machine, namespaces as machines, real traffic.
//!
//! Each node runs the real `netmesh apply` on the same object files, as an operator would.
//! Nothing but this binary is needed: no `ip`, no `ping`.

mod checks;
mod claim;
mod report;
mod topology;
pub mod traffic;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

pub use report::Check;

/// What to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Leave everything standing once every check is ok.
    pub keep: bool,
    /// Only remove what an earlier run left.
    pub clean: bool,
    /// One JSON document instead of text.
    pub json: bool,
}

/// Runs the demo; `true` when every check is ok.
///
/// # Errors
/// Without root, while another demo runs, when a name it needs is somebody else's, or when the
/// lab cannot be built or torn down.
pub fn run(options: Options, out: &mut impl Write) -> anyhow::Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied))
            .context("the demo makes network namespaces and loads programs: run it as root");
    }
    // Before anything is made: whatever comes now is heard, and torn down after.
    let stop = on_interrupt()?;
    let _lock = claim::lock()?;
    topology::Lab::sweep().context("what an earlier demo left could not be removed")?;
    if options.clean {
        return Ok(true);
    }
    let mut report = report::Report::new(options.json, &stop, out);
    report.picture()?;
    let lab = topology::Lab::build().context("the lab could not be built")?;
    if let Err(error) = checks::run(&lab, &mut report) {
        report.failed("the demo ran to its end", format!("{error:#}"))?;
    }
    let ok = report.finish()?;
    if options.keep && ok {
        report.hints(&lab.folder())?;
        lab.keep();
    }
    Ok(ok)
}

/// Set once an interrupt was asked for: the checks stop and everything is torn down.
fn on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let flag = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        let entered = runtime.enter();
        let mut signal = signal(kind)?;
        let seen = Arc::clone(&flag);
        drop(entered);
        runtime.spawn(async move {
            if signal.recv().await.is_some() {
                seen.store(true, Ordering::Relaxed);
            }
        });
    }
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    Ok(flag)
}
