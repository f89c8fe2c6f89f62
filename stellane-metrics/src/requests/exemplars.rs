//! A request for each bucket that leads from a figure to a trace.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

/// A request that counts in a bucket, and was traced.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Exemplar {
    /// What it added, in the unit of the metric.
    pub value: f64,
    /// Its trace.
    pub trace_id: u128,
    /// Its span.
    pub span_id: u64,
    /// When it ended.
    pub at: SystemTime,
}

/// The latest of each bucket of each series of the duration, for so many buckets: 80 KiB at most.
const MOST: usize = 1024;

#[derive(Default)]
pub(super) struct Exemplars(Mutex<HashMap<(u64, u8), Exemplar>>);

impl Exemplars {
    /// Of those beyond what there is room for none is kept. Nobody waits for the lock on the way of a request.
    #[cfg(feature = "tracing")]
    pub(super) fn put(&self, series: u64, bucket: usize, exemplar: Exemplar) {
        let Ok(mut all) = self.0.try_lock() else {
            return;
        };
        let key = (series, bucket as u8);
        if all.len() < MOST || all.contains_key(&key) {
            all.insert(key, exemplar);
        }
    }

    /// Those of a series, by bucket.
    pub(super) fn of(&self, series: u64, buckets: &mut [Option<Exemplar>]) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (bucket, exemplar) in buckets.iter_mut().enumerate() {
            *exemplar = all.get(&(series, bucket as u8)).copied();
        }
    }
}

const _: () = assert!(size_of::<((u64, u8), Exemplar)>() * MOST <= 80 << 10);
