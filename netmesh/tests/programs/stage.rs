//! Tallies of stage 1 that run over.

use std::sync::atomic::Ordering::SeqCst;

use aya::maps::HashMap;
use netmesh_common::lines::Direction;
use netmesh_common::lines::tally::{self, Tally};
use netmesh_common::table::{Port, PrefixCounters};

use super::alone;
use super::kernel::Kernel;
use crate::cases::reference::Hook;
use crate::cases::{Outcome, all, lab};

/// The prefix behind [`lab::C_SEGMENT`], as a key.
const SEGMENT: u64 = 0x2a02_1802_005e_0001;

/// The packet that brings a tally half way has all of it carried, and the next one starts anew.
#[test]
fn a_tally_is_carried_before_it_runs_over() {
    alone(|| {
        let cases = all();
        let towards = |outcome: &Outcome| match outcome {
            Outcome::Forward { to, .. } if to.counter == lab::C_SEGMENT => Some(*to),
            _ => None,
        };
        let case = cases
            .iter()
            .find(|case| {
                case.flags & Port::LAYER3 == 0 && case.xdp.as_ref().and_then(towards).is_some()
            })
            .unwrap();
        let one = case.xdp.as_ref().and_then(towards).unwrap();
        for (hook, before) in [
            (
                Hook::Xdp,
                Tally {
                    packets: (1 << 26) - 1,
                    bytes: 1000,
                },
            ),
            (
                Hook::Tc,
                Tally {
                    packets: 7,
                    bytes: (1 << 35) - 1,
                },
            ),
        ] {
            let mut kernel = Kernel::new();
            kernel.fill(&lab::router(case.flags));
            kernel.fill_stage_one(&lab::router(case.flags));
            let stage = kernel.stage.as_mut().unwrap();
            let mut slots = stage.slots.iter();
            let slot = *slots.find(|(_, c)| **c == lab::C_SEGMENT).unwrap().0;
            let word = stage.word(slot, Direction::To);
            word.store(before.packets << 36 | before.bytes, SeqCst);

            let mut out = [0; 4096];
            let mut held = Vec::new();
            for _ in 0..2 {
                match hook {
                    Hook::Xdp => drop(kernel.run_xdp(&case.input.bytes, &mut out)),
                    Hook::Tc => drop(kernel.run_tc(&case.input, &mut out)),
                }
                let stage = kernel.stage.as_ref().unwrap();
                held.push(stage.word(slot, Direction::To).load(SeqCst));
            }
            assert_eq!(held[0], 0, "{hook:?}");
            let second = Tally {
                packets: one.packets,
                bytes: one.bytes,
            };
            assert_eq!(tally::unpacked(held[1]), second, "{hook:?}");
            let carried: HashMap<_, u64, PrefixCounters> =
                kernel.object.map("CARRIED").unwrap().try_into().unwrap();
            let sum = carried.get(&SEGMENT, 0).unwrap();
            let wanted = PrefixCounters {
                to_packets: before.packets + one.packets,
                to_bytes: before.bytes + one.bytes,
                ..PrefixCounters::default()
            };
            assert_eq!(sum, wanted, "{hook:?}");
        }
    });
}
