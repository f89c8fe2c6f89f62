//! Where metrics go: text, a recorder of the `metrics` facade, or whatever walks them.

use crate::{Exemplar, catalogue::Metric};

/// The labels of a series: names and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A histogram as it stands, for a [`Sink`].
#[derive(Debug)]
#[non_exhaustive]
pub struct HistogramValue<'a> {
    /// The upper bounds of the buckets but the last, which has none.
    pub bounds: &'a [f64],
    /// What has fallen into each bucket: not cumulative, one more than bounds.
    pub buckets: &'a [u64],
    /// All added up.
    pub sum: f64,
    /// One for each bucket, or none at all.
    pub exemplars: &'a [Option<Exemplar>],
}

/// Takes every series of a metric after `start`, with totals since the process began: what
/// [`Prometheus::walk`](crate::Prometheus::walk) shows all metrics to.
pub trait Sink {
    /// The series that follow are of this metric.
    fn start(&mut self, metric: &Metric);
    /// A counter of whole numbers.
    fn counter(&mut self, metric: &Metric, labels: Labels<'_>, total: u64);
    /// A gauge, or a counter of other numbers: the [kind](Metric::kind) tells which.
    fn gauge(&mut self, metric: &Metric, labels: Labels<'_>, value: f64);
    /// A histogram.
    fn histogram(&mut self, metric: &Metric, labels: Labels<'_>, value: &HistogramValue<'_>);
}
