use std::time::Duration;

use super::{Algorithm, Next, Window, WindowSize, clamp_limit, round};

/// Netflix' Gradient2: the mean of a window against an average over 600 windows.
///
/// The long average follows a lasting overload, so the limit drifts up; after a lasting rise of
/// the latency it collapses first. Explicit refusals from below are not heard.
#[derive(Debug, Clone)]
pub struct Gradient2 {
    limit: f64,
    min: u32,
    max: u32,
    long: f64,
    seen: u32,
}

impl Gradient2 {
    const LONG_WINDOW: f64 = 600.0;
    const WARM_UP: u32 = 10;

    /// Starts at `initial` and stays within `min..=max`.
    #[must_use]
    pub fn new(initial: u32, min: u32, max: u32) -> Self {
        Self {
            limit: clamp_limit(f64::from(initial), min, max),
            min,
            max,
            long: 0.0,
            seen: 0,
        }
    }
}

impl Algorithm for Gradient2 {
    fn name(&self) -> &'static str {
        "gradient2"
    }

    fn initial(&self) -> u32 {
        round(self.limit)
    }

    fn window(&self, _limit: u32) -> WindowSize {
        WindowSize {
            duration: Duration::from_secs(1),
            samples: 10,
            patience: Duration::MAX,
        }
    }

    fn on_window(&mut self, window: &Window<'_>) -> Next {
        let short = window.latencies.mean();
        if self.seen < Self::WARM_UP {
            self.seen += 1;
            self.long += (short - self.long) / f64::from(self.seen);
        } else {
            self.long += (short - self.long) * 2.0 / (Self::LONG_WINDOW + 1.0);
        }
        if self.long / short > 2.0 {
            self.long *= 0.95;
        }
        if f64::from(window.max_in_flight) >= self.limit / 2.0 {
            let gradient = (1.5 * self.long / short).clamp(0.5, 1.0);
            let next = 0.8 * self.limit + 0.2 * (self.limit * gradient + 4.0);
            self.limit = clamp_limit(next, self.min, self.max);
        }
        Next::at_once(round(self.limit))
    }

    fn set_range(&mut self, min: u32, max: u32) {
        (self.min, self.max) = (min, max);
        self.limit = clamp_limit(self.limit, min, max);
    }
}
