//! The header of a proxy: not a byte of what comes behind it is taken.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stellane_core::connection::fuzzing::proxy_header(data));
