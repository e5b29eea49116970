//! Cases in, differences out.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netmesh_common::vlan::MAX_TAGS;
use serde::{Deserialize, Serialize};

use super::crowd::{self, Writer};
use super::dice::Dice;
use super::grammar;
use super::normal::normal;
use super::routes::{self, Route};
use super::shrink::shrink;
use super::twins::{Balance, Mode, Out, Twins};

/// Frames that are sent before what came out is looked at.
const BATCH: usize = 256;
/// Batches that meet the same table.
const TABLE_LIFE: usize = 16;
/// Routes of a table.
const TABLE: usize = 40;
/// Routes of the crowd that frames are sent to while a table lives.
const SOME: usize = 20;
/// Nothing more comes out of a batch after this.
const QUIET: Duration = Duration::from_millis(3);
/// Nothing more comes out of a single frame after this; waits longer, for it decides.
const CERTAIN: Duration = Duration::from_millis(40);
/// Lines of a dump; the kept case has all of it.
const LINES: usize = 12;
/// A machine that was busy elsewhere has caught up after this.
const STRAGGLERS: Duration = Duration::from_millis(300);
/// More differences than this tell no more.
const ENOUGH: usize = 4;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cases, over all modes.
    pub cases: usize,
    /// The seed.
    pub seed: u64,
    /// How our router is attached.
    pub modes: Vec<Mode>,
    /// Every Ethernet port is a VLAN sub-interface.
    pub tagged: bool,
    /// Routes both routers hold beside the table of a case.
    pub crowd: usize,
    /// A writer changes our router's tables all the time.
    pub churn: bool,
    /// Where differences are kept, and found again.
    pub kept: PathBuf,
}

/// A case on its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// [`Mode::name`].
    pub mode: String,
    /// The table.
    pub routes: Vec<Route>,
    /// Where the frame comes in.
    pub port: usize,
    /// The frame, in hexadecimal.
    pub frame: String,
    /// What it was about.
    #[serde(default)]
    pub note: String,
}

/// A case in which the two routers differ.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The case, made small.
    pub case: Case,
    /// What the kernel sent.
    pub kernel: Out,
    /// What we sent.
    pub ours: Out,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Summary {
    /// Frames that went into both routers.
    pub cases: usize,
    /// Cases kept from before.
    pub replayed: usize,
    /// Frames that came out of both.
    pub out: usize,
    /// Batches that differed of which no frame did on its own.
    pub unconfirmed: usize,
    /// What differs.
    pub differences: Vec<Difference>,
    /// Changes that the writer made meanwhile.
    pub changes: u64,
    /// The counters of our ports, by mode.
    pub balances: Vec<(Mode, Vec<Balance>)>,
    /// How long it took.
    pub took: Duration,
}

/// Runs it all.
///
/// # Panics
/// When the laboratory breaks.
#[must_use]
pub fn run(options: &Options, mut tell: impl FnMut(&str)) -> Summary {
    let started = Instant::now();
    let mut summary = Summary::default();
    let share = options.cases / options.modes.len().max(1);
    for mode in &options.modes {
        let mut twins = Twins::new(*mode, options.tagged);
        replay(&mut twins, *mode, &options.kept, &mut summary);
        twins.add_crowd(options.crowd);
        let writer = options
            .churn
            .then(|| Writer::start(twins.ours(), options.crowd));
        let mut dice = Dice::new(options.seed ^ (*mode as u64) << 60);
        let mut routes = Vec::new();
        let mut known = Vec::new();
        // More tags than are looked behind are nobody's: that is no difference to look for.
        let tags = MAX_TAGS - usize::from(options.tagged);
        let mut done = 0;
        let mut batches = 0;
        while done < share && summary.differences.len() < ENOUGH {
            if batches % TABLE_LIFE == 0 {
                routes = routes::random(&mut dice, TABLE);
                twins.set_routes(&routes);
                known.clone_from(&routes);
                known.extend(crowd::some(&mut dice, options.crowd, SOME));
            }
            let count = BATCH.min(share - done);
            let frames: Vec<(usize, Vec<u8>)> = (0..count)
                .map(|_| {
                    let port = dice.below(super::twins::PORTS + 1);
                    (port, grammar::frame(&mut dice, &known, port, tags))
                })
                .collect();
            batch(&mut twins, *mode, &routes, &frames, &mut summary);
            done += count;
            batches += 1;
            if batches % 400 == 0 {
                tell(&format!("{}: {done} of {share} cases", mode.name()));
            }
        }
        summary.changes += writer.map_or(0, Writer::stop);
        summary.balances.push((*mode, twins.balance()));
        tell(&format!("{}: {done} cases", mode.name()));
    }
    for difference in &summary.differences {
        keep(difference, &options.kept);
    }
    summary.took = started.elapsed();
    summary
}

fn batch(
    twins: &mut Twins,
    mode: Mode,
    routes: &[Route],
    frames: &[(usize, Vec<u8>)],
    summary: &mut Summary,
) {
    twins.send(frames);
    let [kernel, ours] = twins.receive(QUIET * crate::slowness());
    let (kernel, ours) = (normal(&kernel), normal(&ours));
    summary.cases += frames.len();
    summary.out += kernel.len();
    if kernel == ours {
        return;
    }
    // One by one, and twice: what was merely late is the same now.
    let before = summary.differences.len();
    drain(twins);
    for (port, frame) in frames {
        if differs(twins, *port, frame).is_some() {
            drain(twins);
            if differs(twins, *port, frame).is_none() {
                continue;
            }
            let difference = shrink(twins, mode, routes, *port, frame);
            summary.differences.push(difference);
            twins.set_routes(routes);
            if summary.differences.len() >= ENOUGH {
                return;
            }
        }
    }
    summary.unconfirmed += usize::from(summary.differences.len() == before);
}

/// Waits until what is still on its way has come.
fn drain(twins: &mut Twins) {
    let _ = twins.receive(STRAGGLERS * crate::slowness());
}

/// What the routers make of one frame, where they differ.
pub(super) fn differs(twins: &mut Twins, port: usize, frame: &[u8]) -> Option<(Out, Out)> {
    twins.send(&[(port, frame.to_vec())]);
    let [kernel, ours] = twins.receive(CERTAIN * crate::slowness());
    let (kernel, ours) = (normal(&kernel), normal(&ours));
    (kernel != ours).then_some((kernel, ours))
}

/// What differed once must not differ again.
fn replay(twins: &mut Twins, mode: Mode, kept: &Path, summary: &mut Summary) {
    let Ok(folder) = fs::read_dir(kept) else {
        return;
    };
    let mut paths: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let text = fs::read_to_string(&path).expect("a kept case");
        let case: Case =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        // A case is about the decision: every mode must pass it.
        twins.set_routes(&case.routes);
        let frame = unhex(&case.frame);
        summary.replayed += 1;
        if let Some((kernel, ours)) = differs(twins, case.port, &frame) {
            let case = Case {
                mode: mode.name().to_owned(),
                ..case
            };
            summary.differences.push(Difference { case, kernel, ours });
        }
    }
}

/// Writes a case down, under a name of its bytes.
fn keep(difference: &Difference, folder: &Path) {
    let case = &difference.case;
    let sum = super::frames::checksum(&[case.frame.as_bytes()]);
    let path = folder.join(format!("{}-{}-{sum:04x}.json", case.mode, case.port));
    let text = serde_json::to_string_pretty(case).expect("JSON");
    if fs::create_dir_all(folder).is_ok() {
        let _ = fs::write(path, text + "\n"); // In a machine that may not write it is only told.
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let case = &self.case;
        writeln!(f, "{}: a frame into port {}", case.mode, case.port)?;
        dump(f, &unhex(&case.frame))?;
        for route in &case.routes {
            writeln!(f, "  route {}", route.words())?;
        }
        for (who, out) in [("the kernel", &self.kernel), ("ours", &self.ours)] {
            if out.is_empty() {
                writeln!(f, "{who}: nothing")?;
            }
            for (port, frame) in out {
                writeln!(f, "{who}: out of port {port}")?;
                dump(f, frame)?;
            }
        }
        Ok(())
    }
}

fn dump(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for (number, line) in bytes.chunks(16).enumerate().take(LINES) {
        writeln!(f, "  {:04x}  {}", number * 16, hex(line))?;
    }
    if bytes.len() > LINES * 16 {
        writeln!(f, "  {} bytes in all", bytes.len())?;
    }
    Ok(())
}
