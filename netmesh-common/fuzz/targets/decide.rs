//! Any bytes through the lab's router: decision and model agree.
#![no_main]

use netmesh_common_fuzz::{decide, plant};

libfuzzer_sys::fuzz_target!(init: plant("decide"), |data: &[u8]| decide(data));
