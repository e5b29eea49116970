//! Figures of two moments side by side.

use std::cmp::Ordering;

/// What one thing has counted, and how much of that since the moment before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line<K, const N: usize> {
    pub(super) key: K,
    /// The counts.
    pub(super) total: [u64; N],
    /// What came since the moment before.
    pub(super) change: [u64; N],
}

/// All things of one kind, in order of their keys.
#[derive(Clone, Debug)]
pub(super) struct Series<K, const N: usize> {
    pub(super) lines: Vec<Line<K, N>>,
    /// Seconds between the two moments; `None` while there is only one.
    pub(super) seconds: Option<f64>,
}

impl<K, const N: usize> Default for Series<K, N> {
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            seconds: None,
        }
    }
}

impl<K: Ord, const N: usize> Series<K, N> {
    /// The next moment: `rows` is what has been counted by now. What was not there before started
    /// from nothing, and so did a counter that is smaller than it was.
    pub(super) fn advance(&mut self, mut rows: Vec<(K, [u64; N])>, seconds: Option<f64>) {
        rows.sort_by(|a, b| a.0.cmp(&b.0)); // Mostly sorted already: one pass.
        let mut before = std::mem::take(&mut self.lines).into_iter().peekable();
        let next = |(key, total): (K, [u64; N])| {
            while before
                .next_if(|line| line.key.cmp(&key) == Ordering::Less)
                .is_some()
            {}
            let last = before.next_if(|line| line.key == key);
            let start = last.map_or([0; N], |line| line.total);
            let change = std::array::from_fn(|i| match total[i].checked_sub(start[i]) {
                Some(change) => change,
                None => total[i],
            });
            Line { key, total, change }
        };
        self.lines = rows.into_iter().map(next).collect();
        self.seconds = seconds.filter(|seconds| *seconds > 0.0);
    }

    /// How often a second a figure of a line went up.
    pub(super) fn rate(&self, line: usize, figure: usize) -> Option<f64> {
        let seconds = self.seconds?;
        let line = self.lines.get(line)?;
        line.change.get(figure).map(|count| *count as f64 / seconds)
    }

    /// The sum of the rates of a figure.
    pub(super) fn rate_of_all(&self, figure: usize) -> Option<f64> {
        let seconds = self.seconds?;
        let counts = self.lines.iter().filter_map(|line| line.change.get(figure));
        Some(counts.sum::<u64>() as f64 / seconds)
    }

    /// The places of at most `most` lines that pass, by falling `weight` (`rising`: the other way
    /// round); lines of equal weight stay in order of their keys. Takes time as the number of
    /// lines, not as sorting them would.
    pub(super) fn ranked(
        &self,
        most: usize,
        rising: bool,
        passes: impl Fn(&Line<K, N>) -> bool,
        weight: impl Fn(usize) -> f64,
    ) -> Ranked {
        let passing = (0..self.lines.len()).filter(|i| passes(&self.lines[*i]));
        let mut places: Vec<(f64, usize)> = passing.map(|i| (weight(i), i)).collect();
        let order = |a: &(f64, usize), b: &(f64, usize)| {
            let by_weight = a.0.total_cmp(&b.0);
            let by_weight = if rising {
                by_weight
            } else {
                by_weight.reverse()
            };
            by_weight.then(a.1.cmp(&b.1))
        };
        let passed = places.len();
        if most < passed {
            places.select_nth_unstable_by(most, order);
            places.truncate(most);
        }
        places.sort_unstable_by(order);
        Ranked {
            places: places.into_iter().map(|(_, place)| place).collect(),
            passed,
        }
    }
}

/// The lines that are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranked {
    /// Their places in the series, in the order they are shown in.
    pub(super) places: Vec<usize>,
    /// How many there would be if there were room.
    pub(super) passed: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(moments: &[&[(&'static str, u64)]]) -> Series<&'static str, 1> {
        let mut series = Series::default();
        for (i, moment) in moments.iter().enumerate() {
            let rows = moment.iter().map(|(key, count)| (*key, [*count])).collect();
            series.advance(rows, (i > 0).then_some(2.0));
        }
        series
    }

    #[test]
    fn a_rate_needs_two_moments() {
        let one = series(&[&[("a", 10)]]);
        assert_eq!((one.rate(0, 0), one.rate_of_all(0)), (None, None));
        let two = series(&[&[("a", 10)], &[("a", 16)]]);
        assert_eq!((two.rate(0, 0), two.rate_of_all(0)), (Some(3.0), Some(3.0)));
        let three = series(&[&[("a", 10)], &[("a", 16)], &[("a", 16)]]);
        assert_eq!(three.rate(0, 0), Some(0.0));
    }

    #[test]
    fn what_comes_goes_and_starts_again_counts_from_nothing() {
        let series = series(&[
            &[("b", 100), ("a", 7), ("d", 5)],
            &[("c", 4), ("d", 3), ("b", 108)],
        ]);
        let rates: Vec<_> = (0..3).map(|i| series.rate(i, 0)).collect();
        let keys: Vec<_> = series.lines.iter().map(|line| line.key).collect();
        assert_eq!(keys, ["b", "c", "d"]);
        assert_eq!(rates, [Some(4.0), Some(2.0), Some(1.5)]);
        assert_eq!(series.rate_of_all(0), Some(7.5));
        assert_eq!(series.rate(3, 0), None);
    }

    #[test]
    fn the_heaviest_come_first_and_equals_in_order() {
        let series = series(&[&[("a", 5), ("b", 9), ("c", 5), ("d", 1), ("e", 7)]]);
        let ranked = |most, rising| {
            let weight = |i: usize| series.lines[i].total[0] as f64;
            let ranked = series.ranked(most, rising, |line| line.key != "e", weight);
            assert_eq!(ranked.passed, 4);
            ranked
                .places
                .iter()
                .map(|i| series.lines[*i].key)
                .collect::<String>()
        };
        assert_eq!(ranked(9, false), "bacd");
        assert_eq!(ranked(2, false), "ba");
        assert_eq!(ranked(3, true), "dac");
        assert_eq!(ranked(0, true), "");
    }
}
