//! What several examples share.

pub mod measure;

/// Hands memory that is free back to the system; the connection manager calls it when a wave of
/// connections has parked.
pub fn purge() {
    // SAFETY: it may be called from any thread at any time; it frees only what nobody uses.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
