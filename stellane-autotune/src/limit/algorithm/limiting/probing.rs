//! Steps down to where nothing queues, to measure the latency there.

use std::time::Duration;

use super::{
    super::{Window, clamp_limit, elasticity::Measured},
    BOTTOM_SAMPLES, Limiting,
    fading::AVERAGE,
    probe::{PROBE_AGAIN, PROBE_EVERY, PROBE_SELDOM, PROBE_STEP, Probe, RARE},
};

/// A step that throughput follows so far left no queue: the bottom.
/// Half: 97 % (`fifo`); twice: 85 % (`slow_dependency`).
const BOTTOM: f64 = 0.7;
/// One that it hardly follows still shed a queue, whatever the median of requests that began before it says.
/// Half: nothing; twice: 98 % (`retry_storm`).
const STEEP: f64 = 0.3;
/// A step that leaves less than this of the throughput is given up: what holds the places now does not queue.
/// Half: 98 % (`bimodal`); twice: 94 % (`capacity_halves`).
const PROBE_LOSS: f64 = 0.4;
/// A probe of so many steps did not just shed the queue that the tolerance allows.
/// Half: 96 % (`capacity_halves`); twice: nothing.
const DEEP_PROBE: i32 = 5;
/// It sheds at least such a queue, as a multiple of the latency without one: five steps are four times the places.
/// Else it went so deep by chance.
/// Half or twice: nothing.
const LONG_QUEUE: f64 = 3.0;
/// A probe that finds the baseline within this found the same service.
/// Half: 96 % (`black_hole`); twice: 98 % (`ramp`).
const UNCHANGED: f64 = 0.35;

impl Limiting {
    pub(super) fn start_probe(&mut self, before: Option<Measured>) {
        self.cuts = 0;
        if self.aligned.is_some() {
            // All together, or not at all.
            return;
        }
        self.probe = Some(Probe {
            steps: 1,
            before,
            at_bottom: false,
            median: self.median,
            first: self.guess.take().is_some(),
        });
    }

    pub(super) fn step_probe(&mut self, probe: Probe, measured: Measured, window: &Window<'_>) {
        let slopes = probe.before.and_then(|before| measured.slopes(before));
        if probe.at_bottom {
            let shed = slopes.is_some_and(|slopes| slopes[0] < STEEP);
            let odd = self
                .baseline
                .is_some_and(|known| self.median > (1.0 + UNCHANGED) * known);
            // A bottom that chance has made is another service only if throughput says so once more.
            if !(odd && shed) {
                self.finish_probe(probe, self.median);
                return self.end_probe(window.end);
            }
        }
        let queues = slopes.is_none_or(|slopes| {
            // One step alone may end by chance, and that of one client among several tells little.
            let steep = if probe.steps < 2 { 1.0 } else { STEEP };
            slopes[0] < steep || self.elasticity.weigh(slopes) < BOTTOM
        });
        // From a guess one step alone may be too deep: a core that is idle has no queue.
        let queues = queues && !(probe.first && self.kinds.have_room());
        if !queues && let Some(median) = self.confirmed(probe, window) {
            self.finish_probe(probe, median);
            return self.end_probe(window.end);
        }
        self.probe = Some(if queues && window.limit > self.min.max(4) {
            Probe {
                steps: probe.steps + 1,
                before: Some(measured),
                at_bottom: false,
                ..probe
            }
        } else {
            Probe {
                at_bottom: true,
                ..probe
            }
        });
    }

    /// What a step that left no queue tells of the latency there, if that is what was known. To stay for
    /// [`BOTTOM_SAMPLES`] costs more than all the steps, half of the throughput for a third of a second, and is for a service
    /// that has changed. Of fewer answers the median is off by more, and moves what is known by less.
    fn confirmed(&self, probe: Probe, window: &Window<'_>) -> Option<f64> {
        let known = self.baseline.filter(|_| !probe.first)?;
        let samples = window.latencies.len() as f64 / BOTTOM_SAMPLES as f64;
        let told = samples.sqrt().min(1.0);
        is_unchanged(self.median, known).then(|| known * (self.median / known).powf(told))
    }

    /// Whether the step of a probe cost more than a queue explains. After a jump throughput may have fallen by
    /// itself.
    pub(super) fn is_lost(&self, probe: Probe, window: &Window<'_>) -> bool {
        let before = probe.before.map_or(0.0, Measured::throughput);
        let fell = self.age > 0 && window.throughput() < PROBE_LOSS * before;
        fell || window.latencies.len() < 20
    }

    pub(super) fn give_up_probe(&mut self, probe: Probe, now: Duration) {
        self.probe_every = PROBE_EVERY;
        if let Some(before) = probe.before
            && probe.steps > DEEP_PROBE
        {
            // Too much has been learnt for that: what the step before measured must do.
            let steps = probe.steps - 1;
            self.finish_probe(Probe { steps, ..probe }, before.median());
        } else if let (Some(before), Some(baseline)) = (probe.before, self.baseline)
            && (1.0 + UNCHANGED) * before.median() < baseline
        {
            // Nor is it a baseline what takes longer than that.
            self.baseline = Some(before.median());
            self.age = 0;
        }
        self.end_probe(now);
    }

    fn finish_probe(&mut self, probe: Probe, fresh: f64) {
        let stale = self.baseline.unwrap_or(fresh);
        let assumed = std::mem::take(&mut self.assumed);
        if is_unchanged(fresh, stale) {
            let gain = if assumed { 1.0 } else { self.fading(AVERAGE) };
            self.baseline = Some(stale + gain * (fresh - stale));
            self.probe_every = (2.0 * self.probe_every).min(PROBE_SELDOM);
        } else {
            self.baseline = Some(fresh);
            self.probe_every = PROBE_EVERY;
            self.age = 0;
        }
        let deep = probe.steps >= DEEP_PROBE && probe.median > LONG_QUEUE * fresh;
        if deep {
            // Every step but the last still shed a queue: the limit itself was far too high.
            self.step_down(probe.steps - 1);
            self.probe_every = PROBE_AGAIN;
        } else if probe.first {
            // It was a guess; one step less, as what chance keeps busy is above what is needed on average.
            self.step_down(probe.steps - 2);
        }
    }

    fn step_down(&mut self, steps: i32) {
        let limit = self.limit * PROBE_STEP.powi(steps.max(0));
        self.limit = clamp_limit(limit, self.min, self.max);
    }

    fn end_probe(&mut self, now: Duration) {
        self.probe = None;
        self.previous = None;
        self.probed = now;
        let pause = self.probe_every.max(RARE * self.median);
        let seconds = pause * self.rng.between(0.85, 1.15);
        self.next_probe = now.saturating_add(Duration::from_secs_f64(seconds));
    }
}

fn is_unchanged(fresh: f64, stale: f64) -> bool {
    (fresh / stale).ln().abs() < UNCHANGED
}
