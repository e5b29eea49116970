//! Sets of prefixes and streams of addresses.

/// Prefixes of 64 bits.
pub(crate) struct Set {
    /// Their upper halves.
    pub(crate) keys: Vec<u64>,
}

/// `2a02:1802::/40` and what lies in it.
const ALLOCATION: u64 = 0x2a02_1802_0000_0000;

impl Set {
    /// So many /64s of a /40, in no order: a multiplication permutes its 2^24.
    pub(crate) fn random(count: usize) -> Self {
        let keys = (0..count as u64)
            .map(|n| ALLOCATION | (n.wrapping_mul(0x9e37_79b1).wrapping_add(0x1234) & 0xff_ffff))
            .collect();
        Self { keys }
    }

    /// Addresses drawn from all prefixes alike.
    pub(crate) fn uniform(&self, length: usize) -> Vec<u64> {
        let mut random = Random::new(0x5eed);
        let count = self.keys.len() as u64;
        (0..length)
            .map(|_| self.keys[(random.next() % count) as usize])
            .collect()
    }

    /// Addresses drawn by Zipf's law: the prefix of rank r comes 1/r times as often as the first.
    pub(crate) fn zipf(&self, length: usize) -> Vec<u64> {
        let mut random = Random::new(0x21bf);
        let count = self.keys.len() as f64;
        (0..length)
            .map(|_| {
                let share = (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
                let rank = count.powf(share) as usize;
                self.keys[rank.clamp(1, self.keys.len()) - 1]
            })
            .collect()
    }
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
