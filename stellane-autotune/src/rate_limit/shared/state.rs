use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

/// What the thread tells.
#[derive(Debug)]
pub(super) struct State {
    pub(super) prefix: String,
    pub(super) is_there: AtomicBool,
    pub(super) trips: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) replicas: AtomicU32,
}
