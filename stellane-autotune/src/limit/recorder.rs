//! What each thread counts by itself.

use std::sync::atomic::{AtomicU32, AtomicU64};

use super::histogram::Shard;

/// Requests in flight by the generation that they came with: of each thread those it let in, less those it let out,
/// so that only the sums of all threads mean something. The last are those that have been set aside.
pub(super) type Ages = [AtomicU64; GENERATIONS + 1];

/// Who is still there when so many generations have come and gone is set aside.
pub(super) const GENERATIONS: usize = 4;

#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) latencies: Shard,
    /// Answers that count but were not timed.
    pub(super) untimed: AtomicU64,
    /// How many of these there were when the window began, written by who holds the control.
    pub(super) untimed_then: AtomicU64,
    /// Counts admissions, to choose which are timed; it may lose some, so it needs no lock.
    pub(super) turn: AtomicU32,
    pub(super) overloads: AtomicU64,
    pub(super) ignored: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) ages: Ages,
    /// Requests that are answered and hold a place, whose bodies are under way: a difference.
    pub(super) streaming: AtomicU64,
    /// How many were answered, or gave a place back without that, and the sum of those in flight when they did.
    pub(super) answered: AtomicU64,
    pub(super) in_flight_then: AtomicU64,
    /// Places that came back and were kept.
    pub(super) kept: AtomicU64,
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self {
            latencies: Shard::new(),
            untimed: AtomicU64::new(0),
            untimed_then: AtomicU64::new(0),
            turn: AtomicU32::new(0),
            overloads: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            ages: Ages::default(),
            streaming: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            in_flight_then: AtomicU64::new(0),
            kept: AtomicU64::new(0),
        }
    }
}
