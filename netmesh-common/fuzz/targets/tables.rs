//! Routers and packets of the grammar, each of its choices the fuzzer's: decision and model agree.
#![no_main]

use netmesh_common_fuzz::{plant, tables};

libfuzzer_sys::fuzz_target!(init: plant("tables"), |data: &[u8]| tables(data));
