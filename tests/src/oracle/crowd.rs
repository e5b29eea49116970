//! A million other routes beside the table of a case, and a writer of ours that never rests: neither
//! may change what comes out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipnet::IpNet;
use netmesh::dataplane::Instance;
use netmesh::kernel::{Kernel, netns};
use netmesh::plan::state::Namespace;
use netmesh::reconcile::identity;
use netmesh_common::table::Origin;

use super::dice::Dice;
use super::routes::{Route, Target};
use super::twins::{NEIGHBOURS, PORTS};

/// Where the /64s of a crowd are, and those of the writer: no table of a case goes there by chance.
const CROWD: u64 = 0x2a02_1900_0000_0000;
const WRITER: u64 = 0x2a02_1a00_0000_0000;
/// Numbers of /64s in a /40 and of /24s in a /8.
const PLACES_V6: usize = 1 << 24;
const PLACES_V4: usize = 1 << 16;
/// Every so many routes one is of IPv4, as long as there are places.
const V4_EVERY: usize = 16;
/// Routes of the writer's own that are there at a time.
const KEPT: usize = 500;
/// Rounds of changes before others get the lock.
const BURST: usize = 32;
/// Between two bursts.
const REST: Duration = Duration::from_millis(1);

/// The routes of a crowd.
pub fn routes(count: usize) -> impl Iterator<Item = Route> {
    (0..count).map(nth)
}

/// Some of them.
#[must_use]
pub fn some(dice: &mut Dice, count: usize, wanted: usize) -> Vec<Route> {
    let some = (0..wanted).take(count);
    some.map(|_| nth(dice.below(count))).collect()
}

fn nth(n: usize) -> Route {
    let v4 = n.is_multiple_of(V4_EVERY) && n / V4_EVERY < PLACES_V4;
    let prefix = if v4 {
        IpNet::new(
            IpAddr::V4(Ipv4Addr::from((44 << 24) | ((n / V4_EVERY) << 8) as u32)),
            24,
        )
    } else {
        IpNet::new(at(CROWD, n), 64)
    };
    Route {
        prefix: prefix.expect("a prefix"),
        target: Target::Neighbour(n % PORTS, n / PORTS % NEIGHBOURS),
    }
}

/// A multiplication permutes the places.
fn at(base: u64, n: usize) -> IpAddr {
    let place = n.wrapping_mul(0x9e37_79b1) % PLACES_V6;
    let upper = base | place as u64;
    IpAddr::V6(Ipv6Addr::from(u128::from(upper) << 64))
}

/// Changes the tables of our router all the time.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    changes: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts on the router in this namespace, which holds so large a crowd.
    #[must_use]
    pub fn start(namespace: Namespace, crowd: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let changes = Arc::new(AtomicU64::new(0));
        let (stops, counts) = (Arc::clone(&stop), Arc::clone(&changes));
        let thread = thread::spawn(move || {
            let work = || write(&namespace, crowd, &stops, &counts);
            netns::run_in(&namespace, work).expect("our router");
        });
        Self {
            stop,
            changes,
            thread,
        }
    }

    /// Stops it; how many changes it has made.
    ///
    /// # Panics
    /// When it could not do its work.
    #[must_use]
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer wrote to its end");
        self.changes.load(Ordering::Relaxed)
    }
}

fn write(namespace: &Namespace, crowd: usize, stop: &AtomicBool, changes: &AtomicU64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let facts = runtime
        .block_on(async { Kernel::default().facts(&Namespace::Node).await })
        .expect("the kernel shows its links");
    let id = identity(namespace).expect("our router");
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut instance = Instance::open(id).expect("pins").expect("a data plane");
        let mut put = |prefix: IpNet, route: &Route| {
            changes.fetch_add(1, Ordering::Relaxed);
            instance.put_route(prefix, Origin::Static, &route.entry(), &facts)
        };
        let mut gone = Vec::new();
        for _ in 0..BURST {
            // Ever new ones, so that the table grows and leaves the dead behind.
            let mine = |n| IpNet::new(at(WRITER, n), 64).expect("a prefix");
            put(mine(n), &nth(n)).expect("room");
            gone.extend(n.checked_sub(KEPT).map(mine));
            if crowd != 0 {
                // As it is; and with one inside that leads the same way, so that the trie answers.
                let known = nth(n % crowd);
                put(known.prefix, &known).expect("room");
                let inside = IpNet::from(known.prefix.addr());
                put(inside, &known).expect("room");
                gone.push(inside);
            }
            n += 1;
        }
        for prefix in gone {
            changes.fetch_add(1, Ordering::Relaxed);
            instance
                .remove_route(prefix, Origin::Static)
                .expect("a route of ours");
        }
        drop(instance);
        thread::sleep(REST);
    }
}
