//! Where choices come from.

/// A source of choices.
#[derive(Clone, Debug)]
pub(crate) enum Dice<'a> {
    /// Vigna's splitmix64: any seed is as good as any other.
    Seed(u64),
    /// One byte a choice, or as many as it needs; zeros when they are used up.
    Bytes(&'a [u8]),
}

impl Dice<'_> {
    /// A number below `bound`; 0 when that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        match bound {
            0 | 1 => 0,
            2..=256 => usize::from(self.byte()) % bound,
            _ => self.word() as usize % bound,
        }
    }

    /// True in one of `many`.
    pub(crate) fn one_in(&mut self, many: usize) -> bool {
        // The last, so that bytes of zero make what is usual.
        self.below(many) + 1 == many
    }

    /// One of a list.
    pub(crate) fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// Any byte.
    pub(crate) fn byte(&mut self) -> u8 {
        match self {
            Self::Seed(_) => (self.word() >> 24) as u8,
            Self::Bytes(bytes) => match bytes.split_first() {
                Some((first, rest)) => {
                    *bytes = rest;
                    *first
                }
                None => 0,
            },
        }
    }

    /// Any 32 bits.
    pub(crate) fn word(&mut self) -> u32 {
        match self {
            Self::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = *state;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (mixed ^ (mixed >> 31)) as u32
            }
            Self::Bytes(_) => u32::from_be_bytes([(); 4].map(|()| self.byte())),
        }
    }

    /// Any bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }
}
