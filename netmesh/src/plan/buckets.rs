//! Which member of a group each bucket of flows belongs to.
//!
//! The shares are as close to the weights as whole buckets allow. Who had a bucket keeps it
//! while its share allows: what a member that goes has had is all that moves, and one that comes
//! takes its share from the others and nothing more.

use std::cmp::Reverse;

use netmesh_common::group::BUCKETS;

/// A place among the members for every bucket.
pub type Buckets = [u8; BUCKETS];

/// The members' buckets. `before` names the place of the member that has had each, `None` where
/// that one is gone. Equal arguments give equal buckets on every node.
///
/// From nothing every share is exact to less than one bucket; a member whose share is less than
/// half of one may get none. `weights` must not be empty, nor more than a `u8` counts.
#[must_use]
pub fn assign(weights: &[u16], before: &[Option<u8>; BUCKETS]) -> Buckets {
    let shares = Shares::of(weights);
    let mut held = vec![0_usize; weights.len()];
    for owner in before.iter().flatten() {
        if let Some(held) = held.get_mut(usize::from(*owner)) {
            *held += 1;
        }
    }
    let wanted = shares.wanted(&held);

    // The last ones of who has too many are given up.
    let mut kept = vec![0_usize; weights.len()];
    let mut buckets = [None; BUCKETS];
    for (bucket, owner) in buckets.iter_mut().zip(before) {
        let Some(owner) = *owner else { continue };
        let place = usize::from(owner);
        if let (Some(kept), Some(wanted)) = (kept.get_mut(place), wanted.get(place))
            && *kept < *wanted
        {
            *kept += 1;
            *bucket = Some(owner);
        }
    }
    let missing = wanted.iter().zip(&kept).enumerate();
    let mut takers = missing.flat_map(|(place, (wanted, kept))| {
        std::iter::repeat_n(place as u8, wanted.saturating_sub(*kept))
    });
    buckets.map(|owner| owner.or_else(|| takers.next()).unwrap_or_default())
}

/// How many buckets are whose, in fractions over the sum of the weights.
struct Shares {
    total: usize,
    /// Exact share times `total`.
    exact: Vec<usize>,
}

impl Shares {
    fn of(weights: &[u16]) -> Self {
        Self {
            total: weights
                .iter()
                .copied()
                .map(usize::from)
                .sum::<usize>()
                .max(1),
            exact: weights
                .iter()
                .map(|weight| usize::from(*weight) * BUCKETS)
                .collect(),
        }
    }

    fn floor(&self, place: usize) -> usize {
        self.exact[place] / self.total
    }

    fn ceil(&self, place: usize) -> usize {
        self.exact[place].div_ceil(self.total)
    }

    /// What a member with so many is short of, times `total`; negative when it has too many.
    fn short(&self, place: usize, count: usize) -> i64 {
        self.exact[place] as i64 - (count * self.total) as i64
    }

    /// How many each member is to have, all of them together.
    fn wanted(&self, held: &[usize]) -> Vec<usize> {
        let places = 0..held.len();
        let free = BUCKETS.saturating_sub(held.iter().sum());
        let too_many = |place: usize| held[place] > self.ceil(place);
        // One that comes, or weighs more than it did. What one that goes leaves uneven is less.
        let too_few = |place: usize| {
            held[place] == 0 && self.floor(place) > 0
                || self.short(place, held[place]) >= 2 * self.total as i64
        };
        let uneven = places.clone().any(too_many) || free == 0 && places.clone().any(too_few);
        let mut wanted: Vec<usize> = if uneven {
            places
                .clone()
                .map(|place| held[place].clamp(self.floor(place), self.ceil(place)))
                .collect()
        } else {
            // What is free is given to whoever lacks most; nobody gives anything.
            held.to_vec()
        };
        let mut sum: usize = wanted.iter().sum();
        while sum < BUCKETS {
            let Some(poorest) = places
                .clone()
                .max_by_key(|&place| (self.short(place, wanted[place]), Reverse(place)))
            else {
                break;
            };
            wanted[poorest] += 1;
            sum += 1;
        }
        while sum > BUCKETS {
            let Some(richest) = places
                .clone()
                .min_by_key(|&place| (self.short(place, wanted[place]), place))
            else {
                break;
            };
            wanted[richest] = wanted[richest].saturating_sub(1);
            sum -= 1;
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOBODY: [Option<u8>; BUCKETS] = [None; BUCKETS];

    fn count(buckets: &Buckets, place: usize) -> usize {
        buckets
            .iter()
            .filter(|owner| usize::from(**owner) == place)
            .count()
    }

    fn exact(weights: &[u16], place: usize) -> f64 {
        let total: u32 = weights.iter().copied().map(u32::from).sum();
        256.0 * f64::from(weights[place]) / f64::from(total)
    }

    /// What was whose, with the member at `gone` out of the list.
    fn without(buckets: &Buckets, gone: usize) -> [Option<u8>; BUCKETS] {
        buckets.map(|owner| match usize::from(owner) {
            owner if owner == gone => None,
            owner => Some((owner - usize::from(owner > gone)) as u8),
        })
    }

    fn weights() -> impl Strategy<Value = Vec<u16>> {
        let weight = prop_oneof![1..=256_u16, 1..=4_u16, Just(1)];
        prop::collection::vec(weight, 2..=16)
    }

    #[test]
    fn one_that_weighs_more_gets_more() {
        let before = assign(&[100; 16], &NOBODY);
        let mut weights = [100; 16];
        for weight in [101, 110, 120] {
            weights[3] = weight;
            let after = assign(&weights, &before.map(Some));
            let off = count(&after, 3) as f64 - exact(&weights, 3);
            assert!(off.abs() < 2.0, "{weight}: {off}");
        }
    }

    #[test]
    fn two_equal_ones_halve() {
        let buckets = assign(&[1, 1], &NOBODY);
        assert_eq!((count(&buckets, 0), count(&buckets, 1)), (128, 128));
        let buckets = assign(&[3, 1], &NOBODY);
        assert_eq!((count(&buckets, 0), count(&buckets, 1)), (192, 64));
        let buckets = assign(&[1, 1, 1], &NOBODY);
        assert_eq!((0..3).map(|n| count(&buckets, n)).max(), Some(86));
        assert_eq!(assign(&[5], &NOBODY), [0; BUCKETS]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn a_share_is_the_weights_to_less_than_one_bucket(weights in weights()) {
            let buckets = assign(&weights, &NOBODY);
            for place in 0..weights.len() {
                let off = count(&buckets, place) as f64 - exact(&weights, place);
                prop_assert!(off.abs() < 1.0, "{place}: {off}");
            }
            prop_assert_eq!(assign(&weights, &NOBODY), buckets, "the same on every node");
        }

        /// Only the lost member's buckets move, and the shares of the others stay right.
        #[test]
        fn a_member_that_goes_takes_no_other_flow_along(weights in weights(), gone in any::<prop::sample::Index>()) {
            let gone = gone.index(weights.len());
            let before = assign(&weights, &NOBODY);
            let mut rest = weights.clone();
            rest.remove(gone);
            let known = without(&before, gone);
            let after = assign(&rest, &known);
            for (owner, now) in known.iter().zip(&after) {
                prop_assert!(owner.is_none_or(|owner| owner == *now));
            }
            for place in 0..rest.len() {
                let off = count(&after, place) as f64 - exact(&rest, place);
                prop_assert!(off.abs() < 2.0, "{place}: {off}");
            }
        }

        /// One that comes gets its share, from those who have too much, and nothing else moves.
        #[test]
        fn a_member_that_comes_gets_its_share(weights in weights(), newcomer in 1..=256_u16) {
            let before = assign(&weights, &NOBODY);
            let mut all = weights.clone();
            all.push(newcomer);
            let after = assign(&all, &before.map(Some));
            let place = weights.len();
            let off = count(&after, place) as f64 - exact(&all, place);
            prop_assert!(off.abs() < 1.0, "{off}");
            let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
            let gained = count(&after, place);
            prop_assert!(moved <= gained + weights.len(), "{moved} moved for {gained}");
        }

        /// Gone and back again: it has its share, and whoever kept its flows keeps most of them.
        #[test]
        fn a_member_that_comes_back_gets_its_share_again(weights in weights(), gone in any::<prop::sample::Index>()) {
            let gone = gone.index(weights.len());
            let before = assign(&weights, &NOBODY);
            let mut rest = weights.clone();
            rest.remove(gone);
            let without = assign(&rest, &without(&before, gone));
            let known = without.map(|owner| Some(owner + u8::from(usize::from(owner) >= gone)));
            let after = assign(&weights, &known);
            for place in 0..weights.len() {
                let off = count(&after, place) as f64 - exact(&weights, place);
                prop_assert!(off.abs() < 1.0, "{place}: {off}");
            }
        }

        #[test]
        fn what_is_right_stays(weights in weights()) {
            let buckets = assign(&weights, &NOBODY);
            prop_assert_eq!(assign(&weights, &buckets.map(Some)), buckets);
        }

        /// Whatever was before, every bucket has a member and the shares are fair.
        #[test]
        fn any_past_will_do(weights in weights(), past in prop::collection::vec(prop::option::of(any::<u8>()), BUCKETS)) {
            let mut before = NOBODY;
            before.copy_from_slice(&past);
            let buckets = assign(&weights, &before);
            for place in 0..weights.len() {
                let off = count(&buckets, place) as f64 - exact(&weights, place);
                prop_assert!(off.abs() < 2.0, "{place}: {off}");
            }
        }
    }
}
