/// What happened in one run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Every answer: when, after how long, and whether somebody still waited for it, in seconds.
    pub answers: Vec<(f64, f32, bool)>,
    /// The state of the limit ten times a second.
    pub samples: Vec<Sample>,
    /// Requests that arrived, retries included.
    pub arrived: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// When, in seconds.
    pub refused_at: Vec<f32>,
    /// Of the [`Others`](super::Others): how many came, were refused, and were done.
    pub others: (u64, u64, u64),
    /// The most requests in flight at a time.
    pub peak: u32,
    /// What the limit said of itself whenever that was something new, and when.
    pub said: Vec<(f64, String)>,
    pub(super) slo: f64,
}

/// The state of the limit at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When, in seconds.
    pub at: f64,
    /// The limit.
    pub limit: u32,
    /// Requests in flight.
    pub in_flight: u32,
}

impl Run {
    /// Answers in time per second, between two moments.
    #[must_use]
    pub fn goodput(&self, from: f64, to: f64) -> f64 {
        let good = self
            .answers
            .iter()
            .filter(|(at, latency, wanted)| {
                (from..to).contains(at) && *wanted && f64::from(*latency) <= self.slo
            })
            .count();
        good as f64 / (to - from)
    }

    /// A quantile of the latency of the answers between two moments, in seconds.
    #[must_use]
    pub fn latency(&self, q: f64, from: f64, to: f64) -> f64 {
        let within = self
            .answers
            .iter()
            .filter(|(at, ..)| (from..to).contains(at));
        let mut latencies: Vec<f32> = within.map(|(_, latency, _)| *latency).collect();
        if latencies.is_empty() {
            return 0.0;
        }
        latencies.sort_by(f32::total_cmp);
        f64::from(latencies[((latencies.len() - 1) as f64 * q) as usize])
    }

    /// How far the limit strays from its median between two moments, as a fraction of it: nine in ten of its means
    /// over a second are within this.
    #[must_use]
    pub fn limit_band(&self, from: f64, to: f64) -> f64 {
        let seconds = (0..(to - from) as u32).map(|second| from + f64::from(second));
        let mut means: Vec<f64> = seconds.map(|at| self.limits(at, at + 1.0).0).collect();
        means.sort_by(f64::total_cmp);
        let Some(median) = means.get(means.len() / 2).copied() else {
            return 0.0;
        };
        let mut off: Vec<f64> = means.iter().map(|m| (m / median - 1.0).abs()).collect();
        off.sort_by(f64::total_cmp);
        off[(off.len() - 1) * 9 / 10]
    }

    /// The mean, lowest and highest limit between two moments.
    #[must_use]
    pub fn limits(&self, from: f64, to: f64) -> (f64, u32, u32) {
        let within = self
            .samples
            .iter()
            .filter(|sample| (from..to).contains(&sample.at));
        let limits: Vec<u32> = within.map(|sample| sample.limit).collect();
        let mean =
            limits.iter().map(|limit| f64::from(*limit)).sum::<f64>() / limits.len().max(1) as f64;
        let low = limits.iter().copied().min().unwrap_or(0);
        (mean, low, limits.iter().copied().max().unwrap_or(0))
    }
}
