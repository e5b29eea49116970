//! Watching over the next hops of groups: whether each answers, and taking one out of its groups
//! without touching them.
//!
//! A next hop that is withdrawn has a flag in its slot of the next-hop table, one store away from
//! every program. The groups stay as they are, so its flows come back to it and no others move.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::Ordering;

use netmesh_common::table::{MAX_NEXT_HOPS, NextHop};

use super::Error;
use super::instance::View;
use super::next_hop::{self, WORDS};
use super::pin::NamespaceId;
use super::poke::Poker;
use super::sys::Mapping;

/// One of several next hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its slot.
    pub id: u32,
    /// Its device.
    pub ifindex: u32,
    /// Its address; a device without neighbours has none.
    pub address: Option<IpAddr>,
}

/// What can be seen of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It has answered since it was asked last.
    Answers,
    /// It has been asked and has not answered yet.
    Silent,
    /// It is being asked for the first time.
    Unknown,
    /// No packet can be sent there: its device is down or without a carrier, or its neighbour has
    /// no link-layer address.
    Gone,
}

/// One namespace's data plane, watched.
pub struct Watch {
    view: View,
    memory: Mapping,
    /// The folder's number: another instance may come in the place of this one.
    inode: u64,
    poker: Option<Poker>,
}

impl Watch {
    /// Begins to watch the data plane of a namespace, if it has one.
    ///
    /// # Errors
    /// When its maps cannot be read.
    pub fn open(namespace: NamespaceId) -> Result<Option<Self>, Error> {
        let Some(view) = View::open(namespace)? else {
            return Ok(None);
        };
        let bytes = size_of::<NextHop>() * MAX_NEXT_HOPS as usize;
        let memory = Mapping::new(view.maps.next_hops_fd.as_fd(), bytes);
        let memory = memory.map_err(|source| super::maps::unreadable("NEXT_HOPS", source))?;
        let inode = std::fs::metadata(view.path()).map_or(0, |found| found.ino());
        Ok(Some(Self {
            view,
            memory,
            inode,
            poker: None,
        }))
    }

    /// It is still the one that serves the namespace.
    #[must_use]
    pub fn lives(&self) -> bool {
        std::fs::metadata(self.view.path()).is_ok_and(|found| found.ino() == self.inode)
    }

    /// Every next hop that shares a group with others.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub fn members(&self) -> Result<BTreeSet<Member>, Error> {
        let mut members = BTreeSet::new();
        for id in self.view.every_member()? {
            let hop = next_hop::get(&self.view.maps, id)?;
            if hop.ifindex != 0 {
                members.insert(Member {
                    id,
                    ifindex: hop.ifindex,
                    address: next_hop::decode(&hop).filter(|_| hop.has_neighbour()),
                });
            }
        }
        Ok(members)
    }

    /// Opens what it takes to look and to ask; in a thread of the namespace. It keeps the namespace
    /// alive: see [`rest`](Self::rest).
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn wake(&mut self) -> io::Result<()> {
        if self.poker.is_none() {
            self.poker = Some(Poker::open()?);
        }
        Ok(())
    }

    /// It is awake.
    #[must_use]
    pub const fn is_awake(&self) -> bool {
        self.poker.is_some()
    }

    /// Closes that again.
    pub fn rest(&mut self) {
        self.poker = None;
    }

    /// Looks at a next hop, and has it asked once more. One that is withdrawn is left to the
    /// kernel while it is silent, which gives it up and asks for it anew.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn look(&self, member: &Member, withdrawn: bool) -> io::Result<Sign> {
        let Some(poker) = &self.poker else {
            return Ok(Sign::Unknown);
        };
        if !poker.device(member.ifindex)?.is_some_and(|(_, up)| up) {
            return Ok(Sign::Gone);
        }
        let Some(address) = member.address else {
            return Ok(Sign::Answers);
        };
        let Some(entry) = poker.entry(member.ifindex, address)? else {
            // With the carrier the kernel has forgotten whom to keep resolved.
            poker.resolve(member.ifindex, address)?;
            return Ok(Sign::Gone);
        };
        let fixed = libc::NUD_PERMANENT | libc::NUD_NOARP;
        let sign = match entry.state {
            state if state & fixed != 0 => return Ok(Sign::Answers),
            _ if !entry.is_usable() => return Ok(Sign::Gone),
            libc::NUD_REACHABLE => Sign::Answers,
            libc::NUD_PROBE => Sign::Silent,
            _ => Sign::Unknown,
        };
        if sign != Sign::Silent || !withdrawn {
            match poker.poke(member.ifindex, address, entry) {
                // It has failed since.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Sign::Gone),
                poked => poked?,
            }
        }
        Ok(sign)
    }

    /// The name of its device.
    #[must_use]
    pub fn device(&self, member: &Member) -> String {
        let found = self
            .poker
            .as_ref()
            .map(|poker| poker.device(member.ifindex));
        match found {
            Some(Ok(Some((name, _)))) => name,
            _ => format!("if{}", member.ifindex),
        }
    }

    /// Whether groups do without it.
    #[must_use]
    pub fn is_withdrawn(&self, member: &Member) -> bool {
        let flags = self.flags(member);
        flags.is_some_and(|word| word.load(Ordering::Acquire) & withdrawn() != 0)
    }

    /// Takes it out of its groups, or puts it back. A slot that has become another's is left alone.
    pub fn withdraw(&self, member: &Member, out: bool) {
        let (Some(word), true) = (self.flags(member), self.is_same(member)) else {
            return;
        };
        if out {
            word.fetch_or(withdrawn(), Ordering::AcqRel);
        } else {
            word.fetch_and(!withdrawn(), Ordering::AcqRel);
        }
        if !self.is_same(member) {
            word.fetch_and(!withdrawn(), Ordering::AcqRel);
        }
    }

    fn is_same(&self, member: &Member) -> bool {
        next_hop::get(&self.view.maps, member.id).is_ok_and(|hop| {
            let address = next_hop::decode(&hop).filter(|_| hop.has_neighbour());
            hop.ifindex == member.ifindex && address == member.address
        })
    }

    /// The word of a slot that holds its flags.
    fn flags(&self, member: &Member) -> Option<&std::sync::atomic::AtomicU64> {
        self.memory.words().get(member.id as usize * WORDS + 2)
    }
}

/// The flag as it stands in that word.
const fn withdrawn() -> u64 {
    u64::from_ne_bytes([0, 0, 0, 0, 0, 0, NextHop::WITHDRAWN, 0])
}
