//! The tree in front of the trie: made, asked by the programs, made again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use aya::maps::lpm_trie::Key;

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use ipnet::{IpNet, Ipv6Net};
use netmesh_common::intervals::{ASK, NO_ROUTE, Span, order, sweep};
use netmesh_common::lines::key_of;
use netmesh_common::table::{FibEntry, Origin, PrefixKey};
use proptest::prelude::*;

use super::lab::{alone, facts, here, veth};
use crate::dataplane::edit::{Change, edit};
use crate::dataplane::route::prefix_key;
use crate::dataplane::{Instance, View};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::{FibRoute, Hook, Port, Sources};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn put(instance: &mut Instance, prefix: IpNet, route: &FibRoute) {
    // The route names no device.
    let nothing = NamespaceFacts::default();
    instance
        .put_route(prefix, Origin::Static, route, &nothing)
        .unwrap();
}

fn open() -> Instance {
    Instance::open(here()).unwrap().unwrap()
}

/// Fates that the program's counters tell apart.
const FATES: [FibRoute; 3] = [FibRoute::Blackhole, FibRoute::Punt, FibRoute::Local];

/// What the attached program makes of packets.
struct Asked {
    view: View,
    program: Xdp,
    facts: NamespaceFacts,
}

impl Asked {
    fn new() -> Self {
        let view = View::open(here()).unwrap().unwrap();
        let path = view.path().join("progs").join("netmesh_xdp");
        let program = Xdp::from_pin(path, XdpAttachType::Interface).unwrap();
        let facts = facts();
        Self {
            view,
            program,
            facts,
        }
    }

    /// Why the next packets were dropped or left to the kernel, since ever.
    fn counted(&self) -> BTreeMap<&'static str, u64> {
        let rows = self.view.port_counters(&self.facts).unwrap();
        let row = rows.into_iter().find(|row| row.port == "p0").unwrap();
        let reasons = row.punted.into_iter().chain(row.dropped);
        reasons.map(|row| (row.reason, row.packets)).collect()
    }

    fn ask(&self, address: IpAddr) -> &'static str {
        let before = self.counted();
        let device = &self.facts.devices["p0"];
        let mut frame = device.mac.unwrap().to_vec();
        frame.extend([2, 0, 0, 0, 0, 1]);
        match address {
            IpAddr::V6(to) => {
                let from: Ipv6Addr = "2a02:ffff::1".parse().unwrap();
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
                frame.extend(from.octets());
                frame.extend(to.octets());
                frame.extend([0, 9, 0, 9, 0, 8, 0, 0]);
            }
            IpAddr::V4(to) => {
                let mut header = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 9, 9, 9, 9];
                header.extend(to.octets());
                let words = header
                    .chunks(2)
                    .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
                let sum: u32 = words.sum();
                let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend([8, 0]);
                frame.extend(header);
                frame.extend([0, 9, 0, 9, 0, 8, 0, 0]);
            }
        }
        let mut context = [0_u8; 24];
        context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&device.ifindex.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        self.program.test_run(options).unwrap();
        let now = self.counted();
        let more = now
            .into_iter()
            .find(|(reason, count)| before.get(reason) != Some(count));
        more.unwrap().0
    }
}

fn word(fate: Option<&FibRoute>) -> &'static str {
    match fate {
        Some(FibRoute::Blackhole) => "blackhole",
        Some(FibRoute::Local) => "local",
        Some(_) => "action",
        None => "no_route",
    }
}

/// The longest prefix of these that holds an address.
fn longest(table: &BTreeMap<IpNet, FibRoute>, address: IpAddr) -> Option<&FibRoute> {
    let here = table.iter().filter(|(prefix, _)| prefix.contains(&address));
    let longest = here.max_by_key(|(prefix, _)| prefix.prefix_len());
    longest.map(|(_, fate)| fate)
}

fn key(address: IpAddr) -> u64 {
    key_of(&address.into()).unwrap()
}

#[test]
fn the_programs_ask_the_tree_and_are_told_the_truth() {
    alone(|| {
        veth("p0", "p1");
        let mut instance = Instance::create("one", here()).unwrap();
        let port = Port::new(Hook::Xdp, Sources::Any);
        instance.attach("p0", &port, &facts()).unwrap();
        let mut table = BTreeMap::new();
        for n in 0..400_usize {
            let fate = FATES[n % 3].clone();
            table.insert(net(&format!("2a02:{:x}::/32", 0x1800 + n)), fate.clone());
            table.insert(net(&format!("2a02:1800:{n:x}::/48")), fate.clone());
            table.insert(net(&format!("2a02:1800:0:{n:x}::/64")), fate.clone());
            table.insert(net(&format!("10.{}.0.0/16", n % 256)), fate);
        }
        let routes: Vec<_> = table.clone().into_iter().collect();
        instance
            .put_routes(&routes, Origin::Static, &facts(), |_| {})
            .unwrap();
        assert_eq!(instance.trees.valid(), None, "until the writer is done");
        drop(instance);
        assert!(open().trees.valid().is_some());
        let asked = Asked::new();
        let addresses: Vec<IpAddr> = [
            "2a02:1800:5::1",
            "2a02:1800:0:5::1",
            "2a02:1800:0:fff::1",
            "2a02:1907::1",
            "2a02:1806::1",
            "2a02:1700::1",
            "2a03::1",
            "10.7.1.1",
            "11.0.0.1",
            "2a02:1800:7:7::9",
            "2a02:1800:ffff::1",
        ]
        .map(|text| text.parse().unwrap())
        .into();
        let check = |table: &BTreeMap<IpNet, FibRoute>, what: &str| {
            for address in &addresses {
                let wanted = word(longest(table, *address));
                assert_eq!(asked.ask(*address), wanted, "{address} {what}");
            }
        };
        check(&table, "at first");
        // One at a time: each makes a tree of the tree before.
        let steps = [
            ("2a02:1800:5::/48", None),
            ("2a02:1800::/32", None),
            ("::/0", Some(FibRoute::Blackhole)),
            ("2a02:1800:7:7::9/128", Some(FibRoute::Local)),
            ("2a02:1800:0:5::1/128", Some(FibRoute::Blackhole)),
            ("2a02:1800::/40", Some(FibRoute::Local)),
            ("2a02:1800:0:5::1/128", None),
            ("2a02:1800:7:7::/64", Some(FibRoute::Punt)),
            ("2a02:1800:7:7::9/128", None),
            ("0.0.0.0/0", Some(FibRoute::Blackhole)),
            ("::/0", None),
            ("2a02:1800:0:5::/64", None),
            ("10.7.0.0/16", None),
            ("2a02:1800::/32", Some(FibRoute::Punt)),
        ];
        for (prefix, fate) in steps {
            let mut instance = open();
            let prefix = net(prefix);
            match fate {
                Some(fate) => {
                    put(&mut instance, prefix, &fate);
                    table.insert(prefix, fate);
                }
                None => {
                    instance.remove_route(prefix, Origin::Static).unwrap();
                    table.remove(&prefix);
                }
            }
            check(&table, "while no tree is asked");
            drop(instance);
            let instance = open();
            assert!(instance.trees.valid().is_some());
            check(&table, &format!("after {prefix}"));
            let keys: Vec<u64> = addresses.iter().map(|address| key(*address)).collect();
            let said = instance.tree_says(&keys).unwrap();
            for (address, said) in addresses.iter().zip(said) {
                let whole = prefix_key(IpNet::from(*address));
                let trie = instance.read_trie(&whole).unwrap();
                let trie = trie.map_or(NO_ROUTE, |entry| entry.word());
                assert!(said == trie || said == ASK, "{address} {said:x} {trie:x}");
            }
        }
        // It is the tree that answers: behind the writer's back the trie is made to say nothing.
        let mut instance = open();
        let prefix = prefix_key(net("2a02:1907::/32"));
        let removed = instance.maps().fib6.remove(&Key::new(32, prefix.address));
        removed.unwrap();
        let address = "2a02:1907::1".parse().unwrap();
        assert_eq!(asked.ask(address), word(longest(&table, address)));
    });
}

/// A writer that is killed leaves no tree, and right answers; the next one makes one.
#[test]
fn the_next_writer_makes_the_tree_of_a_killed_one() {
    alone(|| {
        let mut instance = Instance::create("one", here()).unwrap();
        let routes: Vec<_> = (0..300)
            .map(|n| (net(&format!("2a02:{:x}::/32", 0x1800 + n)), FibRoute::Punt))
            .collect();
        instance
            .put_routes(&routes, Origin::Static, &facts(), |_| {})
            .unwrap();
        drop(instance);
        let mut instance = open();
        let keys = [0x2a02_1805_0000_0000, 0x2a02_2800_0000_0000];
        assert!(instance.tree_says(&keys).unwrap()[1] == NO_ROUTE);
        put(&mut instance, net("2a02:2800::/32"), &FibRoute::Punt);
        assert_eq!(instance.trees.valid(), None);
        instance.torn = true;
        drop(instance);
        // It mends the tables when it opens them, and has nothing else to do.
        drop(open());
        let instance = open();
        let said = instance.tree_says(&keys).unwrap();
        assert!(said.iter().all(|word| FibEntry::from_word(*word).is_some()));
    });
}

#[test]
fn few_prefixes_have_no_tree() {
    alone(|| {
        let mut instance = Instance::create("one", here()).unwrap();
        for n in 0..200 {
            put(
                &mut instance,
                net(&format!("10.{n}.0.0/16")),
                &FibRoute::Punt,
            );
        }
        drop(instance);
        assert_eq!(open().trees.valid(), None);
        let mut instance = open();
        for n in 0..100 {
            put(
                &mut instance,
                net(&format!("11.{n}.0.0/16")),
                &FibRoute::Punt,
            );
        }
        drop(instance);
        assert!(open().trees.valid().is_some());
    });
}

fn entry(prefix: &PrefixKey, next_hop: u32) -> u64 {
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

fn tables() -> impl Strategy<Value = BTreeMap<IpNet, u32>> {
    let some = prop::sample::select(vec![0x00_u8, 0x2a, 0x80, 0xfe]);
    let one = (some.clone(), 0..3_u8, some, 0..=70_u8, 1..4_u32);
    let one = one.prop_map(|(a, b, c, length, next_hop)| {
        let address = Ipv6Addr::from([a, b, c, 0, c, 0, 0, b, 0, 0, 0, 0, 0, 0, 0, b]);
        let prefix = Ipv6Net::new(address, length).unwrap().trunc();
        (IpNet::from(prefix), next_hop)
    });
    prop::collection::vec(one, 0..60).prop_map(|list| list.into_iter().collect())
}

fn spans(table: &BTreeMap<IpNet, u32>) -> Vec<Span> {
    let prefixes = table.iter().map(|(prefix, hop)| (prefix_key(*prefix), hop));
    let mut spans: Vec<Span> = prefixes
        .filter_map(|(prefix, hop)| Span::new(&prefix, entry(&prefix, *hop)))
        .collect();
    spans.sort_unstable_by_key(order);
    spans.dedup_by_key(|span| order(span));
    spans
}

fn intervals(spans: &[Span]) -> Vec<(u64, u64)> {
    let mut list = Vec::new();
    sweep(spans, |start, word| list.push((start, word)));
    list
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A list that is changed is the list made anew.
    #[test]
    fn changes_make_what_all_would(before in tables(), more in tables(), gone in any::<u64>()) {
        let mut after = before.clone();
        let mut changed = Vec::new();
        for (n, prefix) in before.keys().enumerate() {
            if gone >> (n % 64) & 1 == 1 {
                after.remove(prefix);
                changed.push(*prefix);
            }
        }
        for (prefix, hop) in more.iter().step_by(3) {
            after.insert(*prefix, hop + 7);
            changed.push(*prefix);
        }
        let there = spans(&after);
        let mut changes: Vec<Change> = Vec::new();
        for prefix in changed {
            let Some(span) = Span::new(&prefix_key(prefix), NO_ROUTE) else {
                continue;
            };
            let own = there.iter().find(|other| order(other) == order(&span));
            let around = there.iter().filter(|other| {
                other.length < span.length && other.start <= span.start && other.end >= span.end
            });
            let around = around.max_by_key(|other| other.length);
            let word = own.or(around).map_or(NO_ROUTE, |said| said.word);
            if changes.iter().all(|change| order(&change.span) != order(&span)) {
                let span = Span { word, ..span };
                changes.push(Change { span, gone: own.is_none() });
            }
        }
        let list = edit(intervals(&spans(&before)).into_iter(), &changes);
        prop_assert_eq!(list, intervals(&there));
    }
}
