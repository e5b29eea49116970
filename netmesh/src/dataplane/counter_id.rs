//! Which counter belongs to which prefix.
//!
//! A counter is the prefix's for good: it stays when the route changes, goes, and comes back.
//! Only when every counter is taken are those of prefixes without any route given away.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;

use aya::maps::{MapError, PerCpuValues};
use netmesh_common::table::{FibEntry, Origin, PrefixCounters, PrefixKey};

use super::fib::rib_key_of;
use super::maps::{found, retry_memory};
use super::{Error, Instance, sys};

/// Key of the first identity never given out: family 0 is no prefix.
const HIGH_WATER: PrefixKey = PrefixKey {
    address: [0; 16],
    family: 0,
    length: 0,
    reserved: [0; 2],
};

/// Counters whose prefix has no route.
#[derive(Debug, Default)]
pub(super) struct Reclaim(Vec<(PrefixKey, u32)>);

impl Instance {
    /// The counter of a prefix, given out on first use.
    ///
    /// A prefix of an object is always counted, or refused. Routes learned by the million are
    /// forwarded uncounted when the counters are used up.
    pub(super) fn counter_of(&mut self, prefix: &PrefixKey, origin: Origin) -> Result<u32, Error> {
        if let Some(id) = self.identity(prefix)? {
            return Ok(id);
        }
        let next = self.identity(&HIGH_WATER)?.unwrap_or(0);
        let capacity = self.maps.prefix_counters.len();
        let id = if next < capacity {
            // The mark first: a crash wastes a counter, it never gives one to two prefixes.
            self.set_identity(&HIGH_WATER, next + 1)?;
            next
        } else {
            match self.reclaim_one()? {
                Some(id) => id,
                None if origin == Origin::Object => {
                    return Err(Error::Full {
                        table: "the table of prefix counters",
                        capacity: capacity.into(),
                        remedy: "load the data plane with more counters",
                    });
                }
                None => return Ok(FibEntry::UNCOUNTED),
            }
        };
        self.set_identity(prefix, id)?;
        Ok(id)
    }

    /// Gives those of these prefixes a counter that have none yet, and adds them to what is known.
    /// When no counter is left that nobody has had, each is given one as by
    /// [`counter_of`](Self::counter_of).
    pub(super) fn counters_of<'a>(
        &mut self,
        prefixes: impl Iterator<Item = &'a PrefixKey>,
        origin: Origin,
        known: &mut BTreeMap<PrefixKey, u32>,
    ) -> Result<(), Error> {
        let new: BTreeSet<PrefixKey> = prefixes
            .filter(|prefix| !known.contains_key(prefix))
            .copied()
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let next = self.identity(&HIGH_WATER)?.unwrap_or(0);
        let fresh = new
            .len()
            .min((self.maps.prefix_counters.len() - next) as usize);
        if fresh != 0 {
            // The mark first, as for one.
            self.set_identity(&HIGH_WATER, next + fresh as u32)?;
        }
        let given: Vec<(PrefixKey, u32)> = new.iter().copied().zip(next..).take(fresh).collect();
        sys::put_all(self.maps.counter_ids_fd.as_fd(), &given).map_err(|source| Error::Map {
            map: "COUNTER_IDS",
            action: "write it",
            source: MapError::IoError(source),
        })?;
        known.extend(given);
        for prefix in new.into_iter().skip(fresh) {
            let id = self.counter_of(&prefix, origin)?;
            known.insert(prefix, id);
        }
        Ok(())
    }

    /// A prefix has lost its last route.
    pub(super) fn may_reclaim(&mut self, prefix: &PrefixKey) -> Result<(), Error> {
        if let Some(id) = self.identity(prefix)?
            && let Some(reclaim) = &mut self.reclaim
        {
            reclaim.0.push((*prefix, id));
        }
        Ok(())
    }

    /// Takes a counter from a prefix that has no route, and clears it.
    fn reclaim_one(&mut self) -> Result<Option<u32>, Error> {
        if self.reclaim.is_none() {
            let mut routed = BTreeSet::new();
            self.maps.each_rib(|key, _| {
                routed.insert(key.prefix);
            })?;
            let mut list = Vec::new();
            self.maps.each_counter(|prefix, id| {
                if !routed.contains(&prefix) {
                    list.push((prefix, id));
                }
            })?;
            self.reclaim = Some(Reclaim(list));
        }
        while let Some((prefix, id)) = self.reclaim.as_mut().and_then(|list| list.0.pop()) {
            if self.identity(&prefix)? != Some(id) || self.has_route(&prefix)? {
                continue;
            }
            self.maps()
                .counter_ids
                .remove(&prefix)
                .map_err(|source| Error::Map {
                    map: "COUNTER_IDS",
                    action: "give a counter away",
                    source,
                })?;
            self.clear_prefix_counters(id)?;
            return Ok(Some(id));
        }
        Ok(None)
    }

    fn has_route(&self, prefix: &PrefixKey) -> Result<bool, Error> {
        for origin in Origin::ALL {
            let key = rib_key_of(prefix, *origin);
            if self.maps.rib.get(&key)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn identity(&self, prefix: &PrefixKey) -> Result<Option<u32>, Error> {
        found(self.maps.counter_ids.get(prefix, 0), "COUNTER_IDS")
    }

    fn set_identity(&mut self, prefix: &PrefixKey, id: u32) -> Result<(), Error> {
        retry_memory(|| self.maps().counter_ids.insert(prefix, id, 0)).map_err(|source| {
            Error::Map {
                map: "COUNTER_IDS",
                action: "write it",
                source,
            }
        })
    }

    fn clear_prefix_counters(&mut self, id: u32) -> Result<(), Error> {
        let fail = |source| Error::Map {
            map: "PREFIX_CNT",
            action: "clear a counter",
            source,
        };
        let values = self.maps.prefix_counters.get(&id, 0).map_err(fail)?;
        let zero = PerCpuValues::try_from(vec![PrefixCounters::default(); values.len()])
            .map_err(|source| fail(MapError::IoError(source)))?;
        self.maps().prefix_counters.set(id, zero, 0).map_err(fail)
    }
}
