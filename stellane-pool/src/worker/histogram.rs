use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Four buckets for each power of two of nanoseconds, up to about 36 minutes.
const BUCKETS: usize = 160;

/// Durations as one worker records them. Only that worker writes, so no read-modify-write is needed.
#[derive(Debug)]
pub(super) struct Recorder {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            sum: AtomicU64::new(0),
        }
    }
}

impl Recorder {
    pub(super) fn record(&self, nanos: u64) {
        bump(&self.counts[bucket(nanos)], 1);
        bump(&self.sum, nanos);
    }
}

/// Adds to a counter that only the calling thread writes.
pub(super) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

fn bucket(nanos: u64) -> usize {
    let scaled = nanos.max(4);
    let power = scaled.ilog2();
    let quarter = (scaled >> (power - 2)) & 3;
    ((power as usize - 2) * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The upper end of a bucket, exclusive.
fn upper(bucket: usize) -> Duration {
    Duration::from_nanos((bucket as u64 % 4 + 5) << (bucket / 4))
}

/// How often which durations were measured; exact to a quarter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    sum: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
            sum: 0,
        }
    }
}

impl Histogram {
    pub(super) fn add(&mut self, recorder: &Recorder) {
        for (count, more) in self.counts.iter_mut().zip(&recorder.counts) {
            *count += more.load(Relaxed);
        }
        self.sum += recorder.sum.load(Relaxed);
    }

    /// What has been measured since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (count, before) in since.counts.iter_mut().zip(&*earlier.counts) {
            *count = count.saturating_sub(*before);
        }
        since.sum = since.sum.saturating_sub(earlier.sum);
        since
    }

    /// How many were measured.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them added up.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum)
    }

    /// The upper end of the bucket that holds the quantile; zero without measurements.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = ((self.count() as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(bucket);
            }
        }
        Duration::ZERO
    }

    /// The buckets that are not empty: their upper end and their count.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let all = self.counts.iter().enumerate();
        all.filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (upper(bucket), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_quarter() {
        let recorder = Recorder::default();
        for micros in 1..=1000_u64 {
            recorder.record(micros * 1000);
        }
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), Duration::ZERO);
        histogram.add(&recorder);
        for (q, exact) in [(0.5, 500_000), (0.9, 900_000), (0.99, 990_000)] {
            let nanos = histogram.quantile(q).as_nanos() as u64;
            assert!((exact..=exact + exact / 4 + 1).contains(&nanos), "{nanos}");
        }
        assert_eq!(histogram.count(), 1000);
        assert_eq!(histogram.sum(), Duration::from_micros(500_500));
        let earlier = histogram.clone();
        recorder.record(u64::MAX / 2);
        let mut later = Histogram::default();
        later.add(&recorder);
        assert_eq!(later.since(&earlier).count(), 1);
    }
}
