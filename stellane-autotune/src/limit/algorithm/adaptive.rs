use std::time::Duration;

use super::{Algorithm, Next, Window, WindowSize, clamp_limit, round};
use crate::clock::Rng;

/// The default: a gradient on the window median against a baseline that is actively re-probed,
/// with a tolerance learned from how much throughput answers to the limit.
///
/// - It acts only while the limit is what holds the load back; otherwise it holds, and keeps the
///   limit within a few times what is really in flight, so that a spike does not meet a limit
///   that grew while idle.
/// - The limit is dithered on alternate windows, by ±12 % while the service is not known yet and ±5 %
///   later. If throughput follows the dither (elasticity), more concurrency is worth its latency and the
///   tolerance grows; else it shrinks.
///   Small errors of the median move the limit little, large ones at once: noise does not.
/// - What one window decides is much at first and after a change, and little once the service is known.
/// - The baseline is re-probed after 8 s, doubling to 32 s while nothing changes; sooner when
///   throughput no longer answers to the limit, when latency or throughput have jumped, and after 6
///   cuts in a row. Probes that find much the same are averaged. The limit then steps down by 0.7 per
///   window until the median stops falling or throughput begins to: that is the latency without a queue.
///   The baseline thus follows a service that became slower or faster, without ever pinning the limit to a
///   few requests. A probe that costs half of the
///   throughput in a step is given up; one that goes deep shows that the limit itself was far too
///   high, and it stays lower.
///
/// Limit a service where it serves, not where many clients call it: a client that raises its limit
/// takes throughput from the others, which looks as if concurrency were worth its latency. Clients
/// that share a service share it fairly, but together reach only a third to three quarters of what one
/// limit in front of it reaches.
///
/// ```
/// use stellane_autotune::algorithm::{Adaptive, Algorithm};
///
/// assert_eq!(Adaptive::new(20, 4, 1000, 0).initial(), 20);
/// ```
#[derive(Debug, Clone)]
pub struct Adaptive {
    limit: f64,
    initial: f64,
    min: u32,
    max: u32,
    /// How much above the baseline the median may be, as a fraction.
    tolerance: f64,
    /// By how many per cent throughput grows with one per cent of limit.
    elasticity: f64,
    baseline: Option<f64>,
    probe: Option<Probe>,
    probe_every: f64,
    next_probe: Duration,
    cuts: u32,
    /// The smoothed median and throughput, and how many windows in a row were far off.
    usual: Option<(f64, f64)>,
    jumps: u32,
    /// By how much throughput differs from window to window, as a fraction.
    noise: f64,
    throughput_before: f64,
    /// By how much it has fallen short of the usual of late, in windows.
    missing: f64,
    /// Windows since the service seemed to be another one.
    age: u32,
    dither_up: bool,
    previous: Option<Measured>,
    target: Option<f64>,
    quiet_until: Duration,
    /// Of the latest window.
    median: f64,
    throughput: f64,
    rng: Rng,
}

/// A probe under way.
#[derive(Debug, Clone, Copy)]
struct Probe {
    steps: i32,
    /// The median one step before.
    before: f64,
    /// The throughput one step before.
    throughput: f64,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    up: bool,
    bound: bool,
    ln_throughput: f64,
    ln_limit: f64,
}

/// A gain that is `new` for a service that is not known yet, and `settled` after [`SETTLED`] windows.
#[derive(Debug, Clone, Copy)]
struct Fading {
    new: f64,
    settled: f64,
}

const SETTLED: u32 = 25;
const DITHER: Fading = Fading {
    new: 0.12,
    settled: 0.05,
};
/// How much one window decides of the elasticity.
const LEARN: Fading = Fading {
    new: 0.3,
    settled: 0.08,
};
/// How much the elasticity decides of the tolerance.
const ADAPT: Fading = Fading {
    new: 0.3,
    settled: 0.15,
};
/// How much one window decides of the usual throughput.
const USUAL: Fading = Fading {
    new: 0.3,
    settled: 0.05,
};
const PROBE_STEP: f64 = 0.7;
/// A step of a probe that gains less than this found the bottom.
const PROBE_GAIN: f64 = 0.93;
/// So does one that leaves less than this of the throughput: what is gone was no queue. The median of
/// a small window alone falls by chance now and then, several times in a row.
const PROBE_LOSS: f64 = 0.9;
/// A probe of so many steps did not just shed the queue that the tolerance allows.
const DEEP_PROBE: i32 = 6;
const PROBE_EVERY: f64 = 8.0;
const PROBE_SELDOM: f64 = 32.0;
/// When throughput does not answer to the limit, a stale baseline may be why: the probe comes after this part
/// of its pause.
const WHEN_FLAT: f64 = 0.375;
/// A probe that finds the baseline within this found the same service.
const UNCHANGED: f64 = 0.35;
/// A median that is so many times the usual, twice in a row, is another service.
const JUMP: f64 = 2.5;
const CUTS_BEFORE_PROBE: u32 = 6;
/// Places beyond the gradient, in square roots of the limit: what keeps a service busy.
const HEADROOM: f64 = 0.7;
/// The elasticity that is worth its latency.
const WORTH: f64 = 0.2;
const TOLERANCE: std::ops::RangeInclusive<f64> = 0.03..=0.4;
const IDLE_CAP: f64 = 4.0;
const MIN_SAMPLES: u64 = 60;
/// So that a limit that is far too high is not measured for ever.
const MAX_SAMPLES: u64 = 450;

impl Adaptive {
    /// Starts at `initial` and stays within `min..=max`. Processes that must not probe together
    /// differ in their `seed`.
    #[must_use]
    pub fn new(initial: u32, min: u32, max: u32, seed: u64) -> Self {
        let limit = clamp_limit(f64::from(initial), min, max);
        Self {
            limit,
            initial: limit,
            min,
            max,
            tolerance: 0.25,
            elasticity: 0.5,
            baseline: None,
            probe: None,
            probe_every: PROBE_EVERY,
            next_probe: Duration::ZERO,
            cuts: 0,
            usual: None,
            jumps: 0,
            noise: 0.05,
            throughput_before: 0.0,
            missing: 0.0,
            age: 0,
            dither_up: false,
            previous: None,
            target: None,
            quiet_until: Duration::ZERO,
            median: 0.0,
            throughput: 0.0,
            rng: Rng::new(seed),
        }
    }

    /// Cuts by a fifth whenever the 99th percentile of a window exceeds twice this latency. Zero is
    /// off.
    #[must_use]
    pub fn latency_target(mut self, target: Duration) -> Self {
        self.target = Some(target.as_secs_f64()).filter(|seconds| *seconds > 0.0);
        self
    }

    /// The limit with the dither, or with the steps of the probe.
    fn next(&self) -> Next {
        let factor = match self.probe {
            Some(probe) => PROBE_STEP.powi(probe.steps),
            None if self.dither_up => 1.0 + self.fading(DITHER),
            None => 1.0 - self.fading(DITHER),
        };
        let limit = round(clamp_limit(self.limit * factor, self.min, self.max));
        Next {
            limit,
            settle: Duration::from_secs_f64(self.median.min(0.5)),
        }
    }

    /// What is large while little is known and becomes smaller as more is.
    fn fading(&self, range: Fading) -> f64 {
        let rest = 1.0 - f64::from(self.age.min(SETTLED)) / f64::from(SETTLED);
        range.settled + (range.new - range.settled) * rest
    }

    fn step_probe(&mut self, probe: Probe, median: f64, window: &Window<'_>) {
        let idles = self.throughput < PROBE_LOSS * probe.throughput;
        if median <= probe.before * PROBE_GAIN && !idles && window.limit > self.min.max(4) {
            self.probe = Some(Probe {
                steps: probe.steps + 1,
                before: median,
                throughput: self.throughput,
            });
            return;
        }
        // The last two steps measured the same: their mean is the better estimate.
        let same = (median / probe.before - 1.0).abs() < 0.3;
        let fresh = if same {
            0.5 * (median + probe.before)
        } else {
            median.min(probe.before)
        };
        self.finish_probe(probe.steps, fresh);
        self.end_probe(window.end);
    }

    fn finish_probe(&mut self, steps: i32, fresh: f64) {
        let stale = self.baseline.unwrap_or(fresh);
        if (fresh / stale - 1.0).abs() < UNCHANGED {
            // One probe measures little: all of them together tell the latency without a queue.
            self.baseline = Some(stale + 0.3 * (fresh - stale));
            self.probe_every = (2.0 * self.probe_every).min(PROBE_SELDOM);
        } else {
            self.baseline = Some(fresh);
            self.probe_every = PROBE_EVERY;
            self.age = 0;
        }
        if steps >= DEEP_PROBE {
            // Every step but the last still shed a queue: the limit itself was far too high.
            let knee = self.limit * PROBE_STEP.powi(steps - 2);
            self.limit = clamp_limit(knee, self.min, self.max);
        }
    }

    fn end_probe(&mut self, now: Duration) {
        self.probe = None;
        self.previous = None;
        let seconds = self.probe_every * self.rng.between(0.85, 1.15);
        self.next_probe = now.saturating_add(Duration::from_secs_f64(seconds));
    }

    fn learn(&mut self, measured: Measured) {
        if let Some(before) = self.previous
            && before.bound
            && measured.bound
            && before.up != measured.up
            && (measured.ln_limit - before.ln_limit).abs() > 1e-9
        {
            let slope = (measured.ln_throughput - before.ln_throughput)
                / (measured.ln_limit - before.ln_limit);
            // Both ways alike: what is cut off of noise must not become a trend.
            let slope = slope.clamp(WORTH - 1.2, WORTH + 1.2);
            self.elasticity += self.fading(LEARN) * (slope - self.elasticity);
            let factor = (self.fading(ADAPT) * (self.elasticity - WORTH)).exp();
            self.tolerance = (self.tolerance * factor).clamp(*TOLERANCE.start(), *TOLERANCE.end());
        }
        self.previous = Some(measured);
    }

    fn adjust(&mut self, baseline: f64, median: f64, window: &Window<'_>) {
        // The median of few samples is off by about this: a chance is no queue.
        let chance = 1.0 / (window.latencies.len() as f64).sqrt();
        let gradient = (baseline * (1.0 + self.tolerance.max(chance)) / median).clamp(0.7, 1.3);
        // Where more concurrency costs throughput, room to spare only hurts.
        let headroom = HEADROOM * (1.0 + 1.5 * self.elasticity).clamp(0.1, 1.0);
        let aim = self.limit * gradient + headroom * self.limit.sqrt();
        let gain = (2.0 * (aim / self.limit - 1.0).abs()).clamp(0.1, 0.5);
        let mut next = self.limit + gain * (aim - self.limit);
        if self
            .target
            .is_some_and(|target| window.latencies.quantile(0.99) > 2.0 * target)
        {
            next = next.min(0.8 * self.limit);
        }
        self.cuts = if next < 0.97 * self.limit {
            self.cuts + 1
        } else {
            0
        };
        self.limit = clamp_limit(next, self.min, self.max);

        let due = self.next_probe.as_secs_f64();
        let now = window.end.as_secs_f64();
        let flat = self.elasticity < 0.0 && now > due - (1.0 - WHEN_FLAT) * self.probe_every;
        let jumped = self.has_jumped(median);
        if now >= due || flat || jumped || self.cuts >= CUTS_BEFORE_PROBE {
            self.probe = Some(Probe {
                steps: 1,
                before: median,
                throughput: self.throughput,
            });
            self.cuts = 0;
        }
    }

    /// Whether two windows in a row were far slower than usual, or answers have become fewer under the limit as
    /// it is, by more than chance makes them: another service than the one that the baseline was measured on.
    fn has_jumped(&mut self, median: f64) -> bool {
        let (usual_median, usual_throughput) = self.usual.unwrap_or((median, self.throughput));
        let fall = 1.0 - self.throughput / usual_throughput;
        let step = (self.throughput - self.throughput_before).abs() / usual_throughput;
        self.noise += 0.1 * (0.7 * step.min(0.5) - self.noise);
        self.throughput_before = self.throughput;
        // The sum of what is missing, less what chance takes: it stays near zero while nothing changes.
        self.missing = (self.missing + fall - (1.1 * self.noise).max(0.05)).max(0.0);
        let odd = median > JUMP * usual_median;
        self.jumps = if odd { self.jumps + 1 } else { 0 };
        if self.jumps >= 2 || self.missing > (5.0 * self.noise).max(0.3) {
            self.jumps = 0;
            self.missing = 0.0;
            self.age = 0;
            self.usual = None;
            return true;
        }
        if !odd {
            let smooth = |usual: f64, latest: f64, gain: f64| usual + gain * (latest - usual);
            let median = smooth(usual_median, median, 0.2);
            let gain = self.fading(USUAL);
            self.usual = Some((median, smooth(usual_throughput, self.throughput, gain)));
        }
        false
    }
}

impl Algorithm for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }

    fn initial(&self) -> u32 {
        round(self.limit)
    }

    fn window(&self, limit: u32) -> WindowSize {
        let samples = (3 * u64::from(limit)).clamp(MIN_SAMPLES, MAX_SAMPLES);
        if self.probe.is_none() {
            let duration = Duration::from_millis(200);
            return WindowSize {
                duration,
                samples,
                patience: Duration::MAX,
            };
        }
        // If the places left are all held by requests that hang, no sample would ever end the probe.
        let patience = Duration::from_secs_f64((4.0 * self.median).clamp(0.3, 2.0));
        WindowSize {
            duration: Duration::from_millis(100),
            samples,
            patience,
        }
    }

    fn on_window(&mut self, window: &Window<'_>) -> Next {
        let median = window.latencies.quantile(0.5);
        let throughput = window.throughput();
        if let Some(probe) = self.probe
            && (window.latencies.len() < 20 || throughput < 0.5 * self.throughput)
        {
            // Too much lost: what the step before measured must do.
            if probe.steps > 1 {
                self.finish_probe(probe.steps - 1, probe.before);
            }
            self.end_probe(window.end);
            return self.next();
        }
        if !(median > 0.0 && throughput > 0.0) {
            return Next {
                limit: window.limit,
                settle: Duration::ZERO,
            };
        }
        (self.median, self.throughput) = (median, throughput);
        let Some(baseline) = self.baseline else {
            self.baseline = Some(median);
            self.end_probe(window.end);
            if window.is_limit_bound() {
                // Born under load: this median already contains a queue, which was still growing. No step may
                // be judged by it.
                self.probe = Some(Probe {
                    steps: 1,
                    before: f64::MAX,
                    throughput: 0.0,
                });
            }
            return self.next();
        };
        if let Some(probe) = self.probe {
            self.step_probe(probe, median, window);
            return self.next();
        }
        // Slowly, and by more than luck explains: the luckiest window must not become the measure of all.
        let lucky = 1.0 + 1.0 / (window.latencies.len() as f64).sqrt();
        let baseline = baseline + 0.2 * (lucky * median - baseline).min(0.0);
        self.baseline = Some(baseline);
        let bound = window.is_limit_bound();
        self.learn(Measured {
            up: self.dither_up,
            bound,
            ln_throughput: throughput.ln(),
            ln_limit: f64::from(window.limit).ln(),
        });
        self.dither_up = !self.dither_up;
        if bound {
            self.age = self.age.saturating_add(1);
            self.adjust(baseline, median, window);
        } else {
            let cap = self.initial.max(IDLE_CAP * f64::from(window.max_in_flight));
            self.limit = clamp_limit(self.limit.min(cap), self.min, self.max);
        }
        self.next()
    }

    fn on_overload(&mut self, now: Duration, _in_flight: u32) -> Option<u32> {
        // A pause that a clock which went back cannot prolong.
        let pause = Duration::from_secs_f64(self.median.clamp(0.001, 1.0));
        if now < self.quiet_until && self.quiet_until - now <= pause {
            return None;
        }
        self.quiet_until = now.saturating_add(pause);
        self.limit = clamp_limit(self.limit * 0.9, self.min, self.max);
        Some(self.next().limit)
    }

    fn set_range(&mut self, min: u32, max: u32) {
        (self.min, self.max) = (min, max);
        self.limit = clamp_limit(self.limit, min, max);
    }
}
