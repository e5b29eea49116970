//! Stage 1 of the table: exact match on the upper 64 bits of IPv6 and the upper 24 of IPv4.
//!
//! ```text
//!  one table              one bucket: three lines of the cache
//!  ┌──────────────┐       ┌──────────────────────────────────────────────────────────┐
//!  │ 0   header   │       │ eight entries: tag (64-k) │ choice │ longer │ class (k-2) │
//!  │ 1.. 2^k      │       │ eight tallies of packets towards them                      │
//!  │     buckets  │       │ eight tallies of packets from them                         │
//!  └──────────────┘       └──────────────────────────────────────────────────────────┘
//! ```
//! Its memory comes in pieces of one size, an array map each, in an array of maps: look-ups of such
//! arrays are part of a program, where one of an array of any size is a call.
//!
//! A keyed bijection spreads the key over 64 bits: the upper k choose the bucket, the rest is the
//! tag. A key that finds its bucket full goes to a second one, chosen by the tag, and says so in
//! its choice bit. So bucket, tag and choice give back the key: a match is exact, though the key
//! is stored nowhere, and nobody who does not know the table's random keys can fill a bucket on
//! purpose.
//!
//! What makes readers right without a lock:
//! - an entry is one aligned word and changes by one store;
//! - stage 1 holds a part of what stage 2, the trie, holds completely: whatever is not found here,
//!   or has longer prefixes inside it, is asked there;
//! - a slot belongs to one key for as long as the table lives. When its prefix goes the entry
//!   stays and says that it is dead, so its tallies stay the prefix's own and no key in a second
//!   bucket is ever cut off from its first. Dead entries are left behind when a new table takes
//!   over;
//! - entries never move. A key without room in both its buckets (few in ten thousand at the load
//!   of [`Shape::for_entries`]) is left to stage 2. So there is no moment in which it could be
//!   missed, and nothing to order between the two on CPUs that reorder loads.
//!
//! The address of the tallies' lines follows from the key alone, so that their misses overlap
//! with that of the entries.

mod stages;
mod table;
pub mod tally;

pub use stages::{Backing, publish, withdraw};
pub use table::{Entry, Memory, NoRoom, Table};

use crate::class::Address;
use crate::table::{FibEntry, PrefixKey};

/// Entries in a bucket.
pub const SLOTS: usize = 8;
/// Words of a header that readers need.
pub const HEADER: usize = 8;
/// 8-byte words of a bucket.
pub const WORDS: usize = 3 * SLOTS;
/// Fewest bits of the bucket number: 768 KiB, a thousand classes.
pub const MIN_BITS: u32 = 12;
/// Most bits of the bucket number: 67 million prefixes.
pub const MAX_BITS: u32 = 24;
/// Size of the table of classes; class 0 is none.
pub const MAX_CLASSES: u32 = 1 << 16;
/// Tables there can be at a time: the one in use, and its successor or predecessor.
pub const GENERATIONS: u32 = 2;
/// Logarithm of the buckets in a piece of a table's memory.
pub const PIECE_BITS: u32 = 11;
/// Buckets in a piece: 384 KiB, a whole number of pages.
pub const PIECE: usize = 1 << PIECE_BITS;
/// Most pieces of one table: its header takes one more.
pub const MAX_PIECES: u32 = (1 << (MAX_BITS - PIECE_BITS)) + 1;
/// Where a piece lies that stands in the place of those that are gone: to empty a place costs the
/// kernel a grace period, to write many one for all of them.
pub const NO_PIECE: u32 = GENERATIONS * MAX_PIECES;
/// Places for pieces, [`NO_PIECE`] included.
pub const PIECES: u32 = NO_PIECE + 1;

/// What a piece is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Bucket(pub [u64; WORDS]);

const _: () = assert!(size_of::<Bucket>() == 192);
// A value of 4 MiB is the largest that all kernels take.
const _: () = assert!((PIECE * size_of::<Bucket>()).is_multiple_of(4096));

/// Which end of a packet is looked up, and which tally counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The destination.
    To,
    /// The source.
    From,
}

/// The key of an address in stage 1; `None` for multicast, which is never routed here.
///
/// IPv4 keys live where the IPv6 ones of multicast would be.
#[inline(always)]
#[must_use]
pub const fn key_of(address: &Address) -> Option<u64> {
    match *address {
        Address::V6(upper, _) if upper >> 56 == V4_KEYS >> 56 => None,
        Address::V6(upper, _) => Some(upper),
        Address::V4(address) => Some(V4_KEYS | (address >> 8) as u64),
    }
}

const V4_KEYS: u64 = 0xff << 56;

/// The prefix a key stands for.
#[must_use]
pub const fn prefix_of(key: u64) -> PrefixKey {
    let mut address = [0; 16];
    let family = if key >> 56 == V4_KEYS >> 56 { 4 } else { 6 };
    let upper = if family == 4 { key << 40 } else { key };
    let bytes = upper.to_be_bytes();
    let mut n = 0;
    while n < 8 {
        address[n] = bytes[n];
        n += 1;
    }
    PrefixKey {
        address,
        family,
        length: exact_length(family),
        reserved: [0; 2],
    }
}

/// Length of the prefixes of a family that stage 1 holds.
#[inline(always)]
#[must_use]
pub const fn exact_length(family: u8) -> u8 {
    if family == 6 { 64 } else { 24 }
}

/// Where a prefix stands to stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is one that stage 1 holds.
    Exact(u64),
    /// It lies inside the one with this key.
    Inside(u64),
    /// It is shorter, or of no family that is looked up.
    Elsewhere,
}

/// Where a prefix stands to stage 1.
#[must_use]
pub const fn place(prefix: &PrefixKey) -> Place {
    let [a, b, c, d, e, f, g, h, ..] = prefix.address;
    let upper = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let key = match prefix.family {
        6 | 4 => key_of(&Address::of_halves(upper, 0, prefix.family as u32)),
        _ => None,
    };
    let exact = exact_length(prefix.family);
    match key {
        Some(key) if prefix.length == exact => Place::Exact(key),
        Some(key) if prefix.length > exact => Place::Inside(key),
        _ => Place::Elsewhere,
    }
}

/// What prefixes with the same fate have in common: one word of the table of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// Index into the next-hop table.
    pub next_hop: u32,
    /// [`Action`](crate::table::Action).
    pub action: u8,
    /// [`Origin`](crate::table::Origin).
    pub origin: u8,
}

impl Class {
    /// As it stands in the table; never 0, which is a free place. It is what the words of all entries
    /// of the class have in common ([`FibEntry::word`]), so that nothing has to be taken apart.
    #[must_use]
    pub const fn word(self) -> u64 {
        FibEntry {
            next_hop: self.next_hop,
            action: self.action,
            origin: self.origin,
            counter: 0,
            prefix_length: 0,
            reserved: [0; 5],
        }
        .word()
    }

    /// The class behind a word; `None` for a free place.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        match FibEntry::from_word(word) {
            Some(entry) => Some(Self {
                next_hop: entry.next_hop,
                action: entry.action,
                origin: entry.origin,
            }),
            None => None,
        }
    }

    /// The word of [`entry`](Self::entry) for a class that stands in the table as `word`, which is not
    /// 0.
    #[inline(always)]
    #[must_use]
    pub const fn entry_word(word: u64, family: u8, counter: u32) -> u64 {
        word | FibEntry::varying(counter, exact_length(family))
    }

    /// The entry of a prefix of this class that stage 1 holds.
    #[inline(always)]
    #[must_use]
    pub const fn entry(self, family: u8, counter: u32) -> FibEntry {
        FibEntry {
            next_hop: self.next_hop,
            counter,
            action: self.action,
            prefix_length: exact_length(family),
            origin: self.origin,
            reserved: [0; 5],
        }
    }
}

/// A slot as [`FibEntry::counter`]: bit 31 set, the generation, the slot's number. No slot is
/// [`FibEntry::UNCOUNTED`], and no index of a prefix counter has the bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotCounter {
    /// Which table, below [`GENERATIONS`].
    pub generation: u32,
    /// Number of the slot, counted through all buckets.
    pub slot: u32,
}

impl SlotCounter {
    const FLAG: u32 = 1 << 31;
    const MASK: u32 = (1 << 30) - 1;

    /// As a counter.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        Self::FLAG | (self.generation & 1) << 30 | (self.slot & Self::MASK)
    }

    /// The slot behind a counter; `None` for one that is none.
    #[inline(always)]
    #[must_use]
    pub const fn from_counter(counter: u32) -> Option<Self> {
        if counter & Self::FLAG == 0 || counter == FibEntry::UNCOUNTED {
            return None;
        }
        Some(Self {
            generation: counter >> 30 & 1,
            slot: counter & Self::MASK,
        })
    }

    /// Its bucket, and its place there.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(self) -> (u32, usize) {
        (1 + (self.slot >> 3), (self.slot & 7) as usize)
    }
}

/// Size and keys of a table: what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    bits: u32,
    keys: [u64; 4],
}

impl Shape {
    /// The shape of a table for so many entries and classes, at most half full.
    #[must_use]
    pub const fn for_entries(entries: u64, classes: u32, random: [u64; 4]) -> Self {
        let mut bits = MIN_BITS;
        while bits < MAX_BITS && ((entries > (4 << bits)) || classes >= (1 << (bits - 2)) - 1) {
            bits += 1;
        }
        let keys = [random[0], random[1] | 1, random[2] | 1, random[3] | 1];
        Self { bits, keys }
    }

    /// Buckets of the whole table, its header included.
    #[must_use]
    pub const fn buckets(&self) -> u32 {
        1 + (1 << self.bits)
    }

    /// Pieces that they take.
    #[must_use]
    pub const fn pieces(&self) -> u32 {
        self.buckets().div_ceil(1 << PIECE_BITS)
    }

    /// The same of the first word of a header; 0 of one that is none.
    #[must_use]
    pub const fn pieces_of(bits: u64) -> u32 {
        if bits < MIN_BITS as u64 || bits > MAX_BITS as u64 {
            return 0;
        }
        let keys = [0; 4];
        Self {
            bits: bits as u32,
            keys,
        }
        .pieces()
    }

    /// The words of a header that readers need.
    #[must_use]
    pub const fn header(&self) -> [u64; HEADER] {
        let [k0, k1, k2, k3] = self.keys;
        [self.bits as u64, k0, k1, k2, k3, 0, 0, 0]
    }

    /// The highest class that fits an entry.
    #[must_use]
    pub const fn max_class(&self) -> u32 {
        let most = (1 << (self.bits - 2)) - 2;
        if most < MAX_CLASSES - 1 {
            most
        } else {
            MAX_CLASSES - 1
        }
    }

    /// Entries, dead ones included, at which the table should get a successor.
    #[must_use]
    pub const fn full_at(&self) -> u64 {
        4 << self.bits
    }

    const fn mix(&self, key: u64) -> u64 {
        mix(key, self.keys[0], self.keys[1], self.keys[2])
    }

    /// The way back from [`mix`].
    #[inline(always)]
    const fn unmix(&self, mixed: u64) -> u64 {
        let mut x = mixed ^ (mixed >> 32);
        x = x.wrapping_mul(inverse(self.keys[2]));
        x ^= (x >> 29) ^ (x >> 58);
        x = x.wrapping_mul(inverse(self.keys[1]));
        x ^= x >> 32;
        x ^ self.keys[0]
    }

    const fn upper(&self, x: u64) -> u32 {
        upper(x, self.bits)
    }

    #[inline(always)]
    const fn distance(&self, tag: u64) -> u32 {
        distance(tag, self.keys[3], self.bits)
    }

    #[inline(always)]
    const fn choice(&self) -> u64 {
        1u64.wrapping_shl(self.bits.wrapping_sub(1))
    }

    #[inline(always)]
    const fn longer(&self) -> u64 {
        1u64.wrapping_shl(self.bits.wrapping_sub(2))
    }

    /// The class of a dead entry: all ones, so that no entry looks like an empty slot.
    #[inline(always)]
    const fn dead(&self) -> u64 {
        self.longer().wrapping_sub(1)
    }
}

/// The inverse of an odd number modulo 2^64: each step of Newton's doubles the bits that are right.
#[inline(always)]
const fn inverse(odd: u64) -> u64 {
    let mut x = odd.wrapping_mul(3) ^ 2;
    let mut step = 0;
    while step < 4 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        step += 1;
    }
    x
}

/// A table as a reader sees it.
pub trait Buckets {
    /// A bucket that is there.
    type Bucket;

    /// The bucket with this index.
    fn bucket(&self, index: u32) -> Option<Self::Bucket>;

    /// One of its words, in one load.
    fn word(&self, bucket: &Self::Bucket, word: usize) -> u64;

    /// Starts to fetch the line of a word.
    fn touch(&self, bucket: &Self::Bucket, word: usize);

    /// What begins with the words of the header, bucket 0 or a copy of it.
    #[inline(always)]
    fn header(&self) -> Option<Self::Bucket> {
        self.bucket(0)
    }
}

/// What the header of a table says.
#[inline(always)]
pub fn shape<B: Buckets>(table: &B) -> Option<Shape> {
    let header = table.bucket(0)?;
    let bits = table.word(&header, 0) as u32;
    let keys = [
        table.word(&header, 1),
        table.word(&header, 2),
        table.word(&header, 3),
        table.word(&header, 4),
    ];
    Some(Shape { bits, keys })
}

/// An entry that answers for its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Index of the class.
    pub class: u32,
    /// Number of the slot, counted through all buckets.
    pub slot: u32,
}

/// Looks a key up; `None` leaves it to stage 2. At most two lines of entries are touched, besides
/// the header that every look-up touches.
#[inline(always)]
pub fn find<B: Buckets>(table: &B, key: u64, direction: Direction) -> Option<Hit> {
    let header = table.header()?;
    let bits = table.word(&header, 0) as u32;
    let mixed = mix(
        key,
        table.word(&header, 1),
        table.word(&header, 2),
        table.word(&header, 3),
    );
    let first = upper(mixed, bits);
    let tag = mixed.wrapping_shl(bits);
    let bucket = table.bucket(first.wrapping_add(1))?;
    table.touch(&bucket, tally::word(direction, 0));
    let mut line = first;
    let mut found = scan(table, &bucket, tag, bits);
    if found == 0 {
        // Buckets fill from slot 0 on, and slots never become empty again.
        if table.word(&bucket, SLOTS - 1) == 0 {
            return None;
        }
        line ^= distance(tag, table.word(&header, 4), bits);
        let bucket = table.bucket(line.wrapping_add(1))?;
        let choice = 1u64.wrapping_shl(bits.wrapping_sub(1));
        found = scan(table, &bucket, tag | choice, bits);
    }
    let longer = 1u32.wrapping_shl(bits.wrapping_sub(2));
    let dead = longer.wrapping_sub(1);
    let class = (found >> 3) as u32;
    // With the bit of longer prefixes it is above all classes.
    if class == 0 || class >= dead {
        return None;
    }
    Some(Hit {
        class,
        slot: line << 3 | (found as u32 & 7),
    })
}

/// The key of a slot; `None` for one that is empty.
#[inline(always)]
pub fn key_at<B: Buckets>(table: &B, slot: u32) -> Option<u64> {
    let line = slot >> 3;
    let bucket = table.bucket(line.wrapping_add(1))?;
    let word = table.word(&bucket, (slot & 7) as usize);
    key_in(&shape(table)?, line, word)
}

#[inline(always)]
const fn key_in(shape: &Shape, line: u32, word: u64) -> Option<u64> {
    if word == 0 {
        return None;
    }
    let tag = word.wrapping_shr(shape.bits);
    let first = if word & shape.choice() == 0 {
        line
    } else {
        line ^ shape.distance(tag.wrapping_shl(shape.bits))
    };
    let upper = (first as u64).wrapping_shl(64u32.wrapping_sub(shape.bits));
    Some(shape.unmix(upper | tag))
}

/// The bijection. Its first and its last step let every bit reach the bucket number.
#[inline(always)]
const fn mix(key: u64, k0: u64, k1: u64, k2: u64) -> u64 {
    let mut x = key ^ k0;
    x ^= x >> 32;
    x = x.wrapping_mul(k1);
    x ^= x >> 29;
    x = x.wrapping_mul(k2);
    x ^ (x >> 32)
}

#[inline(always)]
const fn upper(x: u64, bits: u32) -> u32 {
    x.wrapping_shr(64u32.wrapping_sub(bits)) as u32
}

/// How far the second bucket of a tag is from the first: never 0, and the way back is the same.
#[inline(always)]
const fn distance(tag: u64, k3: u64, bits: u32) -> u32 {
    upper(tag.wrapping_mul(k3), bits) | 1
}

/// Class, mark and place of the entry with this tag and choice; zero, or class 0, when there is
/// none. With branches: one of them is guessed wrong where prefixes are many, but then the line
/// has to be waited for anyway, and none where they are few; without them it was slower at all
/// sizes.
#[inline(always)]
fn scan<B: Buckets>(table: &B, bucket: &B::Bucket, want: u64, bits: u32) -> u64 {
    let above = bits.wrapping_sub(1);
    let low = 1u64.wrapping_shl(above).wrapping_sub(1);
    let mut i = 0;
    while i < SLOTS {
        let entry = table.word(bucket, i);
        if (entry ^ want).wrapping_shr(above) == 0 {
            return (entry & low) << 3 | i as u64;
        }
        i += 1;
    }
    0
}
