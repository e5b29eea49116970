//! Many routes of one origin at once: what one route costs in calls to the kernel, a chunk costs.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, BorrowedFd};

use aya::Pod;
use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use netmesh_common::lines::{Backing as _, Class, Place, place};
use netmesh_common::table::{FibEntry, Origin, PrefixKey, RibEntry, RibKey};

use super::fib::rib_key_of;
use super::many::Routes;
use super::route::prefix_key;
use super::{Error, Instance, sys};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::FibRoute;

/// Prefixes that are written by one call.
const CHUNK: usize = 4096;

/// What a chunk writes, by the stage that answers. It goes the short way: a prefix has one next
/// hop at most, nobody else speaks for it, and it is in one stage only.
#[derive(Default)]
struct Short {
    rib: Vec<(RibKey, RibEntry)>,
    /// Key and class.
    first: Vec<(u64, u32)>,
    second: Vec<(PrefixKey, Class)>,
}

/// What decides about the way a prefix goes.
struct Ways {
    origin: Origin,
    /// By fate: what it is, and its index where stage 1 has one for it; `None` for several next hops.
    classes: Vec<Option<(Class, Option<u32>)>>,
    /// Prefixes with a more preferred origin, in order.
    spoken_for: Vec<PrefixKey>,
    /// Keys that stage 1 does not answer alone, in order.
    noted: Vec<u64>,
    /// Prefixes that go the long way, each time they come: they are written last.
    long: BTreeSet<PrefixKey>,
    /// The counters there are.
    counters: BTreeMap<PrefixKey, u32>,
}

impl Instance {
    /// As [`put_many`](Self::put_many).
    ///
    /// # Errors
    /// As there.
    pub fn put_routes(
        &mut self,
        routes: &[(IpNet, FibRoute)],
        origin: Origin,
        facts: &NamespaceFacts,
        progress: impl FnMut(u64),
    ) -> Result<(), Error> {
        let routes = routes.iter().map(|(prefix, route)| (*prefix, route));
        self.put_many(&routes.collect(), origin, facts, progress)
    }

    /// Adds routes or changes them in place; of several to a prefix the last stays. `progress` is
    /// told how many more are done.
    ///
    /// # Errors
    /// When a device is not in the namespace, or a table has no room for all, before anything is
    /// changed. When a table cannot be written: what `progress` was told of is there, and the next
    /// writer mends the rest.
    pub fn put_many(
        &mut self,
        routes: &Routes,
        origin: Origin,
        facts: &NamespaceFacts,
        mut progress: impl FnMut(u64),
    ) -> Result<(), Error> {
        let mut singles = 0;
        for route in routes.fates() {
            match route {
                FibRoute::Via { link, .. } | FibRoute::Connected { link } => {
                    super::fib::device(facts, link)?;
                    singles += 1;
                }
                FibRoute::Paths(paths) => {
                    for path in paths {
                        super::fib::device(facts, &path.link)?;
                    }
                }
                _ => {}
            }
        }
        self.room_for_all(routes, origin)?;
        self.note()?;
        self.reserve(routes.len() as u64)?;
        let room = self.maps().rib.reserve(routes.len());
        room.map_err(|source| self.full_or("RIB", source))?;
        // Next hops are in no route until their chunk is written, so there must be room for all of
        // them at once: looking for more gives up those without a route.
        self.make_room(singles)?;
        let mut long = Vec::new();
        if self.next_hops.room() < singles {
            long.extend(routes.iter());
        } else {
            let mut ways = self.ways(routes, origin, facts)?;
            for chunk in routes.chunks(CHUNK) {
                let before = long.len();
                let short = self.sort_out(chunk, routes, &mut ways, &mut long);
                let torn = std::mem::replace(&mut self.torn, true);
                self.put_chunk(&short, &mut ways)?;
                self.torn = torn;
                progress((chunk.len() + before - long.len()) as u64);
            }
        }
        for (prefix, route) in long {
            self.put_route(prefix, origin, route, facts)?;
            progress(1);
        }
        Ok(())
    }

    /// Every table has room for those that are new to it.
    fn room_for_all(&self, routes: &Routes, origin: Origin) -> Result<(), Error> {
        let capacity = u64::from(self.maps.route_capacity);
        // The RIB holds every prefix: where its whole map would fit nothing need be counted.
        if self.maps.rib.room().saturating_add(routes.len() as u64) <= capacity {
            return Ok(());
        }
        let mut entries = BTreeSet::new();
        self.maps.each_rib(|key, _| {
            entries.insert((key.prefix, key.origin));
        })?;
        let there = entries.len();
        entries.extend(
            routes
                .iter()
                .map(|(net, _)| (prefix_key(net), origin as u8)),
        );
        if entries.len() == there {
            return Ok(());
        }
        if entries.len() as u64 > self.maps.rib.limit() {
            return Err(self.full());
        }
        let prefixes: BTreeSet<PrefixKey> = entries.into_iter().map(|(prefix, _)| prefix).collect();
        let inside = |prefix: &PrefixKey| match place(prefix) {
            Place::Inside(key) => Some(key),
            Place::Exact(_) | Place::Elsewhere => None,
        };
        let mut in_trie: BTreeSet<u64> = self.notes()?.into_iter().map(|(key, _)| key).collect();
        in_trie.extend(prefixes.iter().filter_map(inside));
        let (mut exact, mut six, mut four) = (0, 0, 0);
        for prefix in &prefixes {
            if let Place::Exact(key) = place(prefix) {
                exact += 1;
                // What has longer prefixes inside, or found no room there, is in the trie.
                if !in_trie.contains(&key) {
                    continue;
                }
            }
            match prefix.family {
                6 => six += 1,
                _ => four += 1,
            }
        }
        if [exact, six, four].into_iter().max() > Some(capacity) {
            return Err(self.full());
        }
        Ok(())
    }

    fn ways(
        &mut self,
        routes: &Routes,
        origin: Origin,
        facts: &NamespaceFacts,
    ) -> Result<Ways, Error> {
        let mut spoken_for = Vec::new();
        self.maps.each_rib(|key, _| {
            if key.origin < origin as u8 {
                spoken_for.push(key.prefix);
            }
        })?;
        spoken_for.sort_unstable();
        let mut noted: Vec<u64> = self.notes()?.into_iter().map(|(key, _)| key).collect();
        noted.sort_unstable();
        let mut counters = BTreeMap::new();
        self.maps.each_counter(|prefix, id| {
            counters.insert(prefix, id);
        })?;
        let mut classes = Vec::new();
        for route in routes.fates() {
            classes.push(match route {
                FibRoute::Paths(_) => None,
                route => {
                    let class = self.class_of(route, origin, facts)?;
                    Some((class, self.class(class)?))
                }
            });
        }
        let several = routes
            .iter()
            .filter(|(_, route)| matches!(route, FibRoute::Paths(_)))
            .map(|(prefix, _)| prefix_key(prefix));
        Ok(Ways {
            origin,
            classes,
            spoken_for,
            noted,
            long: several.collect(),
            counters,
        })
    }

    /// Which prefixes can go the short way. The others come to `long`, in order.
    fn sort_out<'a>(
        &self,
        chunk: &[(IpNet, u32)],
        routes: &'a Routes,
        ways: &mut Ways,
        long: &mut Vec<(IpNet, &'a FibRoute)>,
    ) -> Short {
        let mut short = Short::default();
        let table = self.lines.table();
        let capacity = u64::from(self.maps.route_capacity);
        let there = table.map_or(0, |table| table.live());
        for (net, fate) in chunk {
            let prefix = prefix_key(*net);
            let class = ways.classes.get(*fate as usize).copied().flatten();
            let alone = ways.spoken_for.binary_search(&prefix).is_err()
                && (ways.long.is_empty() || !ways.long.contains(&prefix));
            let way = match (class.filter(|_| alone), place(&prefix)) {
                (Some((class, Some(index))), Place::Exact(key)) => {
                    let noted = ways.noted.binary_search(&key).is_ok();
                    let takes = table.is_some_and(|table| {
                        !noted
                            && index <= table.shape().max_class()
                            && !table.is_full()
                            && there + (short.first.len() as u64) < capacity
                            && table.reserve(key).is_ok()
                    });
                    if takes {
                        short.first.push((key, index));
                        Some(class)
                    } else {
                        None
                    }
                }
                (Some((class, _)), Place::Elsewhere) => {
                    short.second.push((prefix, class));
                    Some(class)
                }
                _ => None,
            };
            match (way, routes.fate_at(*fate)) {
                (Some(class), _) => short.rib.push((
                    rib_key_of(&prefix, ways.origin),
                    RibEntry {
                        next_hop: class.next_hop,
                        action: class.action,
                        reserved: [0; 3],
                    },
                )),
                (None, Some(route)) => {
                    ways.long.insert(prefix);
                    long.push((*net, route));
                }
                (None, None) => {}
            }
        }
        short
    }

    fn class_of(
        &mut self,
        route: &FibRoute,
        origin: Origin,
        facts: &NamespaceFacts,
    ) -> Result<Class, Error> {
        let (action, hop) = super::fib::fate(route);
        let next_hop = match hop {
            None => 0,
            Some((link, gateway, connected)) => self.next_hop(link, gateway, connected, facts)?,
        };
        Ok(Class {
            next_hop,
            action: action as u8,
            origin: origin as u8,
        })
    }

    /// RIB, then the stages: the order of a single route, a chunk at a time.
    fn put_chunk(&mut self, chunk: &Short, ways: &mut Ways) -> Result<(), Error> {
        let second = chunk.second.iter().map(|(prefix, _)| prefix);
        self.counters_of(second, ways.origin, &mut ways.counters)?;
        let written = self.maps().rib.put_all(&chunk.rib);
        written.map_err(|source| self.full_or("RIB", source))?;
        self.put_second(&chunk.second, ways)?;
        if let Some(table) = self.lines.table() {
            for (key, class) in &chunk.first {
                // It has had its slot since `sort_out`.
                let _ = table.put(*key, *class, false);
            }
        }
        Ok(())
    }

    /// Those that are the trie's.
    fn put_second(&mut self, chunk: &[(PrefixKey, Class)], ways: &Ways) -> Result<(), Error> {
        let (mut six, mut four) = (Vec::new(), Vec::new());
        for (prefix, class) in chunk {
            self.trees.touch(prefix);
            let counter = ways.counters.get(prefix).copied();
            let entry = FibEntry {
                prefix_length: prefix.length,
                ..class.entry(prefix.family, counter.unwrap_or(FibEntry::UNCOUNTED))
            };
            let (length, a) = (u32::from(prefix.length), prefix.address);
            if prefix.family == 6 {
                six.push((Key::new(length, a), entry));
            } else {
                four.push((Key::new(length, [a[0], a[1], a[2], a[3]]), entry));
            }
        }
        let six = self.put_all(self.maps.fib6_fd.as_fd(), &six);
        let result = six.and_then(|()| self.put_all(self.maps.fib4_fd.as_fd(), &four));
        if matches!(result, Err(Error::Full { .. })) {
            // What is not in the trie has no route, or the next writer would fail as well.
            for (prefix, _) in chunk {
                if self.in_trie(prefix)?.is_none() {
                    self.erase_rib(&rib_key_of(prefix, ways.origin))?;
                }
            }
        }
        result
    }

    fn put_all<K: Pod, V: Pod>(
        &self,
        map: BorrowedFd<'_>,
        entries: &[(K, V)],
    ) -> Result<(), Error> {
        sys::put_all(map, entries).map_err(|error| {
            let source = MapError::SyscallError(aya::sys::SyscallError {
                call: "bpf_map_update_batch",
                io_error: error,
            });
            self.full_or("FIB", source)
        })
    }
}
