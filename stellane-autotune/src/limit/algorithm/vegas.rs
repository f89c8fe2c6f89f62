use std::time::Duration;

use super::{Algorithm, Next, Window, WindowSize, clamp_limit, round};
use crate::clock::Rng;

/// TCP Vegas on requests: estimates the queue as `limit × (1 − best / mean)` and keeps it between
/// 3 and 6 times `log10(limit)`, once per 100 ms window.
///
/// Means are pulled up by a heavy tail, and the best latency is only forgotten at a random probe.
#[derive(Debug, Clone)]
pub struct Vegas {
    limit: f64,
    min: u32,
    max: u32,
    best: Option<f64>,
    windows: f64,
    jitter: f64,
    rng: Rng,
}

impl Vegas {
    /// Starts at `initial` and stays within `min..=max`.
    #[must_use]
    pub fn new(initial: u32, min: u32, max: u32, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let jitter = rng.between(0.5, 1.0);
        let limit = clamp_limit(f64::from(initial), min, max);
        Self {
            limit,
            min,
            max,
            best: None,
            windows: 0.0,
            jitter,
            rng,
        }
    }
}

impl Algorithm for Vegas {
    fn name(&self) -> &'static str {
        "vegas"
    }

    fn initial(&self) -> u32 {
        round(self.limit)
    }

    fn window(&self, _limit: u32) -> WindowSize {
        WindowSize {
            duration: Duration::from_millis(100),
            samples: 10,
            patience: Duration::MAX,
        }
    }

    fn on_window(&mut self, window: &Window<'_>) -> Next {
        let mean = window.latencies.mean();
        self.windows += 1.0;
        let probe = self.windows >= self.jitter * 30.0 * self.limit;
        if probe {
            self.jitter = self.rng.between(0.5, 1.0);
            self.windows = 0.0;
        }
        match self.best {
            Some(best) if !probe && mean >= best => {
                if window.max_in_flight.saturating_mul(2) >= window.limit {
                    let step = self.limit.log10().floor().max(1.0);
                    let queue = (self.limit * (1.0 - best / mean)).ceil();
                    let change = if queue <= step {
                        6.0 * step
                    } else if queue < 3.0 * step {
                        step
                    } else if queue > 6.0 * step {
                        -step
                    } else {
                        0.0
                    };
                    self.limit = clamp_limit(self.limit + change, self.min, self.max);
                }
            }
            _ => self.best = Some(mean),
        }
        Next::at_once(round(self.limit))
    }

    fn on_overload(&mut self, _now: Duration, _in_flight: u32) -> Option<u32> {
        self.limit = clamp_limit(
            self.limit - self.limit.log10().floor().max(1.0),
            self.min,
            self.max,
        );
        Some(round(self.limit))
    }

    fn set_range(&mut self, min: u32, max: u32) {
        (self.min, self.max) = (min, max);
        self.limit = clamp_limit(self.limit, min, max);
    }
}
