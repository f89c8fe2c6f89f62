use std::sync::Arc;

use super::shared::Shared;
use super::{Class, Outcome};

/// A place under an [`AdaptiveLimit`](super::AdaptiveLimit). Dropping it gives the place back; if no outcome was
/// recorded before, the request counts as cancelled and its latency does not count.
#[derive(Debug)]
#[must_use = "dropping a permit gives the place back at once"]
pub struct Permit {
    shared: Arc<Shared>,
    start: u64,
    class: Class,
    recorded: bool,
}

impl Permit {
    #[inline]
    pub(super) fn new(shared: Arc<Shared>, class: Class) -> Self {
        let start = shared.start();
        Self {
            shared,
            start,
            class,
            recorded: false,
        }
    }

    /// Records the outcome and the time since admission, and keeps the place. Only the first
    /// record counts.
    #[inline]
    pub fn record(&mut self, outcome: Outcome) {
        if !self.recorded {
            self.recorded = true;
            self.shared.record(self.start, outcome);
        }
    }

    /// Records the outcome and gives the place back.
    #[inline]
    pub fn finish(mut self, outcome: Outcome) {
        self.record(outcome);
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        if !self.recorded {
            self.shared.record_cancelled();
        }
        self.shared.release(self.class);
    }
}
