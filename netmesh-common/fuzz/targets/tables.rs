//! Routers and packets of the grammar, each of its choices the fuzzer's: decision and model agree.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netmesh_common_fuzz::tables(data));
