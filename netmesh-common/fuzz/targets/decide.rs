//! Any bytes through the lab's router: decision and model agree.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netmesh_common_fuzz::decide(data));
