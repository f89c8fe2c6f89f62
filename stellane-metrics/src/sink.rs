//! Where metrics go: text, or a recorder of the `metrics` facade.

use crate::catalogue::Metric;

pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A histogram as it stands: not cumulative, one bucket more than bounds.
pub(crate) struct HistogramValue<'a> {
    pub(crate) bounds: &'a [f64],
    pub(crate) buckets: &'a [u64],
    pub(crate) sum: f64,
}

/// Takes every series of a metric after `start`, with totals since the process began.
pub(crate) trait Sink {
    fn start(&mut self, metric: &Metric);
    fn counter(&mut self, metric: &Metric, labels: Labels<'_>, total: u64);
    fn gauge(&mut self, metric: &Metric, labels: Labels<'_>, value: f64);
    fn histogram(&mut self, metric: &Metric, labels: Labels<'_>, value: &HistogramValue<'_>);
}
