//! Many routes of one origin at once: what one route costs in calls to the kernel, a chunk costs.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netmesh_common::lines::{Class, Place, place};
use netmesh_common::table::{Origin, PrefixKey, RibEntry, RibKey};

use super::fib::rib_key_of;
use super::route::prefix_key;
use super::{Error, Instance};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::FibRoute;

/// Prefixes that are written by one call.
const CHUNK: usize = 4096;

/// A prefix that goes the short way: stage 1 alone answers for it, with one next hop at most, and
/// nobody else speaks for it.
struct Short {
    key: u64,
    prefix: PrefixKey,
    class: u32,
    entry: RibEntry,
}

impl Instance {
    /// Adds routes or changes them in place; `progress` is told how many more are done.
    ///
    /// # Errors
    /// When a device is not in the namespace, before anything is changed. When a table is full or
    /// cannot be written: what `progress` was told of is there, and the next writer mends the rest.
    pub fn put_routes(
        &mut self,
        routes: &[(IpNet, FibRoute)],
        origin: Origin,
        facts: &NamespaceFacts,
        mut progress: impl FnMut(u64),
    ) -> Result<(), Error> {
        let mut single = BTreeSet::new();
        for (_, route) in routes {
            match route {
                FibRoute::Via { link, .. } | FibRoute::Connected { link } => {
                    super::fib::device(facts, link)?;
                    single.insert(route);
                }
                FibRoute::Paths(paths) => {
                    for path in paths {
                        super::fib::device(facts, &path.link)?;
                    }
                }
                _ => {}
            }
        }
        self.note()?;
        self.reserve(routes.len() as u64)?;
        let room = self.maps().rib.reserve(routes.len());
        room.map_err(|source| self.full_or("RIB", source))?;
        // Next hops are in no route until their chunk is written, so there must be room for all of
        // them at once: looking for more gives up those without a route.
        self.make_room(single.len())?;
        let (short, long) = if self.next_hops.room() < single.len() {
            (Vec::new(), routes.iter().collect())
        } else {
            self.sort_out(routes, origin, facts)?
        };
        for chunk in short.chunks(CHUNK) {
            let torn = std::mem::replace(&mut self.torn, true);
            self.put_chunk(chunk, origin)?;
            self.torn = torn;
            progress(chunk.len() as u64);
        }
        for (prefix, route) in long {
            self.put_route(*prefix, origin, route, facts)?;
            progress(1);
        }
        Ok(())
    }

    /// Which prefixes can go the short way, in order, and the others.
    #[expect(clippy::type_complexity, reason = "private, and said in words")]
    fn sort_out<'a>(
        &mut self,
        routes: &'a [(IpNet, FibRoute)],
        origin: Origin,
        facts: &NamespaceFacts,
    ) -> Result<(Vec<Short>, Vec<&'a (IpNet, FibRoute)>), Error> {
        let mut spoken_for = BTreeSet::new();
        self.maps.each_rib(|key, _| {
            if key.origin < origin as u8 {
                spoken_for.insert(key.prefix);
            }
        })?;
        let noted: BTreeSet<u64> = self.notes()?.into_iter().map(|(key, _)| key).collect();
        // The last of a prefix counts, as it would one by one.
        let mut last = BTreeMap::new();
        for (n, (prefix, _)) in routes.iter().enumerate() {
            last.insert(prefix_key(*prefix), n);
        }
        let there = self.lines.table().map_or(0, |table| table.live()) as usize;
        let mut hops = BTreeMap::new();
        let (mut short, mut long) = (Vec::new(), Vec::new());
        for (prefix, n) in last {
            let Some(whole) = routes.get(n) else {
                continue;
            };
            if matches!(whole.1, FibRoute::Paths(_)) {
                long.push(whole);
                continue;
            }
            let class = self.class_of(&whole.1, origin, facts, &mut hops)?;
            let room = (self.maps.route_capacity as usize) > short.len() + there;
            let way = match place(&prefix) {
                Place::Exact(key)
                    if room && !noted.contains(&key) && !spoken_for.contains(&prefix) =>
                {
                    self.slot_for(key, class)?.map(|index| (key, index))
                }
                _ => None,
            };
            let Some((key, index)) = way else {
                long.push(whole);
                continue;
            };
            short.push(Short {
                key,
                prefix,
                class: index,
                entry: RibEntry {
                    next_hop: class.next_hop,
                    action: class.action,
                    reserved: [0; 3],
                },
            });
        }
        Ok((short, long))
    }

    /// The index of the class, when stage 1 has a slot for the key.
    fn slot_for(&mut self, key: u64, class: Class) -> Result<Option<u32>, Error> {
        use netmesh_common::lines::Backing as _;
        let Some(index) = self.class(class)? else {
            return Ok(None);
        };
        let takes = self.lines.table().is_some_and(|table| {
            index <= table.shape().max_class() && !table.is_full() && table.reserve(key).is_ok()
        });
        Ok(takes.then_some(index))
    }

    fn class_of(
        &mut self,
        route: &FibRoute,
        origin: Origin,
        facts: &NamespaceFacts,
        hops: &mut BTreeMap<FibRoute, u32>,
    ) -> Result<Class, Error> {
        let (action, hop) = super::fib::fate(route);
        let next_hop = match (hop, hops.get(route)) {
            (None, _) => 0,
            (Some(_), Some(id)) => *id,
            (Some((link, gateway, connected)), None) => {
                let id = self.next_hop(link, gateway, connected, facts)?;
                hops.insert(route.clone(), id);
                id
            }
        };
        Ok(Class {
            next_hop,
            action: action as u8,
            origin: origin as u8,
        })
    }

    /// RIB, stage 1: the order of a single route, a chunk at a time.
    fn put_chunk(&mut self, chunk: &[Short], origin: Origin) -> Result<(), Error> {
        let rib: Vec<(RibKey, RibEntry)> = chunk
            .iter()
            .map(|one| (rib_key_of(&one.prefix, origin), one.entry))
            .collect();
        let written = self.maps().rib.put_all(&rib);
        written.map_err(|source| self.full_or("RIB", source))?;
        if let Some(table) = self.lines.table() {
            for one in chunk {
                // It has had its slot since `slot_for`.
                let _ = table.put(one.key, one.class, false);
            }
        }
        Ok(())
    }
}
