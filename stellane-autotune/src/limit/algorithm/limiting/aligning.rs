//! In step with the other limits before the same service.

use std::time::Duration;

use super::{
    super::{Next, Window, clamp_limit, elasticity::Measured},
    IDLE, LUCK, Limiting,
    aligned::Bottom,
};

/// A probe goes down to so much of what leaves no queue,
const BOTTOM: f64 = 0.65;
/// but not below this part of what is in flight.
const DEEPEST: f64 = 0.1;
/// So many answers tell something.
const TOLD: f64 = 5.0;
/// The logarithm of what is found may differ by this, or by so many errors of it, and it is the same service.
const SAME: (f64, f64) = (0.3, 3.0);
/// How much one such probe decides at least.
const AVERAGE: f64 = 0.2;
/// What is slower than a slot may have been let in before: then it is believed up to so many times what was known.
const BELIEVED: f64 = 1.6;
/// The queue that is left, in terms of the latency without one, when one that was not known is found.
const QUEUE: f64 = 1.2;

impl Limiting {
    /// The next slot, if it is aligned and knows where it is.
    pub(super) fn next_slot(&mut self) -> Option<Next> {
        let baseline = self.baseline?;
        let aligned = self.aligned.as_mut()?;
        // What was learnt out of step is worth little.
        self.assumed |= aligned.beat.is_set();
        let settle = aligned.beat.enter(baseline);
        let over = aligned.bottom.take_if(|_| !aligned.beat.is_in_probe());
        if aligned.bottom.is_none() && aligned.beat.begins_probe(self.assumed) {
            let queue = (self.median / baseline).max(1.0);
            let part = (BOTTOM / queue).max(DEEPEST);
            aligned.bottom = Some(Bottom {
                limit: (part * self.limit.min(aligned.in_flight)).floor(),
                median: self.median,
                answers: 0.0,
                ln_medians: 0.0,
            });
        }
        if let Some(bottom) = over {
            self.learn_bottom(bottom, baseline);
        }
        Some(Next {
            limit: self.limit(),
            drain: Duration::ZERO,
            settle,
        })
    }

    /// None, if there is nothing to limit any more.
    pub(super) fn on_slot(&mut self, window: &Window<'_>, baseline: f64) -> Option<Next> {
        let aligned = self.aligned.as_mut()?;
        if aligned.beat.is_late() {
            return self.next_slot();
        }
        if let Some(bottom) = &mut aligned.bottom {
            if aligned.beat.is_at_bottom() {
                bottom.answers += window.answers as f64;
                bottom.ln_medians += window.answers as f64 * self.median.ln();
            }
            return self.next_slot();
        }
        aligned.in_flight = f64::from(window.max_in_flight);
        let is_second = aligned.beat.is_second();
        // By more than luck explains.
        let lucky = 1.0 + LUCK / (window.latencies.len() as f64).sqrt();
        let baseline = baseline + 0.2 * (lucky * self.median - baseline).min(0.0);
        self.baseline = Some(baseline);
        let bound = window.is_limit_bound();
        if self.may_open(window, bound) {
            return None;
        }
        if !bound && self.median < (1.0 + self.tolerance) * baseline {
            self.previous = None;
            let cap = IDLE.0.max(IDLE.1 * f64::from(window.max_in_flight));
            self.limit = clamp_limit(self.limit.min(cap), self.min, self.max);
            return self.next_slot();
        }
        let measured = Measured::new(window.limit, self.throughput, self.median);
        // Both sides of the swing, so that all decide by the same.
        let Some(before) = self.previous.filter(|_| is_second) else {
            self.previous = Some(measured);
            return self.next_slot();
        };
        self.learn(measured, bound);
        self.median = (before.median() * measured.median()).sqrt();
        self.throughput = (before.throughput() * measured.throughput()).sqrt();
        self.age = self.age.saturating_add(1);
        let most = self.limit;
        if !bound {
            // A queue is everybody's, also of one who has places to spare.
            self.limit = self.limit.min(f64::from(window.max_in_flight));
        }
        self.follow(baseline, window);
        if !bound {
            self.limit = self.limit.min(most);
        }
        self.next_slot()
    }

    /// What a probe has found of the latency without a queue.
    fn learn_bottom(&mut self, bottom: Bottom, stale: f64) {
        self.previous = None;
        let Some(aligned) = self.aligned.as_mut() else {
            return;
        };
        if bottom.answers < TOLD {
            return;
        }
        let mut fresh = (bottom.ln_medians / bottom.answers).exp();
        if fresh > aligned.beat.length() {
            fresh = fresh.min(BELIEVED * stale);
        }
        let ratio = (fresh / stale).ln();
        let is_same = ratio.abs() < SAME.0.max(SAME.1 / bottom.answers.sqrt());
        if is_same && !self.assumed {
            aligned.same += 1.0;
            let gain = (1.0 / (1.0 + aligned.same)).max(AVERAGE);
            self.baseline = Some(stale * (gain * ratio).exp());
            return;
        }
        aligned.same = 0.0;
        self.assumed = !is_same;
        self.baseline = Some(fresh);
        let left = (QUEUE * fresh / bottom.median).min(1.0);
        self.limit = clamp_limit(left * self.limit, self.min, self.max);
    }
}
