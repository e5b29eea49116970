//! Changes of a list of intervals: a new tree is made of the old one's and of what has changed.

use netmesh_common::intervals::{ASK, ASK_LENGTH, NO_ROUTE, Span};
use netmesh_common::table::FibEntry;

/// A prefix that has come, is changed, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// What is said from now on: of the prefix, or where it is gone, of what it lies in.
    pub(super) span: Span,
    /// It is gone.
    pub(super) gone: bool,
}

/// The intervals after these changes, at most one for each prefix.
pub(super) fn edit(old: impl Iterator<Item = (u64, u64)>, changes: &[Change]) -> Vec<(u64, u64)> {
    let mut list = cut(old, changes);
    // What is gone first: it lays bare what its neighbours may cover.
    let (gone, there) = (
        changes.iter().filter(|change| change.gone),
        changes.iter().filter(|change| !change.gone),
    );
    for Change { span, gone } in gone.chain(there) {
        let from = list.partition_point(|(start, _)| *start < span.start);
        let inside = list.iter_mut().skip(from);
        for (_, word) in inside.take_while(|(start, _)| *start <= span.end) {
            let owner = length(*word);
            let own = Some(span.length);
            if owner == own || (!gone && owner < own) {
                *word = span.word;
            }
        }
    }
    list.dedup_by_key(|(_, word)| *word);
    list
}

/// The same intervals, with boundaries where the changes have theirs.
fn cut(old: impl Iterator<Item = (u64, u64)>, changes: &[Change]) -> Vec<(u64, u64)> {
    let ends = changes
        .iter()
        .flat_map(|change| [change.span.start, change.span.end.saturating_add(1)]);
    let mut cuts: Vec<u64> = ends.collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut cuts = cuts.into_iter().peekable();
    let mut list = Vec::with_capacity(old.size_hint().0 + 2 * changes.len());
    let mut before = NO_ROUTE;
    for (start, word) in old {
        while let Some(cut) = cuts.next_if(|cut| *cut < start) {
            list.push((cut, before));
        }
        cuts.next_if_eq(&start);
        list.push((start, word));
        before = word;
    }
    list.extend(cuts.map(|cut| (cut, before)));
    list
}

/// Length of the prefix that a word is said of; `None` for none.
fn length(word: u64) -> Option<u8> {
    match word {
        ASK => Some(ASK_LENGTH),
        word => FibEntry::from_word(word).map(|entry| entry.prefix_length),
    }
}
