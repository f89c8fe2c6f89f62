use std::time::Duration;

use super::{Algorithm, Next, Window, WindowSize, clamp_limit, round};
use crate::clock::Rng;

/// The default: a gradient on the window median against a baseline that is actively re-probed,
/// with a tolerance learned from how much throughput answers to the limit.
///
/// - It acts only while the limit is what holds the load back; otherwise it holds, and keeps the
///   limit within a few times what is really in flight, so that a spike does not meet a limit
///   that grew while idle.
/// - The limit is dithered by ±12 % on alternate windows. If throughput follows the dither
///   (elasticity), more concurrency is worth its latency and the tolerance grows; else it shrinks.
/// - Every 8 s, or after 6 cuts in a row, it steps down by 0.7 per window until the median stops
///   falling: that is the latency without a queue. The baseline thus follows a service that
///   became slower, without ever dropping to a limit of a few requests.
#[derive(Debug, Clone)]
pub struct Adaptive {
    limit: f64,
    initial: f64,
    min: u32,
    max: u32,
    tolerance: f64,
    elasticity: f64,
    baseline: Option<f64>,
    /// The median of the previous step of a running probe, and how many steps it made.
    probe: Option<(f64, i32)>,
    next_probe: Duration,
    cuts: u32,
    dither_up: bool,
    previous: Option<Measured>,
    target: Option<f64>,
    quiet_until: Duration,
    median: f64,
    rng: Rng,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    up: bool,
    ln_throughput: f64,
    ln_limit: f64,
    bound: bool,
}

impl Adaptive {
    const DITHER: f64 = 0.12;
    const PROBE_STEP: f64 = 0.7;
    const PROBE_EVERY: f64 = 8.0;
    const CUTS_BEFORE_PROBE: u32 = 6;
    const HEADROOM: f64 = 0.3;
    /// The elasticity that is worth its latency.
    const WORTH: f64 = 0.35;
    const IDLE_CAP: f64 = 4.0;

    /// Starts at `initial` and stays within `min..=max`.
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
            next_probe: Duration::ZERO,
            cuts: 0,
            dither_up: false,
            previous: None,
            target: None,
            quiet_until: Duration::ZERO,
            median: 0.0,
            rng: Rng::new(seed),
        }
    }

    /// Cuts by a fifth whenever the 99th percentile of a window exceeds twice this latency.
    #[must_use]
    pub fn latency_target(mut self, target: Duration) -> Self {
        self.target = Some(target.as_secs_f64()).filter(|seconds| *seconds > 0.0);
        self
    }

    fn applied(&self) -> u32 {
        let factor = match self.probe {
            Some((_, steps)) => Self::PROBE_STEP.powi(steps),
            None if self.dither_up => 1.0 + Self::DITHER,
            None => 1.0 - Self::DITHER,
        };
        round(clamp_limit(self.limit * factor, self.min, self.max))
    }

    fn step_probe(&mut self, before: f64, steps: i32, median: f64, window: &Window<'_>) {
        let bottom = window.limit <= self.min.max(4);
        if median > before * 0.93 || bottom {
            self.baseline = Some(median.min(before));
            self.probe = None;
            self.schedule_probe(window.end);
            self.previous = None;
        } else {
            self.probe = Some((median, steps + 1));
        }
    }

    fn schedule_probe(&mut self, now: Duration) {
        let seconds = Self::PROBE_EVERY * self.rng.between(0.85, 1.15);
        self.next_probe = now + Duration::from_secs_f64(seconds);
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
            self.elasticity += 0.2 * (slope.clamp(-1.0, 2.0) - self.elasticity);
            let factor = (0.15 * (self.elasticity - Self::WORTH)).exp();
            self.tolerance = (self.tolerance * factor).clamp(0.03, 0.6);
        }
        self.previous = Some(measured);
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
        WindowSize {
            duration: Duration::from_millis(100),
            samples: 60.max(3 * u64::from(limit)),
        }
    }

    fn on_window(&mut self, window: &Window<'_>) -> Next {
        let median = window.latencies.quantile(0.5);
        let throughput = window.throughput();
        if !(median > 0.0 && throughput > 0.0) {
            return Next {
                limit: window.limit,
                settle: Duration::ZERO,
            };
        }
        self.median = median;
        let settle = Duration::from_secs_f64(median.min(0.5));
        let bound = window.is_limit_bound();

        let Some(baseline) = self.baseline else {
            self.baseline = Some(median);
            self.schedule_probe(window.end);
            return Next {
                limit: self.applied(),
                settle,
            };
        };
        if let Some((before, steps)) = self.probe {
            self.step_probe(before, steps, median, window);
            return Next {
                limit: self.applied(),
                settle,
            };
        }
        let baseline = baseline.min(median);
        self.baseline = Some(baseline);
        self.learn(Measured {
            up: self.dither_up,
            ln_throughput: throughput.ln(),
            ln_limit: f64::from(window.limit).ln(),
            bound,
        });
        self.dither_up = !self.dither_up;
        if bound {
            let gradient = (baseline * (1.0 + self.tolerance) / median).clamp(0.7, 1.3);
            let aim = self.limit * gradient + Self::HEADROOM * self.limit.sqrt();
            let mut next = 0.5 * self.limit + 0.5 * aim;
            if self
                .target
                .is_some_and(|t| window.latencies.quantile(0.99) > 2.0 * t)
            {
                next = next.min(0.8 * self.limit);
            }
            self.cuts = if next < 0.97 * self.limit {
                self.cuts + 1
            } else {
                0
            };
            self.limit = clamp_limit(next, self.min, self.max);
            if window.end >= self.next_probe || self.cuts >= Self::CUTS_BEFORE_PROBE {
                self.probe = Some((median, 1));
                self.cuts = 0;
            }
        } else {
            let cap = self
                .initial
                .max(Self::IDLE_CAP * f64::from(window.max_in_flight));
            self.limit = clamp_limit(self.limit.min(cap), self.min, self.max);
        }
        Next {
            limit: self.applied(),
            settle,
        }
    }

    fn on_overload(&mut self, now: Duration, _in_flight: u32) -> Option<u32> {
        if now < self.quiet_until {
            return None;
        }
        let pause = Duration::from_secs_f64(self.median.clamp(0.001, 1.0));
        self.quiet_until = now.saturating_add(pause);
        self.limit = clamp_limit(self.limit * 0.9, self.min, self.max);
        Some(self.applied())
    }

    fn set_range(&mut self, min: u32, max: u32) {
        (self.min, self.max) = (min, max);
        self.limit = clamp_limit(self.limit, min, max);
    }
}
