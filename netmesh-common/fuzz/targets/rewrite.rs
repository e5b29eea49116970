//! Any rewrite of any bytes changes what it is told to, and nothing else.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netmesh_common_fuzz::rewrite(data));
