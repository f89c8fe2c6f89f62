//! The table of HTTP series: written per thread without shared atomics, read by whoever exports.

mod exemplars;
pub(crate) mod export;
mod grpc;
mod handles;
pub(crate) mod histogram;
mod index;
pub(crate) mod labels;
mod layout;
pub(crate) mod past;
pub(crate) mod recording;
mod registry;
mod routes;
mod running;
mod slot;

use std::{fmt, sync::Arc, time::Duration};

use crate::{BuildError, MetricsConfig};
pub use exemplars::Exemplar;
pub(crate) use handles::{Handle, Handles};
use histogram::Totals;
pub use labels::Outcome;
#[cfg(feature = "prometheus")]
pub(crate) use layout::SIZE_BOUNDS;
pub use past::RouteHistory;
pub use recording::{Ended, Recording, Told};
pub use registry::Ticks;
pub(crate) use registry::{Table, UNMATCHED};
pub use routes::RouteStats;
pub use running::RunningPoll;
pub use slot::own as thread_number;

/// The request metrics of one server: a cheap handle to the table that [`MetricsLayer`](crate::MetricsLayer) writes.
///
/// A request costs no allocation and no write to memory that another thread writes: each thread has cells of its own,
/// which are summed when somebody looks. Series are capped by [`MetricsConfig::max_routes`] and
/// [`MetricsConfig::max_series`].
///
/// Build one per server, not one per request: the table takes some 60 KiB, and about as much for each thread that writes
/// to it. It is freed with the last handle and the last request.
///
/// ```
/// use stellane_metrics::{HttpMetrics, MetricsLayer};
///
/// # fn main() -> Result<(), stellane_metrics::BuildError> {
/// let http = HttpMetrics::builder().build()?;
/// let layer = MetricsLayer::new(&http);
/// assert_eq!(http.stats().requests_total, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HttpMetrics {
    pub(crate) table: Arc<Handles>,
}

impl HttpMetrics {
    /// Starts with the default configuration.
    pub fn builder() -> HttpMetricsBuilder {
        HttpMetricsBuilder::default()
    }

    /// The totals since the start.
    pub fn stats(&self) -> HttpStats {
        let totals = self.table.totals();
        HttpStats {
            requests_total: totals.finished,
            requests_in_flight: totals.started.saturating_sub(totals.finished),
            requests_cancelled_total: totals.cancelled,
            requests_failed_total: totals.failed,
            overflow_total: totals.overflow,
            routes: self.table.route_count(),
            series: self.table.series_count(),
        }
    }

    /// What each route has done since the start, busiest first.
    pub fn routes(&self) -> Vec<RouteStats> {
        routes::collect(&self.table)
    }

    /// The templates of all routes that were named so far.
    #[must_use]
    pub fn templates(&self) -> Vec<Arc<str>> {
        self.table.templates()
    }

    /// How many those are.
    #[inline]
    #[must_use]
    pub fn template_count(&self) -> usize {
        self.table.route_count()
    }

    /// What the threads poll at this moment, as far as it is the call or the future of a measured service. A thread
    /// that shows the same [`RunningPoll::serial`] for long is held by a handler.
    ///
    /// Not seen: response bodies, tasks and threads that a handler starts, and threads beyond the 8320th. What runs in
    /// `block_in_place` is seen, though it holds no thread of the runtime.
    pub fn running_polls(&self) -> impl Iterator<Item = RunningPoll> {
        self.table.running_polls()
    }

    /// That of one [thread](RunningPoll::thread).
    #[must_use]
    pub fn running_poll(&self, thread: usize) -> Option<RunningPoll> {
        self.table.running_poll(thread)
    }

    /// The request series in the Prometheus text format.
    ///
    /// [`Prometheus`](crate::Prometheus) renders these together with everything else.
    pub fn render(&self) -> String {
        let mut text = crate::text::TextSink::default();
        self.export(&mut text);
        text.into_string()
    }

    /// The clock by which requests are timed, for [`embed`](crate::embed).
    #[must_use]
    pub fn ticks(&self) -> Ticks {
        self.table.clock.clone()
    }

    pub(crate) fn config(&self) -> &MetricsConfig {
        &self.table.config
    }

    /// Takes down what the routes did in the last seconds.
    pub(crate) fn observe(
        &self,
        past: &mut past::RoutesPast,
        seconds: f64,
        most: usize,
    ) -> [u64; past::ENDS.len()] {
        past.observe(&self.table, seconds, most)
    }

    pub(crate) fn durations(&self) -> (Totals, Totals) {
        self.table.durations()
    }
}

impl fmt::Debug for HttpMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpMetrics")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// What [`HttpMetrics`] has counted since it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HttpStats {
    /// Requests that ended, in whatever way.
    pub requests_total: u64,
    /// Requests that started and did not end yet.
    pub requests_in_flight: u64,
    /// Requests whose future or body was dropped before its end.
    pub requests_cancelled_total: u64,
    /// Requests that ended in a 5xx, an error or a panic.
    pub requests_failed_total: u64,
    /// Requests that were counted in an overflow series because a cap was reached.
    pub overflow_total: u64,
    /// Route templates known.
    pub routes: usize,
    /// Series known.
    pub series: usize,
}

/// Builds [`HttpMetrics`].
#[must_use = "a builder does nothing until `build` is called"]
#[derive(Default)]
pub struct HttpMetricsBuilder {
    config: MetricsConfig,
    clock: Option<Clock>,
}

/// The time since some fixed instant.
pub(crate) type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

impl HttpMetricsBuilder {
    /// Replaces the configuration.
    pub fn config(mut self, config: MetricsConfig) -> Self {
        self.config = config;
        self
    }

    /// Measures time with this function, which must never go back, instead of the monotonic clock.
    pub fn clock(mut self, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Builds the table.
    ///
    /// # Errors
    ///
    /// [`BuildError::Config`] when a field of the configuration is out of range.
    pub fn build(self) -> Result<HttpMetrics, BuildError> {
        self.config.validate().map_err(BuildError::Config)?;
        let table = Table::new(self.config, self.clock);
        Ok(HttpMetrics {
            table: Handles::to(table),
        })
    }
}

impl fmt::Debug for HttpMetricsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpMetricsBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
