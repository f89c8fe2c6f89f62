//! The limit that it begins with, which nothing has been measured of yet.

use std::time::Duration;

use super::{
    super::{Next, Window, clamp_limit},
    Limiting, PATIENCE,
    guess::STAYS,
    probe::{PROBE_AGAIN, PROBE_EVERY, RARE},
    seconds,
};

/// A first guess that leaves less than this of the answers was too low, or there was nothing to limit.
const MISTAKE: f64 = 0.7;
/// Each such mistake doubles the evidence that it takes next time, up to this. At 8 a service of two kinds of
/// requests was never limited again.
const DOUBT: f64 = 3.0;
/// How long it may take at first until what is too much is gone, in terms of how long it should.
const DRAIN: f64 = 3.0;

impl Limiting {
    /// To see what the limit that it begins with does, what was let in before must be gone, and then those must be who were
    /// let in beside it.
    pub(in super::super) fn start(&self, in_flight: f64) -> Next {
        let limit = self.limit();
        let surplus = in_flight - f64::from(limit);
        // Of a service that has answered hardly anything yet nothing is known, and both are without end.
        let stays = STAYS * f64::from(limit) / self.throughput;
        Next {
            limit,
            drain: seconds((DRAIN * surplus / self.throughput).max(PATIENCE.0)),
            settle: seconds(stays.min(self.patience())),
        }
    }

    /// Tries the limit that it began with.
    pub(super) fn on_first_window(&mut self, window: &Window<'_>) {
        let bound = window.is_limit_bound();
        let mut known = false;
        if let Some(guess) = self.guess {
            // A target is another latency than one without a queue: it is looked for.
            known = guess.known || self.target.is_none() && self.kinds.have_hardly_a_queue();
            // What was answered before is that of a few milliseconds, and may be half as much again by chance.
            let lost = self.throughput < MISTAKE * guess.before.0;
            if bound && lost && !self.kinds.are_busy() {
                // Less in flight, and that much less answered: the guess was too low, or nothing was full.
                let most = guess.before.1.max(self.limit);
                let next = (2.0 * self.limit).min(most);
                if next > 1.1 * self.limit {
                    self.limit = clamp_limit(next, self.min, self.max);
                    return;
                }
                self.doubt = (2.0 * self.doubt).min(DOUBT);
                known = true;
            } else {
                self.doubt = (0.5 * self.doubt).max(1.0);
            }
        }
        (self.baseline, self.assumed) = (Some(self.median), true);
        if known {
            self.guess = None;
            let pause = if self.kinds.have_hardly_a_queue() {
                PROBE_EVERY
            } else {
                PROBE_AGAIN
            };
            let pause = pause.max(RARE * self.median);
            self.next_probe = window.end.saturating_add(Duration::from_secs_f64(pause));
        } else if bound && self.is_answered() && !self.kinds.are_told_by_machine() {
            // Born under load: this median already contains a queue.
            self.start_probe(None);
        }
    }
}
