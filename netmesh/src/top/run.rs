//! The loop: keys, signals, readings, pictures.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ratatui::crossterm::event::{self, Event};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::Error;
use super::draw::{Scene, draw};
use super::sample::{Sample, read};
use super::screen::Screen;
use super::table::{Names, Tables};
use super::view::View;
use crate::plan::state::{Namespace, PublicKey};

/// How soon the thread that waits for keys sees that nobody wants them any more.
const GLANCE: Duration = Duration::from_millis(200);

/// What to look at.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seconds from one reading to the next.
    pub interval: u64,
    /// What the namespace that netmesh runs in is called.
    pub here: String,
    /// Where to look.
    pub namespaces: Vec<Namespace>,
    /// The network of each prefix.
    pub networks: BTreeMap<IpNet, String>,
    /// `network/resource` of each key.
    pub peers: BTreeMap<PublicKey, String>,
    /// Colours are wanted.
    pub color: bool,
}

/// Shows what goes on until somebody has seen enough.
///
/// # Errors
/// When there is nothing to look at, or the terminal does not work. The terminal is given back.
pub async fn run(options: Options, terminal: &File) -> Result<(), Error> {
    // Whatever is wrong is told before the screen is another one.
    let first = read(&options.namespaces).await?;
    if first.planes == 0 && first.peers.is_empty() {
        return Err(Error::Nothing);
    }
    let mut ends = Ends::new()?;
    let name = |namespace: &Namespace| match namespace {
        Namespace::Node => options.here.clone(),
        Namespace::Named(name) => name.clone(),
    };
    let names = Names {
        namespaces: options.namespaces.iter().map(name).collect(),
        networks: options.networks,
        peers: options.peers,
    };
    let mut shown = State::new(first);
    let mut view = View::new(options.interval);
    let mut screen = Screen::take(terminal)?;
    let mut keys = keys();
    let (ask, mut readings) = reader(options.namespaces);
    while !view.quit {
        let scene = Scene {
            tables: &shown.tables,
            names: &names,
            trouble: shown.trouble.as_deref(),
            color: options.color,
        };
        screen.canvas.draw(|frame| draw(frame, &mut view, &scene))?;
        // Reading may take half of the time of one CPU, not more: a large table is read less often.
        let rest = Duration::from_secs(view.interval).max(2 * shown.tables.took);
        let due = shown.at + rest;
        tokio::select! {
            key = keys.recv() => match key {
                Some(Ok(Event::Key(key))) => view.key(key),
                Some(Ok(_)) => {} // A size: it is drawn anew, as after anything.
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            reading = readings.recv() => shown.take(reading.ok_or(Error::Reader)?),
            () = tokio::time::sleep_until(due.into()), if !view.paused && !shown.asked => {
                shown.asked = ask.try_send(()).is_ok();
            }
            () = ends.any() => return Ok(()),
        }
    }
    Ok(())
}

/// What was read, and when.
struct State {
    tables: Tables,
    /// When the figures are from.
    figures: Instant,
    /// When somebody last tried to read.
    at: Instant,
    /// A reading is on its way.
    asked: bool,
    trouble: Option<String>,
}

impl State {
    fn new(first: Sample) -> Self {
        let at = first.at;
        let mut tables = Tables::default();
        tables.advance(first, None);
        Self {
            tables,
            figures: at,
            at,
            asked: false,
            trouble: None,
        }
    }

    fn take(&mut self, reading: Result<Sample, Error>) {
        self.asked = false;
        match reading {
            Ok(sample) => {
                let at = sample.at;
                let seconds = at.duration_since(self.figures).as_secs_f64();
                self.tables.advance(sample, Some(seconds));
                (self.figures, self.at, self.trouble) = (at, at, None);
            }
            Err(error) => {
                self.at = Instant::now();
                self.trouble = Some(error.to_string());
            }
        }
    }
}

/// Waits for keys on a thread of its own: a terminal cannot be waited for otherwise.
fn keys() -> Receiver<io::Result<Event>> {
    let (sender, receiver) = mpsc::channel(16);
    thread::spawn(move || {
        while !sender.is_closed() {
            let event = match event::poll(GLANCE) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let failed = event.is_err();
            if sender.blocking_send(event).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Reads when asked, on a thread of its own: reading a million counters takes a while.
fn reader(namespaces: Vec<Namespace>) -> (Sender<()>, Receiver<Result<Sample, Error>>) {
    let (ask, mut asked) = mpsc::channel(1);
    let (sender, receiver) = mpsc::channel(1);
    let handle = Handle::current();
    thread::spawn(move || {
        while asked.blocking_recv().is_some() {
            let reading = handle.block_on(read(&namespaces));
            if sender.blocking_send(reading).is_err() {
                return;
            }
        }
    });
    (ask, receiver)
}

/// Signals that end it.
struct Ends([Signal; 3]);

impl Ends {
    fn new() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn any(&mut self) {
        let [one, two, three] = &mut self.0;
        tokio::select! {
            _ = one.recv() => {}
            _ = two.recv() => {}
            _ = three.recv() => {}
        }
    }
}
