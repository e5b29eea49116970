//! One router's frames through the kernel and through the library, compared.

use std::collections::BTreeMap;

use crate::cases::reference::{Hook, run};
use crate::cases::{Input, Outcome};
use crate::grammar::{self, Dice, hex, packet, routes};
use crate::kernel::{Kernel, Verdict};
use crate::ledger::Ledger;

/// A router by its seed, and how many frames go through it.
pub(crate) struct World {
    /// Everything follows from it.
    pub(crate) seed: u64,
    /// Frames.
    pub(crate) frames: u64,
}

/// What was compared.
#[derive(Default)]
pub(crate) struct Seen {
    /// Frames that at least one program took.
    pub(crate) frames: u64,
    /// Runs of the XDP program.
    pub(crate) xdp: u64,
    /// Runs of the TC program.
    pub(crate) tc: u64,
    /// Runs by outcome.
    pub(crate) outcomes: BTreeMap<Label, u64>,
}

impl Seen {
    /// Adds what another thread has seen.
    pub(crate) fn add(&mut self, part: &Self) {
        self.frames += part.frames;
        self.xdp += part.xdp;
        self.tc += part.tc;
        for (outcome, often) in &part.outcomes {
            *self.outcomes.entry(*outcome).or_default() += often;
        }
    }
}

/// Runs and compares; verdict, bytes and the port's counters after every frame, the prefixes'
/// at the end. When those differ the frames are run again, to find the first that is at fault.
pub(crate) fn run_world(kernel: &mut Kernel, world: &World, seen: &mut Seen) -> Result<(), String> {
    compare(kernel, world, seen, false).map_err(|difference| {
        let again = compare(kernel, world, &mut Seen::default(), true);
        again.err().unwrap_or(difference)
    })
}

fn compare(kernel: &mut Kernel, world: &World, seen: &mut Seen, each: bool) -> Result<(), String> {
    let mut dice = Dice::Seed(world.seed);
    let tables = grammar::world(&mut dice);
    // Two of three with both stages, the others with the trie alone.
    let stage_one = !world.seed.is_multiple_of(3);
    kernel.fill(
        grammar::world(&mut Dice::Seed(world.seed)).router,
        stage_one,
    );
    let mut ledger = Ledger {
        port: kernel.port(),
        prefixes: kernel.prefixes(),
    };
    let mut frames = 0;
    for number in 0.. {
        if frames == world.frames {
            break;
        }
        let input = packet(&mut dice, &tables);
        let hooks = [Hook::Xdp, Hook::Tc].into_iter();
        let mut hooks = hooks
            .filter(|hook| Kernel::takes(*hook, tables.flags, &input))
            .peekable();
        frames += u64::from(hooks.peek().is_some());
        for hook in hooks {
            let wanted = run(&tables.router, tables.flags, &input, hook);
            let left = match &wanted {
                Outcome::Forward { bytes, .. } => bytes,
                _ => &input.bytes,
            };
            let (verdict, bytes) = kernel.run(hook, &input);
            // Of a packet that was dropped nobody sees the bytes.
            let same_bytes = verdict == Verdict::Drop || bytes == left;
            let mut wrong = String::new();
            if verdict != Verdict::of(&wanted) || !same_bytes {
                wrong = format!("the kernel: {verdict:?}\n{}", hex(bytes));
            }
            ledger.enter(&input, &wanted);
            let port = kernel.port();
            if port != ledger.port {
                wrong += &format!("counted: {port:?}\nwanted: {:?}\n", ledger.port);
            }
            if each {
                let prefixes = kernel.prefixes();
                if prefixes != ledger.prefixes {
                    wrong += &format!("counted: {prefixes:?}\nwanted: {:?}\n", ledger.prefixes);
                }
            }
            if !wrong.is_empty() {
                return Err(told(world, number, hook, &tables, &input, &wanted) + &wrong);
            }
            match hook {
                Hook::Xdp => seen.xdp += 1,
                Hook::Tc => seen.tc += 1,
            }
            *seen.outcomes.entry(label(&wanted)).or_default() += 1;
        }
    }
    seen.frames += frames;
    if kernel.prefixes() != ledger.prefixes {
        return Err(format!("prefix counters differ, seed {}", world.seed));
    }
    Ok(())
}

fn told(
    world: &World,
    number: u64,
    hook: Hook,
    tables: &grammar::World,
    input: &Input,
    wanted: &Outcome,
) -> String {
    let bytes = match wanted {
        Outcome::Forward { bytes, .. } => bytes.as_slice(),
        _ => &[],
    };
    format!(
        "frame {number} differs; to see it again: cargo xtask frames --seed {} --frames {}\n\
         {hook:?}, port flags {}, segment size {}, segments {}:\n{}{}the library: {wanted:?}\n{}",
        world.seed,
        world.frames,
        tables.flags,
        input.segment_size,
        input.segments,
        hex(&input.bytes),
        routes(&tables.router),
        hex(bytes),
    )
}

/// An outcome and its reason.
pub(crate) type Label = (&'static str, &'static str);

/// An outcome's name.
pub(crate) fn label(outcome: &Outcome) -> Label {
    match outcome {
        Outcome::Forward { .. } => ("forwarded", ""),
        Outcome::Punt(reason) => ("punted", reason.name()),
        Outcome::Drop(reason) => ("dropped", reason.name()),
        Outcome::NotOurs => ("not ours", ""),
    }
}
