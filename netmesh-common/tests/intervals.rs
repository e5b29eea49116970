//! The tree says of every key what the longest prefix says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;

use netmesh_common::class::Address;
use netmesh_common::intervals::{
    ASK, HEADER, KEYS, Memory, NO_ROUTE, Shape, Span, order, place_of, sweep,
};
use netmesh_common::lines::{key_of, key_range};
use netmesh_common::table::{FibEntry, PrefixKey};
use proptest::prelude::*;

/// The word of a prefix with this next hop.
fn word(prefix: &PrefixKey, next_hop: u32) -> u64 {
    let entry = FibEntry {
        next_hop,
        counter: next_hop,
        action: 1,
        prefix_length: prefix.length,
        origin: 3,
        reserved: [0; 5],
    };
    entry.word()
}

/// Host bits are cut off.
fn prefix(address: &Address, length: u8) -> PrefixKey {
    let (upper, lower, family) = address.halves();
    let bits = u128::from(upper) << 64 | u128::from(lower);
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    PrefixKey {
        address: (bits & mask).to_be_bytes(),
        family: family as u8,
        length,
        reserved: [0; 2],
    }
}

/// Addresses that prefixes have in common, and the ends of everything.
fn address() -> impl Strategy<Value = Address> {
    let some = prop::sample::select(vec![0x00_u8, 0x2a, 0x80, 0xfe, 0xff]);
    let six = (
        some.clone(),
        0..4_u8,
        some.clone(),
        0..3_u8,
        some.clone(),
        any::<u8>(),
    );
    prop_oneof![
        six.prop_map(|(a, b, c, d, e, f)| {
            let mut address = [0; 16];
            address[..8].copy_from_slice(&[a, b, c, d, e, e, e, f]);
            address[15] = f;
            IpAddr::from(address).into()
        }),
        (some.clone(), 0..3_u8, some, any::<u8>())
            .prop_map(|(a, b, c, d)| IpAddr::from([a, b, c, d]).into()),
        any::<[u8; 16]>().prop_map(|address| IpAddr::from(address).into()),
    ]
}

fn tables() -> impl Strategy<Value = BTreeMap<PrefixKey, u32>> {
    let one = (address(), any::<u8>(), 1..5_u32).prop_map(|(address, length, next_hop)| {
        let most = if matches!(address, Address::V6(..)) {
            129
        } else {
            33
        };
        (prefix(&address, length % most), next_hop)
    });
    prop::collection::vec(one, 0..120).prop_map(|list| list.into_iter().collect())
}

/// What is to be said of a key: whether the trie must be asked, or the word of the longest prefix.
fn naive(table: &BTreeMap<PrefixKey, u32>, key: u64) -> u64 {
    let spans = table
        .iter()
        .filter_map(|(prefix, next_hop)| Span::new(prefix, word(prefix, *next_hop)));
    let here = spans.filter(|span| span.start <= place_of(key) && place_of(key) <= span.end);
    here.max_by_key(|span| span.length)
        .map_or(NO_ROUTE, |span| span.word)
}

/// What the longest prefix says of an address, bit by bit.
fn longest(table: &BTreeMap<PrefixKey, u32>, address: &Address) -> u64 {
    let host = prefix(
        address,
        if matches!(address, Address::V6(..)) {
            128
        } else {
            32
        },
    );
    let holds = |other: &PrefixKey| {
        other.family == host.family && prefix(address, other.length).address == other.address
    };
    let here = table.iter().filter(|(other, _)| holds(other));
    here.max_by_key(|(other, _)| other.length)
        .map_or(NO_ROUTE, |(other, next_hop)| word(other, *next_hop))
}

fn spans(table: &BTreeMap<PrefixKey, u32>) -> Vec<Span> {
    let spans = table.iter();
    let spans = spans.filter_map(|(prefix, next_hop)| Span::new(prefix, word(prefix, *next_hop)));
    let mut spans: Vec<Span> = spans.collect();
    spans.sort_unstable_by_key(order);
    spans.dedup_by_key(|span| order(span));
    spans
}

fn intervals(spans: &[Span]) -> Vec<(u64, u64)> {
    let mut list = Vec::new();
    sweep(spans, |start, word| list.push((start, word)));
    list
}

fn memory(shape: &Shape) -> Vec<AtomicU64> {
    (0..shape.lines() * KEYS)
        .map(|_| AtomicU64::new(7))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_tree_says_what_the_longest_prefix_says(table in tables(), keys in prop::collection::vec(address(), 60)) {
        let list = intervals(&spans(&table));
        prop_assert_eq!(list[0].0, 0);
        prop_assert!(list.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1));
        let shape = Shape::new(list.len()).unwrap();
        let words = memory(&shape);
        let tree = shape.fill(&words, list.iter().copied()).unwrap();
        prop_assert_eq!(tree.intervals().collect::<Vec<_>>(), list.clone());
        prop_assert_eq!(Shape::of_header(&shape.header()), Some(shape));
        for address in &keys {
            let Some(key) = key_of(address) else { continue };
            let said = tree.find(key);
            prop_assert!(said == ASK || said == longest(&table, address), "{:?}", address);
        }
        let ends = table.keys().filter_map(key_range).flat_map(|(start, end)| {
            [start.saturating_sub(1), start, end, end.saturating_add(1)]
        });
        let keys = keys.iter().filter_map(key_of).chain(ends).chain([0, u64::MAX - 2]);
        for key in keys {
            prop_assert_eq!(tree.find(key), naive(&table, key), "{:x}", key);
        }
    }
}

/// At every size that has a line, or a level, more than the one before.
#[test]
fn every_boundary_is_found() {
    let mut sizes = vec![
        1, 2, 7, 8, 9, 64, 71, 72, 73, 80, 81, 647, 648, 649, 5832, 5833,
    ];
    sizes.extend([52_488, 52_489, 400_000]);
    for size in sizes {
        let list: Vec<(u64, u64)> = (0..size).map(|n| (n * 3, n + 2)).collect();
        let shape = Shape::new(list.len()).unwrap();
        let words = memory(&shape);
        let tree = shape.fill(&words, list.iter().copied()).unwrap();
        for (start, word) in &list {
            for place in [*start, start + 1, start + 2] {
                let key = 2 * place + 1;
                assert_eq!(tree.find(key), *word, "{size} {key}");
            }
        }
        assert_eq!(tree.find(u64::MAX - 2), size + 1, "{size}");
        assert!(
            shape.lines() < list.len() / 8 * 9 / 4 + 4 + 2,
            "{}",
            shape.lines()
        );
    }
}

#[test]
fn memory_that_does_not_fit_is_refused() {
    let shape = Shape::new(9).unwrap();
    let words = memory(&shape);
    let list = || (0..9).map(|n| (n, n));
    assert!(shape.fill(&words, list()).is_some());
    assert!(shape.fill(&words[1..], list()).is_none());
    assert!(shape.fill(&words, list().take(8)).is_none());
    assert!(shape.fill(&words, (0..10).map(|n| (n, n))).is_none());
    assert!(Memory::open(&words[1..], shape).is_none());
    assert!(Shape::new(0).is_none() && Shape::new(1 << 27).is_none());
    assert_eq!(Shape::of_header(&[0; HEADER]), None);
    let mut header = shape.header();
    header[1] = 1;
    assert_eq!(Shape::of_header(&header), None);
    // A reader that is told of lines which are not there asks the trie.
    assert_eq!(Memory::open(&words, shape).unwrap().find(u64::MAX - 2), 8);
    assert_eq!(ASK, 1);
}
