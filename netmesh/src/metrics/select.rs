//! Which prefixes get series of their own: a million of them would be four million series.

use std::cmp::Reverse;
use std::str::FromStr;

use thiserror::Error;

use crate::dataplane::counters::PrefixRow;

/// Which prefixes get series of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All.
    All,
    /// Those with the most bytes, at most so many.
    Top(usize),
}

/// Words that select nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a number of prefixes, or `all`")]
pub struct NotASelection;

impl FromStr for Selection {
    type Err = NotASelection;

    fn from_str(text: &str) -> Result<Self, NotASelection> {
        match text {
            "all" => Ok(Self::All),
            number => number.parse().map(Self::Top).map_err(|_| NotASelection),
        }
    }
}

impl Selection {
    /// Leaves the selected rows, in order of prefix.
    pub(super) fn keep(self, rows: &mut Vec<PrefixRow>) {
        let Self::Top(most) = self else { return };
        if most == 0 {
            rows.clear();
        } else if most < rows.len() {
            let busiest = |row: &PrefixRow| Reverse(row.to.bytes + row.from.bytes);
            rows.select_nth_unstable_by_key(most, busiest);
            rows.truncate(most);
            rows.sort_by_key(|row| row.prefix);
        }
        rows.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::counters::Flow;

    fn rows(bytes: &[u64]) -> Vec<PrefixRow> {
        let row = |(i, bytes): (usize, &u64)| PrefixRow {
            prefix: format!("2001:db8:{i:x}::/64").parse().unwrap(),
            to: Flow {
                packets: 1,
                bytes: *bytes,
            },
            from: Flow::default(),
        };
        bytes.iter().enumerate().map(row).collect()
    }

    fn kept(selection: &str, bytes: &[u64]) -> Vec<u64> {
        let mut rows = rows(bytes);
        selection.parse::<Selection>().unwrap().keep(&mut rows);
        rows.iter().map(|row| row.to.bytes).collect()
    }

    #[test]
    fn the_busiest_stay_in_order_of_prefix() {
        let bytes = [5, 900, 7, 800, 1];
        assert_eq!(kept("2", &bytes), [900, 800]);
        assert_eq!(kept("3", &bytes), [900, 7, 800]);
        assert_eq!(kept("5", &bytes), bytes);
        assert_eq!(kept("9", &bytes), bytes);
        assert_eq!(kept("all", &bytes), bytes);
        assert!(kept("0", &bytes).is_empty());
        assert!("some".parse::<Selection>().is_err());
    }
}
