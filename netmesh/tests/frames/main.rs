//! The loaded programs against the decision in user space: random frames through random tables,
//! the same in both, and every verdict, byte and counter must be the same. Needs root.
//!
//! `cargo xtask frames` runs it longer, through `NETMESH_FRAMES` and `NETMESH_SEED`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test; the figures are for its reader"
)]

#[path = "../../../netmesh-common/tests/cases/mod.rs"]
mod cases;
#[path = "../../../netmesh-common/tests/grammar/mod.rs"]
mod grammar;

mod kernel;
mod ledger;
mod replay;
#[path = "../stage_one/mod.rs"]
mod stage_one;

use std::collections::BTreeMap;
use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kernel::Kernel;
use replay::{Label, Seen, World, run_world};

/// Frames of an ordinary run.
const FRAMES: u64 = 200_000;

/// Frames through the same tables.
const FRAMES_PER_WORLD: u64 = 1_000;

/// Threads, each with programs and devices of its own.
const MOST_THREADS: usize = 4;

/// How often a long run says how far it is.
const PROGRESS: Duration = Duration::from_secs(30);

#[test]
fn library_and_kernel_agree_on_random_frames() {
    let number =
        |name: &str, usual: u64| env::var(name).map_or(usual, |text| text.parse().unwrap());
    let frames = number("NETMESH_FRAMES", FRAMES);
    let first = number("NETMESH_SEED", 1);
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MOST_THREADS) as u64;
    let left = AtomicU64::new(frames);
    let started = Instant::now();
    let mut seen = Seen::default();
    thread::scope(|scope| {
        let left = &left;
        let workers: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || work(first + thread, threads, left, started)))
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(part) => seen.add(&part),
                Err(panic) => {
                    // The others need not go on.
                    left.store(0, Ordering::Relaxed);
                    std::panic::resume_unwind(panic);
                }
            }
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{} frames from seed {first}: {} runs of XDP, {} of TC, {seconds:.0} s, {:.0} runs a \
         second, 0 differences",
        seen.frames,
        seen.xdp,
        seen.tc,
        (seen.xdp + seen.tc) as f64 / seconds
    );
    for ((outcome, reason), often) in &seen.outcomes {
        println!("  {often:>10}  {outcome} {reason}");
    }
    all_are_reached(&seen.outcomes, frames);
}

/// One thread's part: every `step`-th router from `seed` on, until no frame is left to be run.
fn work(seed: u64, step: u64, left: &AtomicU64, started: Instant) -> Seen {
    let mut kernel = Kernel::new();
    let mut seen = Seen::default();
    let mut said = started;
    for seed in (seed..).step_by(usize::try_from(step).unwrap()) {
        let take = |left: u64| left.checked_sub(FRAMES_PER_WORLD.min(left));
        let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let frames = before.unwrap_or(0).min(FRAMES_PER_WORLD);
        if frames == 0 {
            break;
        }
        if let Err(difference) = run_world(&mut kernel, &World { seed, frames }, &mut seen) {
            left.store(0, Ordering::Relaxed);
            panic!("{difference}");
        }
        if said.elapsed() > PROGRESS {
            said = Instant::now();
            let left = left.load(Ordering::Relaxed);
            eprintln!("{left} frames left after {} s", started.elapsed().as_secs());
        }
    }
    seen
}

/// What is never reached is not compared.
fn all_are_reached(outcomes: &BTreeMap<Label, u64>, frames: u64) {
    if frames < FRAMES {
        return;
    }
    for case in cases::untagged() {
        let name = replay::label(&case.tc);
        let often = outcomes.get(&name).copied().unwrap_or(0);
        assert!(often >= 20, "{name:?}: only {often} runs");
    }
}
