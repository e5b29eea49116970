//! A static tree over intervals of keys, in front of the trie: what the longest prefix says of each
//! key of [`lines::key_of`](crate::lines::key_of), found in as many lines of the cache as the tree has
//! levels, and one more.
//!
//! ```text
//!   ::/0 ─────────────────────────────────────    boundaries  │0   │2a02:18::  │2a02:18:5::  │…
//!        2a02:18::/32 ───────────────             values      │::/0│2a02:18::/32│…
//!             2a02:18:5::/48 ──
//! ```
//! Neighbouring keys are a pair, and what is said is said of the pair: no prefix shorter than those of
//! stage 1 parts them, and the trie may as well be asked about both. So a place is a key without
//! its last bit, and two of them are compared by a subtraction.
//!
//! A line holds eight places. Those of the last level are the boundaries, each the first key of an
//! interval; those above are the first ones of the second, third … ninth line below them. What is said
//! of an interval is one word, in the same place of the line behind: a
//! [`FibEntry`](crate::table::FibEntry)'s, [`NO_ROUTE`], or [`ASK`] where the key alone does not
//! say it.
//!
//! A tree is never changed. A larger table, or another one, is another tree.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::lines::{Place, exact_length, key_range, place};
use crate::table::PrefixKey;

/// Places, or values, in a line.
pub const KEYS: usize = 8;
/// Lines below one that is not of the last level.
const CHILDREN: usize = KEYS + 1;
/// Most levels: enough for 38 million intervals.
pub const MAX_LEVELS: usize = 8;
/// Words of a header: the number of levels, the first line of each but the last, that of the last.
pub const HEADER: usize = 16;
/// Word of a header that says where the last level is.
const LEAVES: usize = MAX_LEVELS;
/// Word of a header that says how many intervals there are, which readers need not know.
const INTERVALS: usize = 1 + MAX_LEVELS;

/// Lines of a piece of the trees' memory: 256 KiB.
pub const PIECE: u32 = 1 << 12;
/// Pieces that a tree may have.
pub const PIECES: u32 = 1 << 10;
/// Trees there can be at a time: the one that is asked, and the next.
pub const GENERATIONS: u32 = 2;

/// What is said where no prefix matches.
pub const NO_ROUTE: u64 = 0;
/// What is said where the trie is to be asked.
pub const ASK: u64 = 1;
/// [`Span::length`] of a key of which that is said.
pub const ASK_LENGTH: u8 = u8::MAX;

/// A tree as a reader sees it.
pub trait Tree {
    /// A line that is there.
    type Line;

    /// A word of the header, below [`HEADER`].
    fn header(&self, word: usize) -> u64;

    /// The line with this number.
    fn line(&self, index: u32) -> Option<Self::Line>;

    /// The line with this number, which is even, and the one behind it.
    fn pair(&self, index: u32) -> Option<Self::Line>;

    /// One of its words, of a pair one of both.
    fn word(&self, line: &Self::Line, word: usize) -> u64;
}

/// The place of a key.
#[inline(always)]
#[must_use]
pub const fn place_of(key: u64) -> u64 {
    key >> 1
}

/// Behind all places.
const NOWHERE: u64 = u64::MAX >> 1;

/// What the tree says of a key; [`ASK`] where it is none.
#[inline(always)]
pub fn find<T: Tree>(tree: &T, key: u64) -> u64 {
    let place = place_of(key);
    // Below the words of a header, which verifiers before Linux 6.3 see of a mask only.
    let levels = tree.header(0) & (HEADER as u64 - 1);
    // A tree says itself how deep it is: the compiler would unroll a loop whose end it knew, and the
    // programs have no room for what that keeps on the stack.
    if levels == 0 || levels > MAX_LEVELS as u64 {
        return ASK;
    }
    let mut node = 0_u32;
    let mut level = 1;
    while level < levels as usize {
        let first = tree.header(level) as u32;
        let Some(line) = tree.line(first.wrapping_add(node)) else {
            return ASK;
        };
        let below = count(tree, &line, place);
        node = node.wrapping_mul(CHILDREN as u32).wrapping_add(below);
        level += 1;
    }
    let first = tree.header(LEAVES) as u32;
    let Some(line) = tree.pair(first.wrapping_add(node.wrapping_mul(2))) else {
        return ASK;
    };
    // The first boundary of all is 0. Values lie behind their boundaries, where they are fetched
    // together, and no call is needed to find them.
    let found = count(tree, &line, place).wrapping_sub(1) as usize & (KEYS - 1);
    tree.word(&line, KEYS + found)
}

/// How many of the places of a line are not behind this one.
#[inline(always)]
fn count<T: Tree>(tree: &T, line: &T::Line, place: u64) -> u32 {
    let mut count = 0;
    let mut n = 0;
    while n < KEYS {
        // The sign of a difference instead of a branch: the verifier would go both ways at each.
        let above = tree.word(line, n).wrapping_sub(place).wrapping_sub(1);
        count += (above >> 63) as u32;
        n += 1;
    }
    count
}

/// Where everything is in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    intervals: usize,
    levels: usize,
    /// The first line of each level but the last.
    first: [usize; MAX_LEVELS],
    leaves: usize,
    lines: usize,
}

impl Shape {
    /// Of a tree of so many intervals; `None` when they are too many, or none.
    #[must_use]
    pub fn new(intervals: usize) -> Option<Self> {
        let mut lines = intervals.div_ceil(KEYS);
        if lines == 0 {
            return None;
        }
        let mut sizes = [0; MAX_LEVELS];
        let mut levels = 0;
        loop {
            *sizes.get_mut(levels)? = lines;
            levels += 1;
            if lines == 1 {
                break;
            }
            lines = lines.div_ceil(CHILDREN);
        }
        let (mut first, mut at) = ([0; MAX_LEVELS], 0);
        // From the root, which is one line, on.
        let above = sizes.iter().take(levels).skip(1).rev();
        for (place, size) in first.iter_mut().zip(above) {
            *place = at;
            at += size;
        }
        let leaves = at.next_multiple_of(2);
        Some(Self {
            intervals,
            levels,
            first,
            leaves,
            lines: leaves + 2 * intervals.div_ceil(KEYS),
        })
    }

    /// Lines of the whole.
    #[must_use]
    pub const fn lines(&self) -> usize {
        self.lines
    }

    /// Intervals.
    #[must_use]
    pub const fn intervals(&self) -> usize {
        self.intervals
    }

    /// As the header says it.
    #[must_use]
    pub fn header(&self) -> [u64; HEADER] {
        let mut header = [0; HEADER];
        let words = core::iter::once(self.levels)
            .chain(self.first.into_iter().take(MAX_LEVELS - 1))
            .chain([self.leaves, self.intervals]);
        for (place, word) in header.iter_mut().zip(words) {
            *place = word as u64;
        }
        header
    }

    /// What a header says; `None` when it is none.
    #[must_use]
    pub fn of_header(header: &[u64; HEADER]) -> Option<Self> {
        let intervals = *header.get(INTERVALS)?;
        let shape = Self::new(usize::try_from(intervals).ok()?)?;
        (shape.header() == *header).then_some(shape)
    }

    /// The word of an interval's boundary; its value is a line behind.
    const fn boundary(&self, n: usize) -> usize {
        (self.leaves + n / KEYS * 2) * KEYS + n % KEYS
    }

    /// Makes memory the tree of these intervals, in order, the first of which begins at 0. `None` when
    /// the memory or the intervals are not as many as the shape says.
    #[must_use]
    pub fn fill<'a>(
        &self,
        words: &'a [AtomicU64],
        intervals: impl IntoIterator<Item = (u64, u64)>,
    ) -> Option<Memory<'a>> {
        let words = words.get(..self.lines * KEYS)?;
        let put = |at: usize, value| {
            if let Some(word) = words.get(at) {
                word.store(value, Ordering::Relaxed);
            }
        };
        let mut count = 0;
        for (n, (boundary, value)) in intervals.into_iter().enumerate() {
            if n >= self.intervals {
                return None;
            }
            put(self.boundary(n), boundary);
            put(self.boundary(n) + KEYS, value);
            count += 1;
        }
        if count != self.intervals {
            return None;
        }
        for n in count..count.next_multiple_of(KEYS) {
            put(self.boundary(n), NOWHERE);
            put(self.boundary(n) + KEYS, NO_ROUTE);
        }
        // Lines of the last level below one of the level above the one that is filled.
        let mut reach = 1;
        for level in (0..self.levels - 1).rev() {
            let first = *self.first.get(level)?;
            let end = match level + 2 == self.levels {
                true => first + self.intervals.div_ceil(KEYS).div_ceil(CHILDREN),
                false => *self.first.get(level + 1)?,
            };
            for node in 0..end - first {
                for n in 0..KEYS {
                    let leaf = (node * CHILDREN + n + 1) * reach;
                    let there = leaf * KEYS < self.intervals;
                    let word = words.get(self.boundary(leaf * KEYS)).filter(|_| there);
                    let key = word.map_or(NOWHERE, |word| word.load(Ordering::Relaxed));
                    put((first + node) * KEYS + n, key);
                }
            }
            reach *= CHILDREN;
        }
        core::sync::atomic::fence(Ordering::Release);
        Some(Memory {
            words,
            shape: *self,
        })
    }
}

/// A tree in memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    words: &'a [AtomicU64],
    shape: Shape,
}

impl<'a> Memory<'a> {
    /// The tree of this shape in memory; `None` when there is not enough of that.
    #[must_use]
    pub fn open(words: &'a [AtomicU64], shape: Shape) -> Option<Self> {
        let words = words.get(..shape.lines * KEYS)?;
        Some(Self { words, shape })
    }

    /// What it says of a key.
    #[must_use]
    pub fn find(&self, key: u64) -> u64 {
        find(self, key)
    }

    /// Its intervals, in order: where each begins, and what is said of it.
    pub fn intervals(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let (words, shape) = (self.words, self.shape);
        let at = move |n: usize| words.get(n).map_or(0, |word| word.load(Ordering::Relaxed));
        (0..shape.intervals).map(move |n| {
            let boundary = shape.boundary(n);
            (at(boundary), at(boundary + KEYS))
        })
    }
}

impl<'a> Tree for Memory<'a> {
    type Line = &'a [AtomicU64];

    fn header(&self, word: usize) -> u64 {
        self.shape.header().get(word).copied().unwrap_or(0)
    }

    fn line(&self, index: u32) -> Option<Self::Line> {
        let at = index as usize * KEYS;
        self.words.get(at..at + KEYS)
    }

    fn pair(&self, index: u32) -> Option<Self::Line> {
        let at = index as usize * KEYS;
        self.words.get(at..at + 2 * KEYS)
    }

    fn word(&self, line: &Self::Line, word: usize) -> u64 {
        line.get(word)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

/// A prefix among the places, and what is said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first place.
    pub start: u64,
    /// The last place.
    pub end: u64,
    /// The prefix's length, or [`ASK_LENGTH`].
    pub length: u8,
    /// What is said.
    pub word: u64,
}

impl Span {
    /// Of a prefix: one that is longer than those of stage 1, or as long, is the trie's to answer.
    /// `None` for one that is never looked up.
    #[must_use]
    pub fn new(prefix: &PrefixKey, word: u64) -> Option<Self> {
        match place(prefix) {
            Place::Exact(key) | Place::Inside(key) => Some(Self::ask(key)),
            Place::Elsewhere if prefix.length < exact_length(prefix.family) => {
                let (start, end) = key_range(prefix)?;
                let length = prefix.length;
                Some(Self {
                    start: place_of(start),
                    end: place_of(end),
                    length,
                    word,
                })
            }
            Place::Elsewhere => None,
        }
    }

    /// Of a key that the trie is to be asked about, and its neighbour.
    #[must_use]
    pub const fn ask(key: u64) -> Self {
        Self {
            start: place_of(key),
            end: place_of(key),
            length: ASK_LENGTH,
            word: ASK,
        }
    }
}

/// Deepest nesting: a prefix of each length, and a key.
const DEEPEST: usize = 66;

/// The intervals of these prefixes, in order. The prefixes must be in the order of [`order`], and each
/// there once.
pub fn sweep(spans: &[Span], mut each: impl FnMut(u64, u64)) {
    let mut open = [(0_u64, NO_ROUTE); DEEPEST];
    let mut depth = 0;
    // The interval that is told of when its end is known, so that neighbours can become one.
    let (mut told, mut held) = (None, (0, NO_ROUTE));
    let mut say = |start: u64, word: u64| {
        if held.0 != start && told != Some(held.1) {
            each(held.0, held.1);
            told = Some(held.1);
        }
        held = (start, word);
    };
    let close = |open: &[(u64, u64); DEEPEST], depth: &mut usize, say: &mut dyn FnMut(u64, u64)| {
        *depth -= 1;
        let end = open.get(*depth).map_or(0, |open| open.0);
        let outer = depth.checked_sub(1).and_then(|outer| open.get(outer));
        say(end.saturating_add(1), outer.map_or(NO_ROUTE, |open| open.1));
    };
    for span in spans {
        while depth > 0
            && open
                .get(depth - 1)
                .is_some_and(|(end, _)| *end < span.start)
        {
            close(&open, &mut depth, &mut say);
        }
        say(span.start, span.word);
        if let Some(place) = open.get_mut(depth) {
            *place = (span.end, span.word);
            depth += 1;
        }
    }
    while depth > 0 {
        close(&open, &mut depth, &mut say);
    }
    // No place is so high: what is held last is told.
    say(u64::MAX, NO_ROUTE);
}

/// What [`sweep`] wants spans sorted by: the wider one of two that begin together first.
#[must_use]
pub const fn order(span: &Span) -> (u64, u8) {
    (span.start, span.length)
}
