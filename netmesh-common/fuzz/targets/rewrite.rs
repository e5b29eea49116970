//! Any rewrite of any bytes changes what it is told to, and nothing else.
#![no_main]

use netmesh_common_fuzz::{plant, rewrite};

libfuzzer_sys::fuzz_target!(init: plant("rewrite"), |data: &[u8]| rewrite(data));
