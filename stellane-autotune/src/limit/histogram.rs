use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::thread_number;

/// Sub-buckets per octave: a bucket is 3 % wide.
const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
/// Everything below 2^10 ns falls into the first buckets, everything above 2^37 ns into the last.
const LOW_BITS: u32 = 10;
const HIGH_BITS: u32 = 37;
pub(crate) const BUCKETS: usize = (HIGH_BITS - LOW_BITS) as usize * SUB;

/// Counts that only ever grow: a reader takes the difference of two readings, so nobody resets
/// anything under a writer. They wrap, and so do the differences.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shard {
    buckets: Box<[AtomicU32; BUCKETS]>,
}

impl Shard {
    pub(crate) fn new() -> Self {
        Self {
            buckets: Box::new([const { AtomicU32::new(0) }; BUCKETS]),
        }
    }

    #[inline]
    pub(crate) fn record(&self, nanos: u64, exclusive: bool) {
        thread_number::add_short(&self.buckets[bucket_of(nanos)], exclusive);
    }

    pub(crate) fn add_to(&self, sums: &mut [u32; BUCKETS]) {
        for (sum, bucket) in sums.iter_mut().zip(self.buckets.iter()) {
            *sum = sum.wrapping_add(bucket.load(Ordering::Relaxed));
        }
    }
}

/// The latencies of one window, in buckets 3 % wide from 1 µs to 137 s.
#[derive(Debug, Clone)]
pub struct Latencies {
    counts: Box<[u32; BUCKETS]>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
            total: 0,
        }
    }
}

impl Latencies {
    /// Adds one latency.
    pub fn record(&mut self, latency: Duration) {
        self.counts[bucket_of(crate::clock::saturating_nanos(latency))] += 1;
        self.total += 1;
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The `q`-quantile (`0.5` is the median) in seconds, interpolated inside its bucket; 0 when empty.
    #[must_use]
    pub fn quantile(&self, q: f64) -> f64 {
        if self.total == 0 {
            return 0.0;
        }
        let rank = q.clamp(0.0, 1.0) * self.total as f64;
        let mut below = 0.0;
        for (index, &count) in self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            let upto = below + f64::from(count);
            if upto >= rank {
                let (low, high) = bounds_of(index);
                return low + (high - low) * ((rank - below) / f64::from(count)).clamp(0.0, 1.0);
            }
            below = upto;
        }
        bounds_of(BUCKETS - 1).1
    }

    /// The mean in seconds; 0 when empty.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.total == 0 {
            return 0.0;
        }
        let sum: f64 = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(index, &count)| {
                let (low, high) = bounds_of(index);
                f64::from(count) * (low + high) / 2.0
            })
            .sum();
        sum / self.total as f64
    }

    /// Makes this the difference of two readings of the shards; returns how many latencies it holds.
    pub(crate) fn set_difference(&mut self, now: &[u32; BUCKETS], before: &[u32; BUCKETS]) -> u64 {
        self.total = 0;
        for (count, (now, before)) in self.counts.iter_mut().zip(now.iter().zip(before)) {
            *count = now.wrapping_sub(*before);
            self.total += u64::from(*count);
        }
        self.total
    }
}

#[inline]
fn bucket_of(nanos: u64) -> usize {
    let nanos = nanos.clamp(1 << LOW_BITS, (1 << HIGH_BITS) - 1);
    let octave = 63 - nanos.leading_zeros();
    let sub = (nanos >> (octave - SUB_BITS)) as usize & (SUB - 1);
    // The clamp above keeps this in range; the minimum lets the compiler see it.
    ((octave - LOW_BITS) as usize * SUB + sub).min(BUCKETS - 1)
}

/// The bounds of a bucket, in seconds.
fn bounds_of(index: usize) -> (f64, f64) {
    let octave = LOW_BITS + (index / SUB) as u32;
    let width = (1_u64 << (octave - SUB_BITS)) as f64;
    let low = (1_u64 << octave) as f64 + (index % SUB) as f64 * width;
    (low * 1e-9, (low + width) * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let mut latencies = Latencies::default();
        for micros in 1..=10_000 {
            latencies.record(Duration::from_micros(micros));
        }
        for q in [0.01, 0.1, 0.5, 0.9, 0.99, 1.0] {
            let error = latencies.quantile(q) / (q * 0.01) - 1.0;
            assert!(error.abs() < 0.035, "q {q}: off by {error}");
        }
        assert!((latencies.mean() / 0.005 - 1.0).abs() < 0.02);
    }

    #[test]
    fn extremes_fall_into_the_end_buckets() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::ZERO);
        latencies.record(Duration::MAX);
        assert_eq!(latencies.len(), 2);
        assert!(latencies.quantile(1.0) > 100.0);
        assert!(latencies.quantile(0.0) < 2e-6);
    }

    #[test]
    fn every_bucket_starts_where_the_one_before_ends() {
        for index in 1..BUCKETS {
            let gap = bounds_of(index).0 - bounds_of(index - 1).1;
            assert!(gap.abs() < 1e-12, "bucket {index}");
        }
    }
}
