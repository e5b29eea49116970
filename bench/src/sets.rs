//! Sets of prefixes and streams of addresses.

use std::collections::BTreeSet;

/// Prefixes.
pub(crate) struct Set {
    /// Upper halves of those of 64 bits.
    pub(crate) keys: Vec<u64>,
    /// Upper halves and lengths of shorter ones.
    pub(crate) shorter: Vec<(u64, u8)>,
}

/// What prefixes a set is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// /64s of one /40.
    Random,
    /// The same, one behind the other.
    Dense,
    /// 95 % /64s of one /40, and among them aggregates: 3.5 % /48s, 1 % /56s, 0.5 % /44s.
    Mesh,
    /// Lengths as in the Internet's table, /20 to /48, anywhere in `2000::/3`.
    Global,
}

impl Kind {
    /// As people read it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Random => "/64s",
            Self::Dense => "/64s, one behind the other",
            Self::Mesh => "prefixes of a mesh, 95 % /64s",
            Self::Global => "prefixes as in the Internet's table",
        }
    }
}

/// How many of a thousand have a length there; a year's common ones, roughly.
const INTERNET: [(u8, u64); 12] = [
    (48, 480),
    (32, 120),
    (44, 110),
    (40, 90),
    (36, 50),
    (29, 40),
    (46, 30),
    (47, 25),
    (42, 20),
    (33, 15),
    (24, 10),
    (20, 10),
];

/// `2a02:1802::/40` and what lies in it.
const ALLOCATION: u64 = 0x2a02_1802_0000_0000;

impl Set {
    /// So many prefixes.
    pub(crate) fn new(kind: Kind, count: usize) -> Self {
        let mut random = Random::new(0x5e7);
        match kind {
            Kind::Random => Self::random(count),
            Kind::Dense => Self {
                keys: (0..count as u64).map(|n| ALLOCATION | n).collect(),
                shorter: Vec::new(),
            },
            Kind::Mesh => {
                let mut shorter = BTreeSet::new();
                for (length, share) in [(48, 35), (56, 10), (44, 5)] {
                    for _ in 0..count * share / 1000 {
                        let key = ALLOCATION | (random.next() & 0xff_ffff);
                        shorter.insert((key & mask(length), length));
                    }
                }
                Self {
                    shorter: shorter.into_iter().collect(),
                    ..Self::random(count * 95 / 100)
                }
            }
            Kind::Global => {
                let mut shorter = BTreeSet::new();
                for (length, share) in INTERNET {
                    for _ in 0..count as u64 * share / 1000 {
                        let key = 0x2000 << 48 | (random.next() >> 3);
                        shorter.insert((key & mask(length), length));
                    }
                }
                Self {
                    keys: Vec::new(),
                    shorter: shorter.into_iter().collect(),
                }
            }
        }
    }

    /// So many /64s of a /40, in no order: a multiplication permutes its 2^24.
    pub(crate) fn random(count: usize) -> Self {
        let keys = (0..count as u64)
            .map(|n| ALLOCATION | (n.wrapping_mul(0x9e37_79b1).wrapping_add(0x1234) & 0xff_ffff))
            .collect();
        Self {
            keys,
            shorter: Vec::new(),
        }
    }

    /// Addresses drawn from all prefixes alike: upper halves.
    pub(crate) fn uniform(&self, length: usize) -> Vec<u64> {
        let mut random = Random::new(0x5eed);
        let count = (self.keys.len() + self.shorter.len()) as u64;
        (0..length)
            .map(|_| self.one((random.next() % count) as usize, &mut random))
            .collect()
    }

    /// An address of the n-th prefix.
    fn one(&self, n: usize, random: &mut Random) -> u64 {
        match self.shorter.get(n.wrapping_sub(self.keys.len())) {
            Some((key, length)) => key | (random.next() & !mask(*length)),
            None => self.keys[n],
        }
    }

    /// Addresses drawn by Zipf's law: the prefix of rank r comes 1/r times as often as the first.
    pub(crate) fn zipf(&self, length: usize) -> Vec<u64> {
        let mut random = Random::new(0x21bf);
        let all = self.keys.len() + self.shorter.len();
        (0..length)
            .map(|_| {
                let share = (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
                let rank = (all as f64).powf(share) as usize;
                let mut n = rank.clamp(1, all) - 1;
                if !self.shorter.is_empty() {
                    // The lengths lie one behind the other: any may be a frequent one.
                    n = n.wrapping_mul(0x9e37_79b1) % all;
                }
                self.one(n, &mut random)
            })
            .collect()
    }
}

/// The bits of a prefix of this length.
fn mask(length: u8) -> u64 {
    !(u64::MAX >> length)
}

/// Numbers below a bound.
pub(crate) fn numbers(bound: u64, length: usize) -> Vec<u64> {
    let mut random = Random::new(0xc4a5e);
    (0..length).map(|_| random.next() % bound).collect()
}

/// Marsaglia's xorshift: the same in every run.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
