//! `netmesh demo`: the README's picture on one machine, namespaces as machines, real traffic.
//!
//! Each node runs the real `netmesh apply` on the same object files, as an operator would.
//! Nothing but this binary is needed: no `ip`, no `ping`.

mod checks;
mod report;
mod topology;
pub mod traffic;

use std::io::Write;

use anyhow::Context as _;

pub use report::Check;

/// What to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Leave everything standing.
    pub keep: bool,
    /// Only remove what an earlier run left.
    pub clean: bool,
    /// One JSON document instead of text.
    pub json: bool,
}

/// Runs the demo; `true` when every check is ok.
///
/// # Errors
/// When the lab cannot be built or torn down.
pub fn run(options: Options, out: &mut impl Write) -> anyhow::Result<bool> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo makes network namespaces and loads programs: run it as root"
    );
    topology::Lab::sweep();
    if options.clean {
        return Ok(true);
    }
    let stop = on_interrupt()?;
    let mut report = report::Report::new(options.json, out);
    report.picture()?;
    let lab = topology::Lab::build().context("the lab could not be built")?;
    let result = checks::run(&lab, &mut report, &stop);
    let ok = match result {
        Ok(()) => report.finish()?,
        Err(error) => {
            report.check("the demo ran to its end", false, format!("{error:#}"))?;
            report.finish()?
        }
    };
    if options.keep {
        report.hints(&lab.folder())?;
        lab.keep();
    }
    Ok(ok)
}

/// Set once an interrupt was asked for: the checks stop and everything is torn down.
fn on_interrupt() -> anyhow::Result<std::sync::Arc<std::sync::atomic::AtomicBool>> {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            ) else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            seen.store(true, Ordering::Relaxed);
        });
    });
    Ok(flag)
}
