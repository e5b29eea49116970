//! The table of groups: several next hops that one route spreads its flows over.
//!
//! A group never changes once a route refers to it. A route whose next hops change gets another
//! group, made from what the old one was: flows stay where they can. Routes with equal groups
//! share one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use netmesh_common::group::{self, BUCKETS, Group, MAX_GROUPS, MAX_MEMBERS, MAX_WEIGHT, Member};
use netmesh_common::table::{Link, NextHop};

use super::instance::View;
use super::maps::Maps;
use super::{Error, Instance, next_hop};
use crate::plan::buckets::assign;
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::Path;

/// Where a route leads.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// To one next hop; a free slot where the action needs none.
    One(NextHop),
    /// To several, each with its weight.
    Several(Vec<(NextHop, u16)>),
}

impl Way {
    /// Whether the link-layer addresses are known, where any is needed.
    pub(super) fn resolved(&self) -> Option<bool> {
        let known = |hop: &NextHop| hop.has_neighbour().then(|| Link(hop.link).mac().is_some());
        match self {
            Self::One(hop) => known(hop),
            Self::Several(hops) => hops.iter().filter_map(|(hop, _)| known(hop)).min(),
        }
    }

    /// Several next hops: interface index, address and link-layer address, as far as they are known.
    pub(super) fn next_hops(&self) -> Vec<(u32, Option<IpAddr>, Option<[u8; 6]>)> {
        match self {
            Self::One(_) => Vec::new(),
            Self::Several(hops) => hops
                .iter()
                .map(|(hop, _)| (hop.ifindex, next_hop::decode(hop), Link(hop.link).mac()))
                .collect(),
        }
    }

    /// The link-layer address packets are sent to; there are several behind a group.
    pub(super) const fn link_address(&self) -> Option<[u8; 6]> {
        match self {
            Self::One(hop) => Link(hop.link).mac(),
            Self::Several(_) => None,
        }
    }
}

/// The groups in use; only the holder of the lock has them.
#[derive(Debug)]
pub(super) struct Groups {
    known: BTreeMap<u32, Group>,
    /// Longest free first, as with next hops.
    free: VecDeque<u32>,
}

impl Groups {
    /// The groups that routes refer to; all others are free.
    fn read(maps: &Maps, used: &BTreeSet<u32>) -> Result<Self, Error> {
        let mut groups = Self {
            known: BTreeMap::new(),
            free: VecDeque::new(),
        };
        for id in 1..MAX_GROUPS {
            if used.contains(&id) {
                groups.known.insert(id, get(maps, id)?);
            } else {
                groups.free.push_back(id);
            }
        }
        Ok(groups)
    }

    /// The slot of this very group, made if need be.
    fn put(&mut self, maps: &mut Maps, group: &Group) -> Result<u32, Error> {
        if let Some((id, _)) = self.known.iter().find(|(_, known)| *known == group) {
            return Ok(*id);
        }
        let id = self.free.pop_front().ok_or(Error::Full {
            table: "the table of next-hop groups",
            capacity: u64::from(MAX_GROUPS) - 1,
            remedy: "fewer different sets of next hops; the size is fixed",
        })?;
        if let Err(source) = maps.groups.set(id, group, 0) {
            self.free.push_front(id);
            return Err(fail("write a group", source));
        }
        self.known.insert(id, *group);
        Ok(id)
    }

    fn keep(&mut self, used: &BTreeSet<u32>) {
        let free = &mut self.free;
        self.known.retain(|id, _| {
            let keep = used.contains(id);
            if !keep {
                free.push_back(*id);
            }
            keep
        });
    }
}

impl View {
    /// Where the next-hop index of a route leads.
    pub(super) fn way(&self, index: u32) -> Result<Way, Error> {
        let Some(id) = group::of(index) else {
            return next_hop::get(&self.maps, index).map(Way::One);
        };
        let members = members(&get(&self.maps, id)?);
        let hops: Result<Vec<_>, Error> = members
            .into_iter()
            .map(|member| Ok((next_hop::get(&self.maps, member.next_hop)?, member.weight)))
            .collect();
        hops.map(Way::Several)
    }

    /// Groups that routes lead through.
    pub(super) fn used_groups(&self) -> Result<BTreeSet<u32>, Error> {
        let mut used = BTreeSet::new();
        self.maps.each_rib(|_, entry| {
            used.extend(group::of(entry.next_hop));
        })?;
        Ok(used)
    }

    /// The next hops that any group has, also one that no route refers to any more.
    pub(super) fn every_member(&self) -> Result<BTreeSet<u32>, Error> {
        let mut all = BTreeSet::new();
        for id in 1..MAX_GROUPS {
            let group = get(&self.maps, id)?;
            if group.count == 0 {
                break; // Slots are used in order at first, and never emptied.
            }
            all.extend(members(&group).iter().map(|member| member.next_hop));
        }
        Ok(all)
    }

    /// The next hops and groups that the indexes of routes lead to, whole.
    pub(super) fn reached(
        &self,
        indexes: &BTreeSet<u32>,
    ) -> Result<(BTreeSet<u32>, BTreeSet<u32>), Error> {
        let mut next_hops = BTreeSet::new();
        let mut groups = BTreeSet::new();
        for &index in indexes {
            let Some(id) = group::of(index) else {
                next_hops.insert(index);
                continue;
            };
            groups.insert(id);
            for member in members(&get(&self.maps, id)?) {
                next_hops.insert(member.next_hop);
            }
        }
        Ok((next_hops, groups))
    }
}

impl Instance {
    /// The next-hop index for several next hops. `before` is the route's index so far: the flows
    /// of members that stay, stay with them.
    pub(super) fn spread(
        &mut self,
        paths: &[Path],
        before: u32,
        facts: &NamespaceFacts,
    ) -> Result<u32, Error> {
        if paths.len() > MAX_MEMBERS {
            return Err(Error::TooManyPaths {
                found: paths.len(),
                most: MAX_MEMBERS,
            });
        }
        self.make_room(paths.len())?;
        let mut members: Vec<Member> = Vec::with_capacity(paths.len());
        for path in paths {
            let next_hop = self.next_hop(&path.link, path.gateway, false, facts)?;
            let device = super::fib::device(facts, &path.link)?;
            // A device without neighbours is one next hop, however often it is named.
            if let Some(same) = members.iter_mut().find(|known| known.next_hop == next_hop) {
                same.weight = same.weight.saturating_add(path.weight).min(MAX_WEIGHT);
                continue;
            }
            members.push(Member {
                next_hop,
                ifindex: device.ifindex,
                weight: path.weight.clamp(1, MAX_WEIGHT),
                reserved: [0; 3],
            });
        }
        if let [only] = members[..] {
            return Ok(only.next_hop);
        }
        let owners = self.owners(before)?;
        let seed = seed(self.name());
        if let Some(id) = group::of(before) {
            let known = get(&self.maps, id)?;
            if known.seed == seed && self::members(&known) == members {
                return Ok(before);
            }
        }
        let group = build(&members, &owners, seed);
        let mut groups = match self.groups.take() {
            Some(groups) if !groups.free.is_empty() => groups,
            Some(mut groups) => {
                groups.keep(&self.used_groups()?);
                groups
            }
            None => Groups::read(&self.maps, &self.used_groups()?)?,
        };
        let id = groups.put(self.maps(), &group);
        self.groups = Some(groups);
        Ok(group::index(id?))
    }

    /// Gives up the groups that no route refers to.
    pub(super) fn keep_groups(&mut self, used: &BTreeSet<u32>) {
        if let Some(groups) = &mut self.groups {
            groups.keep(used);
        }
    }

    /// Next hop of each bucket behind a route's index; a single next hop has them all.
    fn owners(&self, index: u32) -> Result<[u32; BUCKETS], Error> {
        let Some(id) = group::of(index) else {
            return Ok([index; BUCKETS]);
        };
        let group = get(&self.maps, id)?;
        let owner = |slot: u8| group.members.get(usize::from(slot));
        Ok(group
            .buckets
            .map(|slot| owner(slot).map_or(0, |member| member.next_hop)))
    }
}

/// A group of these members that leaves buckets with their owners where it can.
fn build(members: &[Member], owners: &[u32; BUCKETS], seed: u64) -> Group {
    let weights: Vec<u16> = members.iter().map(|member| member.weight).collect();
    let before = owners.map(|owner| {
        let place = members.iter().position(|member| member.next_hop == owner);
        place.and_then(|place| u8::try_from(place).ok())
    });
    let mut group = Group {
        seed,
        count: members.len() as u32,
        buckets: assign(&weights, &before),
        ..Group::default()
    };
    for (slot, member) in group.members.iter_mut().zip(members) {
        *slot = *member;
    }
    group
}

fn members(group: &Group) -> Vec<Member> {
    let members = group.members.iter().take(group.count as usize);
    members.copied().collect()
}

/// From the instance's name (FNV-1a): the same on two routers side by side, not the same on
/// a router and the exits behind it.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn get(maps: &Maps, id: u32) -> Result<Group, Error> {
    maps.groups
        .get(&id, 0)
        .map_err(|source| fail("read a group", source))
}

fn fail(action: &'static str, source: aya::maps::MapError) -> Error {
    Error::Map {
        map: "GROUPS",
        action,
        source,
    }
}

/// What a member says of itself.
pub(super) fn path(hop: &NextHop, weight: u16, link: String) -> Path {
    let gateway: Option<IpAddr> = next_hop::decode(hop);
    Path {
        gateway,
        link,
        weight,
    }
}
