//! Metrics that components bring along.

use std::{
    fmt,
    sync::{PoisonError, RwLock},
};

use crate::{
    BuildError,
    catalogue::{Metric, catalogue},
    sink::Sink,
    text::is_metric_name,
};

/// Takes what a metric says now: see [`RuntimeMetrics::add`](super::RuntimeMetrics::add).
pub struct Values<'a> {
    metric: &'a Metric,
    sink: &'a mut dyn Sink,
}

impl Values<'_> {
    /// The value, of a metric without labels.
    pub fn set(&mut self, value: f64) {
        self.labelled(&[], value);
    }

    /// The value of one series, which no other call has named.
    pub fn labelled(&mut self, labels: &[(&str, &str)], value: f64) {
        self.sink.gauge(self.metric, labels, value);
    }
}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Values").field(&self.metric.name).finish()
    }
}

type Read = Box<dyn Fn(&mut Values<'_>) + Send + Sync>;

#[derive(Default)]
pub(super) struct Added(RwLock<Vec<(Metric, Read)>>);

impl Added {
    pub(super) fn add(&self, metric: Metric, read: Read) -> Result<(), BuildError> {
        if !is_metric_name(metric.name) {
            return Err(BuildError::MetricName(metric.name));
        }
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut names = catalogue()
            .iter()
            .copied()
            .chain(all.iter().map(|(one, _)| one));
        if names.any(|one| one.name == metric.name) {
            return Err(BuildError::MetricTwice(metric.name));
        }
        all.push((metric, read));
        Ok(())
    }

    pub(super) fn export(&self, sink: &mut dyn Sink) {
        for (metric, read) in &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            sink.start(metric);
            read(&mut Values { metric, sink });
        }
    }

    #[cfg(feature = "prometheus")]
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(metric, _)| *metric).collect()
    }

    #[cfg(feature = "prometheus")]
    pub(super) fn contains(&self, name: &str) -> bool {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().any(|(metric, _)| metric.name == name)
    }
}
