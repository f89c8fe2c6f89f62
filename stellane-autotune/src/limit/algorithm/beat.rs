//! Slots of a wall clock, in which all limits that share a service do the same.

use std::time::Duration;

use crate::{clock::mix, limit::WallClock};

/// Which slot it is, and what is done in it.
#[derive(Debug, Clone)]
pub(super) struct Beat {
    wall: WallClock,
    slot: u64,
    /// In seconds.
    length: f64,
    is_late: bool,
    left: Duration,
    /// Of the clock, in nanoseconds.
    correction: i64,
}

/// A clock that is set by more, in nanoseconds, was not in step.
const SET: u64 = 100_000_000;
/// Seconds.
const SLOT: f64 = 0.2;
/// If that is less than so many latencies, a slot is four times as long, or sixteen times: limits that know the same service agree
/// on it, but for those that are on both sides of a step.
const LATENCIES: f64 = 2.5;
/// The part of a slot that shows the slot before, and clocks that are off.
const SETTLES: f64 = 0.35;
/// The part after which the next one is prepared.
const ENDS: f64 = 0.97;
/// From so many slots to as many later all look for the latency without a queue,
const PROBE_EVERY: u64 = 40;
/// those who have just come sooner, when others have just come as well,
const PROBE_SOON: u64 = 10;
/// for so many slots, the first of which is not measured.
const PROBE: u64 = 3;

impl Beat {
    pub(super) fn new(wall: WallClock) -> Self {
        Self {
            wall,
            slot: 0,
            length: SLOT,
            is_late: true,
            left: Duration::ZERO,
            correction: 0,
        }
    }

    /// Whether the clock has been set since this was asked.
    pub(super) fn is_set(&mut self) -> bool {
        let correction = self.wall.correction();
        let before = std::mem::replace(&mut self.correction, correction);
        correction.abs_diff(before) > SET
    }

    /// Goes to the slot that is about to begin, or is under way. For how long what happens tells nothing.
    pub(super) fn enter(&mut self, latency: f64) -> Duration {
        self.length = SLOT;
        while self.length < LATENCIES * latency {
            self.length *= 4.0;
        }
        let slots = self.wall.now().as_secs_f64() / self.length;
        let (mut slot, mut part) = (slots.floor(), slots.fract());
        if part > 0.9 {
            (slot, part) = (slot + 1.0, part - 1.0);
        }
        self.slot = slot as u64;
        self.is_late = part > SETTLES;
        let settles = (SETTLES - part).max(0.0);
        let left = (ENDS - part - settles).max(0.05);
        self.left = Duration::from_secs_f64(self.length * left);
        Duration::from_secs_f64(self.length * settles)
    }

    /// In seconds.
    pub(super) fn length(&self) -> f64 {
        self.length
    }

    /// How long the window of this slot is.
    pub(super) fn left(&self) -> Duration {
        self.left
    }

    /// Too little of it is left to measure anything.
    pub(super) fn is_late(&self) -> bool {
        self.is_late
    }

    pub(super) fn is_second(&self) -> bool {
        self.slot % 2 == 1
    }

    /// Which way all limits swing: once up and once down in each pair of slots, in an order that no period of the load has.
    pub(super) fn is_up(&self) -> bool {
        self.is_second() ^ (mix(self.slot / 2) & 1 == 1)
    }

    /// Whether a probe begins, of one who has just come or is not sure, or of all.
    pub(super) fn begins_probe(&self, soon: bool) -> bool {
        let every = if soon { PROBE_SOON } else { PROBE_EVERY };
        self.slot.is_multiple_of(every) && !self.is_late
    }

    pub(super) fn is_in_probe(&self) -> bool {
        self.slot % PROBE_SOON < PROBE
    }

    /// Whether what it measures is that of the bottom.
    pub(super) fn is_at_bottom(&self) -> bool {
        (1..PROBE).contains(&(self.slot % PROBE_SOON))
    }
}
