//! What a limit does at once when it is told something, between its windows.

use std::time::Duration;

use super::Limiting;
use crate::limit::algorithm::clamp_limit;

/// What an answer that says "overloaded" leaves of the limit, at most once per median.
/// Half: 76 % (`defers`); twice, when it no longer cuts: nothing, since the gradient does.
const OVERLOADED: f64 = 0.95;
/// What requests that waited for long before they were read leave of the limit, at most once in the time for which others are
/// turned away after them. Those inside answer more often with each that is added, by taking the CPU from the thread that
/// reads: on one CPU that was left a tenth, and at 10 x nearly all who were answered had gone. Without it four runs of 23
/// fell to a half, with it none of 44. No scenario has it.
const LATE: f64 = 0.6;

impl Limiting {
    /// Those inside leave too little for reading what comes.
    pub(in crate::limit::algorithm) fn on_late(&mut self) -> u32 {
        self.limit = clamp_limit(self.limit * LATE, self.min, self.max);
        self.limit()
    }

    pub(in crate::limit::algorithm) fn on_overload(&mut self, now: Duration) -> Option<u32> {
        // A pause that a clock which went back cannot prolong.
        let pause = Duration::from_secs_f64(self.median.clamp(0.001, 1.0));
        if now < self.quiet_until && self.quiet_until - now <= pause {
            return None;
        }
        self.quiet_until = now.saturating_add(pause);
        self.limit = clamp_limit(self.limit * OVERLOADED, self.min, self.max);
        Some(self.limit())
    }
}
