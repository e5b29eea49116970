//! The main loop.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::Error;
use super::files::Files;
use super::follow::Followers;
use super::health::Watcher;
use super::objects::Objects;
use super::pass::{Node, Outcome};
use super::schedule::Schedule;
use super::service::Service;
use super::wake::{NETWORK, Reasons, Wake};
use crate::metrics::{Selection, Told, serve};
use crate::reconcile::Lock;

/// How often to ask what tells nobody when it changes.
const POLL: Duration = Duration::from_secs(5);

/// A pass that takes longer than this hangs: the service manager is no longer told that we live.
const HANGS: Duration = Duration::from_secs(300);

/// How long a pass may go on when the daemon is to stop. Every step can be broken off: the next
/// pass, whoever takes it, goes on from there.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the operator may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything is looked at when nothing has happened for so long.
    pub period: Duration,
    /// Whoever stops the daemon wants what it made removed.
    pub flush_on_exit: bool,
    /// Where to serve metrics, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Protocols of the kernel's routes that are mirrored; none mirrors nothing.
    pub mirror: BTreeSet<u8>,
    /// Which prefixes get series of their own.
    pub selection: Selection,
}

/// What the main loop was woken for.
enum Event {
    Changed(Reasons),
    Due,
    Reload,
    Stop(&'static str),
    Poll,
    Alive,
}

/// Runs until SIGTERM or SIGINT. The data plane goes on without us.
///
/// # Errors
/// When this is not root, another daemon serves the node, signals cannot be heard, or metrics
/// cannot be served.
pub async fn run(objects: impl Objects, options: Options) -> Result<(), Error> {
    let _served = Lock::serve()?;
    let mut signals = Signals::new().map_err(Error::Signals)?;
    let told = Arc::new(Told::default());
    if let Some(address) = options.metrics {
        let bound = metrics(address, Arc::clone(&told), options.selection);
        let address = bound.map_err(|source| Error::Metrics { address, source })?;
        tracing::info!(%address, "metrics are served");
    }
    let _watcher = Watcher::start(Arc::clone(&told)).map_err(Error::Watcher)?;
    let wake = Arc::new(Wake::default());
    let mut files = Files::new(objects.folder(), Arc::clone(&wake));
    let followers = Followers::new(Arc::clone(&wake), !options.mirror.is_empty());
    let mut node = Node::new(objects, followers, options.mirror, told);
    let mut service = Service::new();
    let mut schedule = Schedule::new(options.period, Instant::now());
    let mut poll = every(POLL);
    let mut watchdog = Service::watchdog().map(every);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "netmesh runs");
    let why = loop {
        let event = tokio::select! {
            event = signals.next() => event,
            reasons = wake.wait() => Event::Changed(reasons),
            () = sleep_until(schedule.due()) => Event::Due,
            _ = poll.tick() => Event::Poll,
            () = tick(&mut watchdog) => Event::Alive,
        };
        match event {
            Event::Changed(reasons) => {
                schedule.add(reasons, Instant::now());
                if node.is_rejected() {
                    schedule.again(Instant::now());
                }
            }
            Event::Reload => {
                tracing::info!("reload");
                service.reloading();
                schedule.at_once(Instant::now());
            }
            Event::Stop(signal) => break signal,
            Event::Alive => service.alive(),
            Event::Poll => {
                reap();
                files.look();
                node.hear();
                if node.tunnels_changed() || node.is_overdue() {
                    wake.raise(NETWORK);
                }
            }
            Event::Due => {
                let begun = Instant::now();
                let reasons = schedule.take(begun);
                let ended =
                    watched(node.pass(reasons), &mut signals, &service, &mut watchdog).await;
                files.follow(node.names());
                if ended.reload {
                    tracing::info!("reload");
                    service.reloading();
                    schedule.at_once(Instant::now());
                }
                if let Some(outcome) = &ended.outcome {
                    service.passed(&outcome.status);
                }
                if let Some(signal) = ended.stop {
                    break signal;
                }
                let Some(outcome) = ended.outcome else {
                    continue;
                };
                let now = Instant::now();
                let looked = if outcome.changed {
                    Duration::ZERO
                } else {
                    now - begun
                };
                schedule.done(now, looked, outcome.pause, outcome.again);
                if node.is_rejected() && outcome.again {
                    schedule.again(now);
                }
            }
        }
    };
    service.stopping();
    node.stop_mirroring().await;
    if options.flush_on_exit {
        tracing::info!(signal = why, "stopping: what netmesh made is removed");
        node.flush().await;
    } else {
        tracing::info!(signal = why, "stopping: the data plane goes on");
    }
    Ok(())
}

/// Begins to serve metrics; tells the address, whose port the kernel may have chosen.
fn metrics(address: SocketAddr, told: Arc<Told>, selection: Selection) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    serve(listener, told, selection)?;
    Ok(bound)
}

/// How a pass ended, and what came meanwhile.
#[derive(Default)]
struct Ended {
    /// None when it was given up: whoever stops the daemon does not wait for it.
    outcome: Option<Outcome>,
    reload: bool,
    stop: Option<&'static str>,
}

/// Runs a pass, hears signals meanwhile, and tells the service manager that we live, unless the
/// pass hangs.
async fn watched(
    pass: impl Future<Output = Outcome>,
    signals: &mut Signals,
    service: &Service,
    watchdog: &mut Option<Interval>,
) -> Ended {
    tokio::pin!(pass);
    let mut ended = Ended::default();
    let mut until = Instant::now() + HANGS;
    loop {
        tokio::select! {
            outcome = &mut pass => {
                ended.outcome = Some(outcome);
                return ended;
            }
            () = sleep_until(until), if ended.stop.is_some() => {
                tracing::warn!("a pass is given up; the next one goes on from there");
                return ended;
            }
            event = signals.next() => match event {
                Event::Stop(signal) => {
                    ended.stop = Some(signal);
                    until = Instant::now() + PATIENCE;
                }
                _ => ended.reload = true,
            },
            () = tick(watchdog) => {
                if ended.stop.is_some() || Instant::now() < until {
                    service.alive();
                }
            }
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Never, without a watchdog.
async fn tick(watchdog: &mut Option<Interval>) {
    match watchdog {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Takes leave of tunnel processes that have ended: they are our children as long as we live.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
        tracing::debug!("a tunnel's process has ended: {status:?}");
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.terminate.recv() => Event::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Event::Stop("SIGINT"),
            _ = self.hangup.recv() => Event::Reload,
        }
    }
}
