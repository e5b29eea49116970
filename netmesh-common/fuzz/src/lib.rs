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
use cases::{Case, Input, all, lab};
use grammar::{Dice, hex, packet, world};
use model::expect;
use netmesh_common::group;
use netmesh_common::table::Port;

pub use headers::headers;
pub use rewrite::rewrite;

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
        tag: None,
    };
    let mut router = lab::router(flags);
    // The model has no opinion of which member of a group a flow goes by.
    router
        .fib
        .retain(|(_, entry)| group::of(entry.next_hop).is_none());
    agree(&router, flags, &input);
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

/// Writes a target's first corpus, made of the table of cases, to the folder that `NETMESH_SEEDS`
/// names; does nothing where it names none.
pub fn plant(target: &str) {
    let Some(folder) = std::env::var_os("NETMESH_SEEDS") else {
        return;
    };
    let folder = std::path::PathBuf::from(folder);
    for (name, bytes) in seeds(target) {
        std::fs::write(folder.join(name), bytes).expect("the folder of NETMESH_SEEDS is there");
    }
}

/// The table of cases in a target's own form: name and bytes.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    if target == "tables" {
        let seed = |seed| (format!("random-{seed}"), Dice::Seed(seed).bytes(2048));
        return (0..64).map(seed).collect();
    }
    let seed = |case: Case| {
        let name = case
            .name
            .replace(|letter: char| !letter.is_alphanumeric(), "-");
        let Input {
            bytes,
            segment_size,
            segments,
            ..
        } = case.input;
        let mut front = match target {
            "decide" => {
                let [_, _, size0, size1] = segment_size.to_be_bytes();
                let [_, _, segments0, segments1] = segments.to_be_bytes();
                vec![case.flags as u8, size0, size1, segments0, segments1]
            }
            "headers" => vec![14],
            _ => vec![0; 32],
        };
        front.extend(bytes);
        (name, front)
    };
    all().into_iter().map(seed).collect()
}
