//! Where the limit goes from one window to the next.

use super::{
    super::{Window, clamp_limit, elasticity::Measured},
    Limiting, ROOM,
    fading::{Fading, HEADROOM},
    probe::{PROBE_EVERY, RARE, REST},
};

/// How much one window decides of the elasticity.
/// First: half 93 % (`black_hole`), twice 92 % (`black_hole`); second: half 97 % (`capacity_halves`), twice 96 %
/// (`fifo`).
const LEARN: Fading = Fading {
    new: 0.3,
    settled: 0.08,
};
/// How much the elasticity decides of the tolerance.
/// First: half 97 % (`capacity_halves`), twice 96 % (`capacity_halves`); second: half 95 % (`capacity_halves`), twice
/// 96 % (`capacity_halves`).
const ADAPT: Fading = Fading {
    new: 0.3,
    settled: 0.15,
};
/// How much of an error of the median one window corrects, times the error.
/// First: half 94 % (`black_hole`), twice 97 % (`capacity_halves`); second: half 95 % (`capacity_halves`), twice 96 %
/// (`black_hole`).
const GAIN: Fading = Fading {
    new: 2.0,
    settled: 1.0,
};
/// How much one window decides of the usual throughput.
/// First: nothing; second: half 98 % (`bad_requests`), twice nothing.
const USUAL: Fading = Fading {
    new: 0.3,
    settled: 0.05,
};
/// In a row: it goes down for a reason that the baseline may not know of.
/// Half: 92 % (`black_hole`); twice: 98 % (`black_hole`).
const CUTS_BEFORE_PROBE: u32 = 6;
/// How soon it is given up where more concurrency costs throughput. At 2 a service of ten cores and a steep knee was kept at
/// 12 to 13, and two hundredths of its throughput.
/// Half: 96 % (`capacity_halves`); twice: 93 % (`capacity_halves`).
const STEEP: f64 = 3.0;
/// The elasticity that is worth its latency. Two clients that share a full service see a half.
/// Half: 95 % (`capacity_halves`); twice: 91 % (`knee`).
const WORTH: f64 = 0.6;
/// Throughput that follows the limit so far leaves no queue to explain a latency this much above the baseline,
/// as the gradient sees it.
/// First: half 95 % (`bursty`), twice nothing; second: half nothing, twice 96 % (`defers`).
const NO_QUEUE: (f64, f64) = (0.75, 0.75);
/// How far above the baseline the median may be, at least and at most, as a fraction.
/// First: half 98 % (`knee`), twice 95 % (`bimodal`); second: half 97 % (`pareto`), twice nothing.
const TOLERANCE: std::ops::RangeInclusive<f64> = 0.03..=0.4;
/// When there is room the limit grows by this.
/// Half: 5 % (`slow_dependency`); twice: 97 % (`capacity_halves`).
const GROW: f64 = 1.5;
/// How far a limit goes at a time, in logarithms, whose places are mostly held by what is not answered.
struct Unanswered {
    /// For each part that the elasticity is above what is worth it,
    worth: f64,
    /// down at most, as what is learnt of throughput alone is mostly noise: faster, it fell to where a third was
    /// served before that was seen,
    at_rest: f64,
    /// down at least, while what is answered queues; without it a service that was full was given ever more,
    queues: f64,
    /// and up, when throughput has fallen.
    fell: f64,
}
/// First: half nothing, twice 96 % (`black_hole`); second: half 98 % (`black_hole`), twice 97 % (`black_hole`);
/// third: half 94 % (`black_hole`), twice nothing; fourth: nothing.
const UNANSWERED: Unanswered = Unanswered {
    worth: 0.3,
    at_rest: 0.05,
    queues: 0.1,
    fell: 0.15,
};
/// So much of the most of late is a fall,
/// Half: nothing; twice: 97 % (`black_hole`).
const FELL: f64 = 0.85;
/// and so much of the most is left after each window.
/// Half: nothing; twice: 96 % (`black_hole`).
const REMEMBERED: f64 = 0.98;

impl Limiting {
    pub(super) fn learn(&mut self, measured: Measured, bound: bool) {
        if let Some(before) = self.previous
            && bound
            && let Some(mut slopes) = measured.slopes(before)
        {
            if !self.is_answered() {
                slopes[1] = slopes[0];
            }
            self.elasticity.learn(slopes, self.fading(LEARN), WORTH);
            let factor = (self.fading(ADAPT) * (self.elasticity.value() - WORTH)).exp();
            self.tolerance = (self.tolerance * factor).clamp(*TOLERANCE.start(), *TOLERANCE.end());
        }
        self.previous = bound.then_some(measured);
    }

    /// Where most places are held by what is not answered.
    pub(super) fn adjust_unanswered(&mut self, baseline: f64) {
        self.most = self.throughput.max(REMEMBERED * self.most);
        let worth = UNANSWERED.worth * (self.elasticity.value() - WORTH);
        let off = if self.median > ROOM.1 * baseline {
            // What is answered queues all the same.
            worth.min(-UNANSWERED.queues)
        } else if let Some(off) = self.kinds.off(self.elasticity.value(), ROOM.0) {
            off
        } else if self.throughput < FELL * self.most {
            UNANSWERED.fell
        } else {
            worth.max(-UNANSWERED.at_rest)
        };
        self.limit = clamp_limit(self.limit * off.exp(), self.min, self.max);
    }

    pub(super) fn adjust(&mut self, baseline: f64, window: &Window<'_>) {
        let elasticity = self.elasticity.value();
        // Where more concurrency costs throughput, room to spare only hurts.
        let room = (1.0 + STEEP * elasticity).clamp(-0.5, 1.0);
        // The median of few samples is off by about this: a chance is no queue.
        let chance = 0.5 * (1.0 + room) / (window.latencies.len() as f64).sqrt();
        let allowed = baseline * (1.0 + self.tolerance.max(chance));
        let gradient = (allowed / self.median).clamp(0.7, 1.3);
        // The logarithm, so that a median half as long and one twice as long weigh the same.
        let off = (gradient + HEADROOM * room / self.limit.sqrt()).ln();
        let gain = (self.fading(GAIN) * off.abs()).clamp(0.1, 0.5);
        let mut next = self.limit * (1.0 + gain * off);
        if self
            .target
            .is_some_and(|target| window.latencies.quantile(0.99) > 2.0 * target)
        {
            next = next.min(0.8 * self.limit);
        }
        if self.roomy >= 2 && next > self.limit {
            next = GROW * self.limit;
        }
        // What is taken for the latency without a queue may be one with a queue, until a probe has measured it: the machine
        // that was what was full knows better. Else a service with a knee went past it, for seconds, after one start of forty.
        let swing = self.limit / f64::from(window.limit);
        if self.assumed && self.kinds.have_enough(f64::from(window.in_flight), swing) {
            next = next.min(self.limit);
        }
        if let Some(room) = self.kinds.room(elasticity) {
            next = next.max(room * self.limit);
        }
        self.cuts = if next < 0.97 * self.limit {
            self.cuts + 1
        } else {
            0
        };
        self.limit = clamp_limit(next, self.min, self.max);

        let due = self.next_probe.as_secs_f64();
        let now = window.end.as_secs_f64();
        let rested = now > due - (1.0 - REST) * self.probe_every;
        // Latency that is long without a queue,
        let stale = elasticity > NO_QUEUE.0 && gradient < NO_QUEUE.1;
        // or a queue with a latency that was that of none: the machine sees it, however long nothing had changed.
        let queues = self.kinds.have_queue(f64::from(window.in_flight))
            && now > self.probed.as_secs_f64() + REST * PROBE_EVERY.max(RARE * self.median);
        let latest = (self.median, self.throughput);
        let jumped = self.usual.has_jumped(latest, window, self.fading(USUAL));
        if jumped {
            self.age = 0;
        }
        if now >= due || rested && stale || queues || jumped || self.cuts >= CUTS_BEFORE_PROBE {
            self.start_probe(self.previous);
        }
    }
}
