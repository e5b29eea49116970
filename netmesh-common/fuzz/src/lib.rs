//! What the fuzz targets do with their bytes.

#[path = "../../tests/cases/mod.rs"]
mod cases;
#[path = "../../tests/grammar/mod.rs"]
mod grammar;
#[path = "../../tests/model/mod.rs"]
mod model;

mod headers;
mod rewrite;

use cases::reference::{Hook, run};
use cases::{Input, all, lab};
use grammar::{Dice, hex, packet, world};
use model::expect;
use netmesh_common::table::Port;

pub use headers::headers;
pub use rewrite::rewrite;

/// Bytes in front of the packet: the port's flags, the segment size, the segments.
const FRONT: usize = 5;

/// Port flags, GSO facts and a packet, through the lab's router.
pub fn decide(data: &[u8]) {
    let Some((&[flags, size0, size1, segments0, segments1], bytes)) = data.split_first_chunk()
    else {
        return;
    };
    let flags = u32::from(flags % 8);
    let input = Input {
        bytes: bytes.to_vec(),
        segment_size: u32::from(u16::from_be_bytes([size0, size1])),
        segments: u32::from(u16::from_be_bytes([segments0, segments1])),
    };
    agree(&lab::router(flags), flags, &input);
}

/// Every byte is a choice of the grammar.
pub fn tables(data: &[u8]) {
    let mut dice = Dice::Bytes(data);
    let world = world(&mut dice);
    let input = packet(&mut dice, &world);
    agree(&world.router, world.flags, &input);
}

/// Decision and model have the same outcome, on every hook the packet can come in through.
fn agree(router: &cases::reference::Router, flags: u32, input: &Input) {
    let frames = flags & Port::LAYER3 == 0 && input.segment_size == 0;
    for hook in [Hook::Xdp, Hook::Tc] {
        if hook == Hook::Xdp && !frames {
            continue;
        }
        let found = run(router, flags, input, hook);
        let wanted = expect(router, flags, input, hook);
        assert!(
            found == wanted,
            "{hook:?}, port flags {flags}, segments {} of {}:\n{}the decision: {found:?}\n\
             the model: {wanted:?}\n{}",
            input.segments,
            input.segment_size,
            hex(&input.bytes),
            grammar::routes(router)
        );
    }
}

/// The table of cases in the targets' own forms: target, name, bytes.
pub fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for case in all() {
        let name = case.name.replace(|letter: char| !letter.is_alphanumeric(), "-");
        let mut bytes = vec![case.flags as u8];
        bytes.extend((case.input.segment_size as u16).to_be_bytes());
        bytes.extend((case.input.segments as u16).to_be_bytes());
        assert_eq!(bytes.len(), FRONT);
        bytes.extend(&case.input.bytes);
        seeds.push(("decide", name.clone(), bytes));
        seeds.push(("headers", name.clone(), [&[14][..], &case.input.bytes].concat()));
        seeds.push(("rewrite", name, [&[0; 32][..], &case.input.bytes].concat()));
    }
    for seed in 0..64 {
        let bytes = Dice::Seed(seed).bytes(1024);
        seeds.push(("tables", format!("random-{seed}"), bytes));
    }
    seeds
}
