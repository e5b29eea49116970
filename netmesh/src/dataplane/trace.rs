//! Asking the programs what they decide, packet by packet.

use std::fs::File;
use std::io;

use aya::maps::{Array, MapData, RingBuf};
use netmesh_common::trace::{TraceEvent, TraceFilter};
use nix::time::{ClockId, clock_gettime};

use super::instance::View;
use super::{Error, maps, sys};

/// How long a question stands, unless it is asked again, in nanoseconds.
const STANDS: u64 = 3_000_000_000;

/// A question that stands until this is dropped. There is one at a time.
pub struct Tracer {
    filter: TraceFilter,
    question: Array<MapData, TraceFilter>,
    answers: RingBuf<MapData>,
    _lock: File,
}

impl Tracer {
    /// Asks.
    ///
    /// # Errors
    /// When somebody else is asking, or the maps cannot be used.
    pub fn start(view: &View, filter: TraceFilter) -> Result<Self, Error> {
        let lock = sys::try_lock(&view.folder.links()).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Traced {
                name: view.folder.name.clone(),
            },
            _ => Error::Pin {
                action: "cannot lock",
                path: view.folder.links(),
                source,
            },
        })?;
        let (question, answers) = maps::trace(&view.folder)?;
        let mut tracer = Self {
            filter,
            question,
            answers,
            _lock: lock,
        };
        // What the one before did not read is no answer to this.
        tracer.set(0)?;
        while tracer.answers.next().is_some() {}
        tracer.keep()?;
        Ok(tracer)
    }

    /// Asks on. To be called more often than every three seconds.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn keep(&mut self) -> Result<(), Error> {
        let until = now()
            .map(|now| now + STANDS)
            .map_err(|source| Error::Trial { source })?;
        self.set(until)
    }

    /// Decisions that were wanted but not told: more than the limit, or faster than they were
    /// read.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn missed(&self) -> Result<u64, Error> {
        self.read().map(|filter| filter.missed)
    }

    /// The next answer, if there is one.
    pub fn answer(&mut self) -> Option<TraceEvent> {
        loop {
            let item = self.answers.next()?;
            if let Some(event) = TraceEvent::from_bytes(&item) {
                return Some(event);
            }
        }
    }

    /// The programs count in the same value: what they have counted is kept.
    fn set(&mut self, until: u64) -> Result<(), Error> {
        let old = self.read()?;
        let same = old.until != 0;
        let filter = TraceFilter {
            until,
            window: if same { old.window } else { 0 },
            told: if same { old.told } else { 0 },
            missed: if same { old.missed } else { 0 },
            ..self.filter
        };
        self.question.set(0, filter, 0).map_err(fail)
    }

    fn read(&self) -> Result<TraceFilter, Error> {
        self.question.get(&0, 0).map_err(fail)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if let Err(error) = self.set(0) {
            tracing::warn!(%error, "the question stands for three more seconds");
        }
    }
}

/// `bpf_ktime_get_ns`.
fn now() -> io::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}

fn fail(source: aya::maps::MapError) -> Error {
    Error::Map {
        map: "TRACE",
        action: "ask",
        source,
    }
}
