//! Publishing to any recorder of the `metrics` facade.

use std::{collections::HashMap, fmt, sync::Arc};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString};

use crate::{
    HttpMetrics, RuntimeMetrics,
    catalogue::{Kind, Metric},
    sink::{HistogramValue, Labels, Sink},
};

static METADATA: Metadata<'static> = Metadata::new("stellane_metrics", Level::INFO, None);

/// Copies the tables to a recorder of the `metrics` facade whenever [`publish`](Self::publish) is called.
///
/// Not needed with [`prometheus()`](crate::prometheus()), which renders the tables itself: with both, every series would appear twice.
/// The recorder is asked for its handles at the first `publish`, so a global one may be installed after this is built.
/// A duration reaches the recorder as the middle of its bucket: use [`DurationBuckets::Fine`](crate::DurationBuckets)
/// if that is too coarse.
///
/// ```
/// use stellane_metrics::{FacadePublisher, HttpMetrics};
///
/// # fn main() -> Result<(), stellane_metrics::BuildError> {
/// let http = HttpMetrics::builder().build()?;
/// let mut publisher = FacadePublisher::global().http(&http);
/// publisher.publish(); // every few seconds
/// # Ok(())
/// # }
/// ```
pub struct FacadePublisher {
    recorder: Option<Arc<dyn Recorder + Send + Sync>>,
    http: Option<HttpMetrics>,
    runtime: Option<RuntimeMetrics>,
    handles: HashMap<SeriesName, Handle>,
}

#[derive(PartialEq, Eq, Hash)]
struct SeriesName(&'static str, Vec<(String, String)>);

enum Handle {
    Counter(Counter),
    Gauge(Gauge),
    Histogram {
        histogram: Histogram,
        published: Vec<u64>,
    },
}

impl FacadePublisher {
    /// Publishes to the recorder that is installed for the process when [`publish`](Self::publish) is first called.
    pub fn global() -> Self {
        Self {
            recorder: None,
            http: None,
            runtime: None,
            handles: HashMap::new(),
        }
    }

    /// Publishes to this recorder.
    pub fn new(recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        Self {
            recorder: Some(recorder),
            ..Self::global()
        }
    }

    /// Publishes these request metrics.
    #[must_use]
    pub fn http(mut self, http: &HttpMetrics) -> Self {
        self.http = Some(http.clone());
        self
    }

    /// Publishes these runtime metrics.
    #[must_use]
    pub fn runtime(mut self, runtime: &RuntimeMetrics) -> Self {
        self.runtime = Some(runtime.clone());
        self
    }

    /// Brings the recorder up to date.
    pub fn publish(&mut self) {
        let recorder = self.recorder.clone();
        match recorder {
            Some(recorder) => self.publish_to(&*recorder),
            None => metrics::with_recorder(|recorder| self.publish_to(recorder)),
        }
    }

    /// Publishes at this interval, for ever. Spawn it once; a few seconds suit most recorders.
    #[cfg(feature = "tokio")]
    pub async fn run(mut self, interval: std::time::Duration) {
        let mut interval = tokio::time::interval(interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            interval.tick().await;
            self.publish();
        }
    }

    fn publish_to(&mut self, recorder: &dyn Recorder) {
        let mut sink = FacadeSink {
            recorder,
            handles: &mut self.handles,
        };
        if let Some(http) = &self.http {
            http.export(&mut sink);
        }
        if let Some(runtime) = &self.runtime {
            runtime.export(&mut sink);
        }
    }
}

impl fmt::Debug for FacadePublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FacadePublisher")
            .field("series", &self.handles.len())
            .finish_non_exhaustive()
    }
}

struct FacadeSink<'a> {
    recorder: &'a dyn Recorder,
    handles: &'a mut HashMap<SeriesName, Handle>,
}

impl FacadeSink<'_> {
    fn handle(&mut self, metric: &Metric, labels: Labels<'_>) -> &mut Handle {
        let owned = labels
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let recorder = self.recorder;
        self.handles
            .entry(SeriesName(metric.name, owned))
            .or_insert_with(|| {
                let labels: Vec<_> = labels
                    .iter()
                    .map(|(n, v)| Label::new((*n).to_owned(), (*v).to_owned()))
                    .collect();
                let key = Key::from_parts(metric.name, labels);
                match metric.kind {
                    Kind::Counter => Handle::Counter(recorder.register_counter(&key, &METADATA)),
                    Kind::Gauge => Handle::Gauge(recorder.register_gauge(&key, &METADATA)),
                    Kind::Histogram => Handle::Histogram {
                        histogram: recorder.register_histogram(&key, &METADATA),
                        published: Vec::new(),
                    },
                }
            })
    }
}

impl Sink for FacadeSink<'_> {
    fn start(&mut self, metric: &Metric) {
        let help = SharedString::const_str(metric.help);
        match metric.kind {
            Kind::Counter => self
                .recorder
                .describe_counter(metric.name.into(), None, help),
            Kind::Gauge => self.recorder.describe_gauge(metric.name.into(), None, help),
            Kind::Histogram => self
                .recorder
                .describe_histogram(metric.name.into(), None, help),
        }
    }

    fn counter(&mut self, metric: &Metric, labels: Labels<'_>, total: u64) {
        if let Handle::Counter(counter) = self.handle(metric, labels) {
            counter.absolute(total);
        }
    }

    fn gauge(&mut self, metric: &Metric, labels: Labels<'_>, value: f64) {
        match self.handle(metric, labels) {
            Handle::Gauge(gauge) => gauge.set(value),
            // The facade's counters are whole numbers.
            Handle::Counter(counter) => counter.absolute(value as u64),
            Handle::Histogram { .. } => {}
        }
    }

    fn histogram(&mut self, metric: &Metric, labels: Labels<'_>, value: &HistogramValue<'_>) {
        let Handle::Histogram {
            histogram,
            published,
        } = self.handle(metric, labels)
        else {
            return;
        };
        published.resize(value.buckets.len(), 0);
        for (bucket, (total, published)) in value.buckets.iter().zip(published).enumerate() {
            let new = total.saturating_sub(*published);
            *published = *total;
            if new > 0 {
                let low = bucket
                    .checked_sub(1)
                    .map_or(0.0, |below| value.bounds[below]);
                // What lies above the last bound is published as twice that bound.
                let high = value.bounds.get(bucket).copied().unwrap_or(low * 3.0);
                histogram.record_many((low + high) / 2.0, new as usize);
            }
        }
    }
}
