use std::collections::VecDeque;

use super::waiting::Who;
use crate::Permit;

/// A request that was let in.
#[derive(Default)]
pub(super) struct Job {
    pub(super) permit: Option<Permit>,
    pub(super) second: Option<Permit>,
    pub(super) generation: u32,
    pub(super) arrived: f64,
    pub(super) work: f64,
    pub(super) attempt: u32,
    pub(super) client: usize,
    pub(super) who: Who,
    pub(super) wanted: bool,
    pub(super) lost: bool,
}

/// What the [`Others`](super::Others) need to their last byte.
#[derive(Default)]
pub(super) struct Seats {
    pub(super) taken: usize,
    pub(super) queue: VecDeque<usize>,
}
