//! Which member of a group a flow is sent to.

use netmesh_common::class::Address;
use netmesh_common::group::{Group, Member};
use netmesh_common::table::{FibEntry, Link, NextHop, Port};
use netmesh_common::view::TableView;

/// Three next hops.
struct Hops([NextHop; 3]);

impl TableView for Hops {
    fn lookup(&self, _: &Address) -> Option<FibEntry> {
        None
    }

    fn next_hop(&self, index: u32) -> Option<NextHop> {
        self.0.get(index as usize - 1).copied()
    }

    fn port(&self, _: u32) -> Option<Port> {
        None
    }

    fn sub_interface(&self, _: u32, _: u16) -> Option<u32> {
        None
    }
}

fn group() -> (Group, Hops) {
    let mut group = Group {
        count: 3,
        ..Group::default()
    };
    for (n, bucket) in group.buckets.iter_mut().enumerate() {
        *bucket = (n % 3) as u8;
    }
    for (n, member) in (1..).zip(&mut group.members[..3]) {
        *member = Member {
            next_hop: n,
            ifindex: n,
            weight: 1,
            ..Member::default()
        };
    }
    let hop = |n: u8| NextHop {
        link: Link::resolved([2, 0, 0, 0, 0, n]).0,
        ifindex: u32::from(n),
        ..NextHop::default()
    };
    (group, Hops([hop(1), hop(2), hop(3)]))
}

fn all(group: &Group, hops: &Hops) -> Vec<u32> {
    (0..1 << 16).map(|hash| group.choose(hash, hops)).collect()
}

#[test]
fn one_that_is_withdrawn_gets_no_flow_and_gives_its_own_to_both_others() {
    let (group, mut hops) = group();
    let before = all(&group, &hops);
    hops.0[1].flags |= NextHop::WITHDRAWN;
    let after = all(&group, &hops);
    for (old, new) in before.iter().zip(&after) {
        assert!(old == new && *old != 2 || *old == 2 && *new != 2);
    }
    for other in [1, 3] {
        let got = before
            .iter()
            .zip(&after)
            .filter(|(old, new)| **old == 2 && **new == other);
        assert!(got.count() > 1 << 12, "{other}");
    }
    hops.0[1].flags = 0;
    assert_eq!(all(&group, &hops), before, "as it was");
}

#[test]
fn where_no_other_is_left_one_that_is_withdrawn_is_better_than_none() {
    let (group, mut hops) = group();
    hops.0
        .iter_mut()
        .for_each(|hop| hop.flags |= NextHop::WITHDRAWN);
    for (hash, next_hop) in (0_u64..).zip(all(&group, &hops)) {
        assert_eq!(next_hop, u32::from(hash as u8) % 3 + 1, "its own");
    }
}
