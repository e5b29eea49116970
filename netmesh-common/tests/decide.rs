//! The decision as a library: the table of cases, and what holds for any bytes at all.

mod cases;

use cases::packet::inside;
use cases::reference::{Hook, run};
use cases::{Input, Outcome, all, lab};
use netmesh_common::table::Port;
use netmesh_common::verdict::{DropReason, PuntReason};
use proptest::prelude::*;

#[test]
fn every_case_has_its_outcome() {
    let mut wrong = Vec::new();
    for case in all() {
        let router = lab::router(case.flags);
        let hooks = [(Hook::Tc, Some(&case.tc)), (Hook::Xdp, case.xdp.as_ref())];
        for (hook, wanted) in hooks {
            let Some(wanted) = wanted else { continue };
            let found = run(&router, case.flags, &case.input, hook);
            if &found != wanted {
                wrong.push(format!(
                    "{hook:?} {}:\n  {found:?}\n  {wanted:?}",
                    case.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_reason_a_packet_can_cause_is_caused_by_a_case() {
    let outcomes: Vec<Outcome> = all()
        .into_iter()
        .flat_map(|case| [Some(case.tc), case.xdp])
        .flatten()
        .collect();
    for &reason in PuntReason::ALL {
        // Hosts find out before they ask.
        let before = reason == PuntReason::NotAPort;
        assert!(
            before || outcomes.contains(&Outcome::Punt(reason)),
            "{reason:?}"
        );
    }
    for &reason in DropReason::ALL {
        let failure = reason == DropReason::RewriteFailed;
        assert!(
            failure || outcomes.contains(&Outcome::Drop(reason)),
            "{reason:?}"
        );
    }
}

/// Bytes near a case, and the port's flags.
fn mutated() -> impl Strategy<Value = (u32, Input)> {
    let cases = all();
    let flags = prop_oneof![
        Just(0),
        Just(Port::SOURCES_BEHIND),
        Just(Port::EXTERNAL),
        Just(Port::LAYER3),
    ];
    (
        0..cases.len(),
        prop::collection::vec((0..64_usize, any::<u8>()), 0..4),
        0..80_usize,
        flags,
    )
        .prop_map(move |(index, changes, cut, flags)| {
            let mut input = cases[index].input.clone();
            for (at, byte) in changes {
                if let Some(place) = input.bytes.get_mut(at) {
                    *place = byte;
                }
            }
            let keep = input.bytes.len().saturating_sub(cut);
            input.bytes.truncate(keep);
            (flags, input)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), flags in 0..8_u32) {
        let input = Input { bytes, ..Input::default() };
        for hook in [Hook::Tc, Hook::Xdp] {
            run(&lab::router(flags), flags, &input, hook);
        }
    }

    /// Whatever leaves is one hop older, otherwise the same from the IP header on, and its
    /// checksum is right.
    #[test]
    fn what_leaves_is_one_hop_older((flags, input) in mutated()) {
        for hook in [Hook::Tc, Hook::Xdp] {
            // Frames have a header in XDP.
            let flags = if hook == Hook::Xdp { flags & !Port::LAYER3 } else { flags };
            let outcome = run(&lab::router(flags), flags, &input, hook);
            let Outcome::Forward { bytes, ifindex, .. } = outcome else { continue };
            prop_assert_ne!(ifindex, Some(lab::INGRESS));
            let layer3 = flags & Port::LAYER3 != 0;
            let before = if layer3 { &input.bytes } else { inside(&input.bytes) };
            let headless = layer3 && ifindex == Some(lab::TUNNEL);
            let after = if headless { &bytes } else { inside(&bytes) };
            let wanted = cases::packet::routed(before.to_vec());
            prop_assert_eq!(after, &wanted[..after.len()]);
        }
    }
}
