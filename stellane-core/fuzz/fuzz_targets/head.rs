//! The head of a simple request, read with the fields that the connection sent before and without.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // What one read holds after the other: a byte that no head has stands between them.
    stellane_core::connection::fuzzing::heads(data.split(|byte| *byte == 0));
});
