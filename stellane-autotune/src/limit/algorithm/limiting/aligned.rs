//! What is in step with the other limits before the same service.

use super::{super::beat::Beat, fading::DITHER};

/// What is in step, and the probe under way.
#[derive(Debug, Clone)]
pub(super) struct Aligned {
    pub(super) beat: Beat,
    pub(super) bottom: Option<Bottom>,
    /// The most in flight in the latest slot.
    pub(super) in_flight: f64,
    /// Probes in a row that found the same service.
    pub(super) same: f64,
}

/// A probe: all go at once to where nothing queues, as far as each knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bottom {
    pub(super) limit: f64,
    /// The median before.
    pub(super) median: f64,
    pub(super) answers: f64,
    /// The sum of the logarithms of medians, times answers.
    pub(super) ln_medians: f64,
}

/// Half a place swings a limit of few.
const HALF: f64 = 0.5;
/// There is no limit any more if the median is below this many baselines: else it is the others that have the queue.
pub(super) const OPENS: f64 = 1.2;

impl Aligned {
    pub(super) fn new(beat: Beat) -> Self {
        Self {
            beat,
            bottom: None,
            in_flight: 0.0,
            same: 0.0,
        }
    }

    /// What becomes of a limit in this slot.
    pub(super) fn swing(&self, limit: f64) -> f64 {
        if let Some(bottom) = self.bottom {
            return bottom.limit;
        }
        let by = (DITHER.new * limit).max(HALF);
        limit + if self.beat.is_up() { by } else { -by }
    }
}
