//! The limit that it begins with, which nothing has been measured of yet.

use std::time::Duration;

use super::{
    super::{Next, Window, clamp_limit, elasticity::Measured},
    Limiting, PATIENCE,
    guess::{GONE, Guess},
    probe::{PROBE_AGAIN, PROBE_EVERY, RARE},
    seconds,
};

/// A first guess that leaves less than this of the answers was too low, or there was nothing to limit.
/// Half: nothing; twice: 96 % (`capacity_halves`).
const MISTAKE: f64 = 0.7;
/// The limit becomes twice itself at most, however few answers are left.
/// Half: 98 % (`bimodal`); twice: 98 % (`capacity_halves`).
const LEAST: f64 = 0.5;
/// Each such mistake doubles the evidence that it takes next time, up to this. At 8 a service of two kinds of
/// requests was never limited again.
/// Half or twice: nothing.
const DOUBT: f64 = 3.0;
/// How long it may take at first until what is too much is gone, in terms of how long it should.
/// Half or twice: nothing.
const DRAIN: f64 = 3.0;

impl Limiting {
    /// To see what the limit that it begins with does, what was let in before must be gone, and then those must be who were
    /// let in beside it.
    pub(in super::super) fn start(&self, in_flight: f64) -> Next {
        let limit = self.limit();
        let surplus = in_flight - f64::from(limit);
        // Of a service that has answered hardly anything yet nothing is known, and both are without end. Of one that is known
        // the median may be that of a few milliseconds, and too short by far.
        let stays = GONE * f64::from(limit) / self.throughput;
        let settle = if self.guess.is_some_and(|guess| guess.known) {
            stays
        } else {
            stays.min(self.patience())
        };
        Next {
            limit,
            drain: seconds((DRAIN * surplus / self.throughput).max(PATIENCE.0)),
            settle: seconds(settle),
        }
    }

    /// Tries the limit that it began with.
    pub(super) fn on_first_window(&mut self, window: &Window<'_>) {
        let bound = window.is_limit_bound();
        // Who was let in before may have waited for long; under this limit an answer takes no longer than Little's law says.
        let mut baseline = self.median.min(f64::from(window.limit) / self.throughput);
        let mut known = false;
        if let Some(guess) = self.guess {
            let tried = Measured::new(window.limit, self.throughput, self.median);
            let easy = guess.easy(tried);
            // Then no probe needs to look for the latency without one. But a target is another latency than that.
            known = guess.known
                || self.target.is_none() && (easy.is_some() || self.kinds.have_hardly_a_queue());
            baseline = baseline.min(easy.unwrap_or(guess.shortest));
            let part = self.throughput / guess.before.0;
            let before = self.limit;
            if bound && !self.kinds.are_busy() {
                // Less in flight, and that much less answered: so much is missing, or nothing was full.
                let most = guess.before.1.max(self.limit);
                let next = (self.limit / part.clamp(LEAST, 1.0)).min(most);
                self.limit = clamp_limit(next, self.min, self.max);
            }
            // What was answered before is that of a few milliseconds, and may be half as much again by chance.
            if bound && part < MISTAKE && !self.kinds.are_busy() {
                if self.limit > 1.1 * before {
                    return self.guess = Some(Guess {
                        shortest: baseline,
                        tried: Some(tried),
                        ..guess
                    });
                }
                self.doubt = (2.0 * self.doubt).min(DOUBT);
                known = true;
            } else {
                self.doubt = (0.5 * self.doubt).max(1.0);
            }
        }
        (self.baseline, self.assumed) = (Some(baseline), true);
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
