use std::time::Duration;

use super::{Algorithm, Next, Window, WindowSize, clamp_limit, round};

/// Additive increase, multiplicative decrease: +1 per window in use, ×0.9 when an answer says
/// "overloaded" or takes longer than a timeout.
///
/// Blind to latency below the timeout: without explicit refusals from below it grows to its maximum.
#[derive(Debug, Clone)]
pub struct Aimd {
    limit: f64,
    min: u32,
    max: u32,
    timeout: f64,
    quiet_until: Duration,
}

impl Aimd {
    /// Starts at `initial` and stays within `min..=max`; a window whose 90th percentile exceeds
    /// `timeout` counts as overload.
    #[must_use]
    pub fn new(initial: u32, min: u32, max: u32, timeout: Duration) -> Self {
        Self {
            limit: clamp_limit(f64::from(initial), min, max),
            min,
            max,
            timeout: timeout.as_secs_f64(),
            quiet_until: Duration::ZERO,
        }
    }

    fn cut(&mut self) {
        self.limit = clamp_limit(self.limit * 0.9, self.min, self.max);
    }
}

impl Algorithm for Aimd {
    fn name(&self) -> &'static str {
        "aimd"
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
        if window.latencies.quantile(0.9) > self.timeout {
            self.cut();
        } else if window.overloads == 0 && window.max_in_flight.saturating_mul(2) >= window.limit {
            self.limit = clamp_limit(self.limit + 1.0, self.min, self.max);
        }
        Next::at_once(round(self.limit))
    }

    fn on_overload(&mut self, now: Duration, _in_flight: u32) -> Option<u32> {
        if now < self.quiet_until {
            return None;
        }
        self.quiet_until = now + Duration::from_millis(100);
        self.cut();
        Some(round(self.limit))
    }

    fn set_range(&mut self, min: u32, max: u32) {
        (self.min, self.max) = (min, max);
        self.limit = clamp_limit(self.limit, min, max);
    }
}
