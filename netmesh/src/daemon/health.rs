//! Watches over the next hops of groups, on a thread of its own: a pass may take its time, a next
//! hop that has failed must not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::hysteresis::{Change, Health};
use crate::dataplane::health::{Member, Watch};
use crate::kernel::netns;
use crate::metrics::{NextHop, Told};
use crate::plan::state::Namespace;
use crate::reconcile::identity;

/// How often each next hop is asked: three silences are told within a second.
const TICK: Duration = Duration::from_millis(200);
/// After so many of them it is looked for data planes and groups that came or went.
const LOOK: u32 = 5;

/// The thread.
#[derive(Debug)]
pub(super) struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Begins to watch the data planes of the namespaces that the report names.
    pub(super) fn start(told: Arc<Told>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let name = thread::Builder::new().name("health".into());
        let thread = name.spawn(move || watch(&told, &stopped))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

/// Whoever stops watching withdraws nothing: nobody would put it back.
impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One data plane.
struct Plane {
    /// The namespace's number: its name may be another's by now.
    inode: u64,
    watch: Watch,
    members: BTreeMap<Member, Health>,
}

fn watch(told: &Told, stop: &AtomicBool) {
    let mut planes = BTreeMap::<Namespace, Plane>::new();
    let mut next = Instant::now();
    for tick in (0..LOOK).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if tick == 0 {
            look_around(told, &mut planes);
        }
        let mut changed = tick == 0;
        for (namespace, plane) in &mut planes {
            changed |= plane.tick(namespace, told);
        }
        if changed {
            tell(told, &planes);
        }
        next = (next + TICK).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    planes.values().for_each(Plane::let_go);
}

/// Data planes and groups come and go.
fn look_around(told: &Told, planes: &mut BTreeMap<Namespace, Plane>) {
    let mut wanted = told.report().namespaces;
    if wanted.is_empty() {
        wanted.push(Namespace::Node);
    }
    planes.retain(|namespace, plane| {
        let same = netns::inode(namespace).is_ok_and(|inode| inode == plane.inode);
        let stays = wanted.contains(namespace) && same && plane.watch.lives();
        if !stays {
            plane.let_go();
        }
        stays
    });
    for namespace in wanted {
        if !planes.contains_key(&namespace)
            && let Ok(inode) = netns::inode(&namespace)
            && let Ok(id) = identity(&namespace)
            && let Ok(Some(watch)) = Watch::open(id)
        {
            let plane = Plane {
                inode,
                watch,
                members: BTreeMap::new(),
            };
            planes.insert(namespace, plane);
        }
    }
    for (namespace, plane) in planes {
        if let Err(error) = plane.look_around(namespace) {
            tracing::debug!(%namespace, error, "next hops are not watched");
        }
    }
}

impl Plane {
    /// Nobody watches any more: every next hop is used again.
    fn let_go(&self) {
        for member in self.members.keys() {
            self.watch.withdraw(member, false);
        }
    }

    fn look_around(&mut self, namespace: &Namespace) -> Result<(), String> {
        let members = self.watch.members().map_err(|error| error.to_string())?;
        self.members.retain(|member, _| members.contains(member));
        for member in members {
            let withdrawn = self.watch.is_withdrawn(&member);
            self.members
                .entry(member)
                .or_insert_with(|| Health::new(withdrawn));
        }
        if self.members.is_empty() {
            self.watch.rest();
            return Ok(());
        }
        if !self.watch.is_awake() {
            let woken = netns::run_in(namespace, || self.watch.wake());
            return match woken {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            };
        }
        Ok(())
    }

    /// Looks at every next hop; tells whether one was taken out or put back.
    fn tick(&mut self, namespace: &Namespace, told: &Told) -> bool {
        let mut changed = false;
        for (member, health) in &mut self.members {
            let sign = match self.watch.look(member, health.is_out()) {
                Ok(sign) => sign,
                Err(error) => {
                    tracing::debug!(%namespace, ?member, %error, "a next hop cannot be looked at");
                    continue;
                }
            };
            let Some(change) = health.see(sign, Instant::now()) else {
                continue;
            };
            changed = true;
            let interface = self.watch.device(member);
            let gateway = member.address.map(tracing::field::display);
            match change {
                Change::Withdraw => {
                    self.watch.withdraw(member, true);
                    told.update(|report| report.withdrawals += 1);
                    let hold_seconds = health.hold().as_secs();
                    tracing::warn!(
                        %namespace,
                        interface,
                        gateway,
                        hold_seconds,
                        "a next hop has failed; the others of its groups take its flows"
                    );
                }
                Change::Restore => {
                    self.watch.withdraw(member, false);
                    tracing::info!(%namespace, interface, gateway, "a next hop is back");
                }
            }
        }
        changed
    }
}

/// Tells the metrics.
fn tell(told: &Told, planes: &BTreeMap<Namespace, Plane>) {
    let all = planes.iter().flat_map(|(namespace, plane)| {
        plane.members.iter().map(|(member, health)| NextHop {
            namespace: namespace.clone(),
            interface: plane.watch.device(member),
            address: member.address,
            usable: !health.is_out(),
        })
    });
    let next_hops = all.collect();
    told.update(|report| report.next_hops = next_hops);
}
