//! Any bytes at any offset: the parsers read what the model reads.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| netmesh_common_fuzz::headers(data));
