use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How long jobs waited: one counter for each power of two of microseconds.
#[derive(Debug)]
pub(super) struct WaitTimes {
    counts: [AtomicU64; 32],
}

impl Default for WaitTimes {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl WaitTimes {
    pub(super) fn record(&self, wait: Duration) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.counts[bucket.min(self.counts.len() - 1)].fetch_add(1, Relaxed);
    }

    /// The upper end of the bucket that holds the quantile; zero without jobs.
    pub(super) fn quantile(&self, q: f64) -> Duration {
        let counts: Vec<u64> = self
            .counts
            .iter()
            .map(|count| count.load(Relaxed))
            .collect();
        let total: u64 = counts.iter().sum();
        let rank = (total as f64 * q).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return Duration::from_micros((1 << bucket) - 1);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_factor_of_two() {
        let waits = WaitTimes::default();
        assert_eq!(waits.quantile(0.99), Duration::ZERO);
        for micros in 1..=1000 {
            waits.record(Duration::from_micros(micros));
        }
        assert_eq!(waits.quantile(0.5), Duration::from_micros(511));
        assert_eq!(waits.quantile(0.99), Duration::from_micros(1023));
    }
}
