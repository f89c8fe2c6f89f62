//! Frames of HTTP/2, and what else a client might send: its trailers are marked the same however they are cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((cut, bytes)) = data.split_first() {
        stellane_core::connection::fuzzing::trailer_marks(bytes, usize::from(*cut).max(1));
    }
});
