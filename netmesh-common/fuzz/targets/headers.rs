//! Any bytes at any offset: the parsers read what the model reads.
#![no_main]

use netmesh_common_fuzz::{headers, plant};

libfuzzer_sys::fuzz_target!(init: plant("headers"), |data: &[u8]| headers(data));
