//! The decision against the model: random packets through random routers.

mod cases;
mod grammar;
mod model;

use std::collections::BTreeMap;
use std::env;

use cases::reference::{Hook, run};
use cases::{Input, Outcome, lab, untagged};
use grammar::{Dice, World, hex, packet, routes, world};
use model::expect;
use netmesh_common::table::Port;

/// Routers, and packets through each, in an ordinary run.
const WORLDS: u64 = 2000;
const PACKETS: u64 = 250;

#[test]
fn the_model_has_the_outcome_of_every_case() {
    for case in untagged() {
        let router = lab::router(case.flags);
        let tc = expect(&router, case.flags, &case.input, Hook::Tc);
        assert_eq!(tc, case.tc, "TC: {}", case.name);
        if let Some(xdp) = case.xdp {
            let found = expect(&router, case.flags, &case.input, Hook::Xdp);
            assert_eq!(found, xdp, "XDP: {}", case.name);
        }
    }
}

#[test]
fn decision_and_model_agree_on_random_packets() {
    // Begins with another router, or with the one a difference was told with.
    let first = env::var("NETMESH_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut seen = BTreeMap::new();
    for seed in first..first + WORLDS {
        let mut dice = Dice::Seed(seed);
        let world = world(&mut dice);
        for number in 0..PACKETS {
            let input = packet(&mut dice, &world);
            for hook in hooks(&world, &input) {
                let wanted = expect(&world.router, world.flags, &input, hook);
                let found = run(&world.router, world.flags, &input, hook);
                assert!(
                    found == wanted,
                    "{}",
                    told(seed, number, hook, &world, &input, &found, &wanted)
                );
                *seen.entry(label(&found)).or_insert(0_u64) += 1;
            }
        }
    }
    println!("{seen:#?}");
    // What the grammar does not reach, nobody has compared.
    let reasons = untagged().into_iter().map(|case| label(&case.tc));
    for reason in reasons {
        let often = seen.get(&reason).copied().unwrap_or(0);
        assert!(often >= 20, "{reason}: only {often} packets");
    }
}

/// The hooks a packet can come in through: XDP knows frames only, and no GSO packets.
fn hooks(world: &World, input: &Input) -> Vec<Hook> {
    let frames = world.flags & Port::LAYER3 == 0 && input.segment_size == 0;
    match frames {
        true => vec![Hook::Xdp, Hook::Tc],
        false => vec![Hook::Tc],
    }
}

fn label(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Forward { .. } => "forward".to_owned(),
        Outcome::Punt(reason) => format!("punt {}", reason.name()),
        Outcome::Drop(reason) => format!("drop {}", reason.name()),
        Outcome::NotOurs => "not ours".to_owned(),
    }
}

fn told(
    seed: u64,
    number: u64,
    hook: Hook,
    world: &World,
    input: &Input,
    found: &Outcome,
    wanted: &Outcome,
) -> String {
    let of = |outcome: &Outcome| match outcome {
        Outcome::Forward { bytes, .. } => format!("{outcome:?}\n{}", hex(bytes)),
        other => format!("{other:?}"),
    };
    format!(
        "packet {number} of NETMESH_SEED={seed}, {hook:?}, port flags {}, segments {} of {}:\n{}\
         the decision: {}\nthe model: {}\n{}",
        world.flags,
        input.segments,
        input.segment_size,
        hex(&input.bytes),
        of(found),
        of(wanted),
        routes(&world.router),
    )
}
