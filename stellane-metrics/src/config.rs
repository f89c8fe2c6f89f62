//! The configuration of the request metrics and the errors of this crate.

use std::{error::Error, fmt, time::Duration};

/// Which bounds the duration histograms of the scrape have.
///
/// The percentiles of [`RuntimeSnapshot`](crate::RuntimeSnapshot) do not depend on it: they come from a finer histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum DurationBuckets {
    /// The 14 bounds that OpenTelemetry recommends, 5 ms to 10 s. Everything below 5 ms is one bucket: a dashboard then
    /// says 3 ms of a service that answers in microseconds.
    Otel,
    /// The OpenTelemetry bounds and 5 more below 5 ms, from 100 µs.
    #[default]
    Fine,
}

impl DurationBuckets {
    /// The upper bounds, in seconds.
    pub fn bounds(self) -> &'static [f64] {
        const FINE: &[f64] = &[
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25,
            0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
        ];
        match self {
            Self::Otel => &FINE[5..],
            Self::Fine => FINE,
        }
    }
}

/// The configuration of [`HttpMetrics`](crate::HttpMetrics) and [`RuntimeMetrics`](crate::RuntimeMetrics).
///
/// ```
/// let mut config = stellane_metrics::MetricsConfig::default();
/// config.max_series = 0;
/// assert_eq!(config.validate().unwrap_err()[0].key, "max_series");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct MetricsConfig {
    /// How many route templates get a label of their own; later ones share `__overflow__`. Default 1000.
    ///
    /// Too low folds real routes together; too high lets a wrong route closure (one that returns paths) cost memory.
    pub max_routes: usize,
    /// How many series (route, method, status, ...) are kept; later ones share one. Default 2000.
    ///
    /// Each series takes about 0.5 KB per thread that records it; each thread that serves requests takes about 20 KB and 24 bytes for
    /// each series allowed.
    pub max_series: usize,
    /// The value of `http_route` when no route matched. Default `_UNMATCHED`. Never the raw path: scanners would mint series.
    pub unmatched_route: String,
    /// The bounds of the duration histograms in the scrape. Default `fine`.
    pub duration_buckets: DurationBuckets,
    /// `url_scheme` of requests that do not carry one (all of HTTP/1). Default `http`; set `https` behind TLS.
    pub https: bool,
    /// How often the collector reads the components. Default 250 ms.
    ///
    /// Too low costs CPU (a tick takes about 50 µs); too high makes the live page and the rates stutter.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub interval: Duration,
    /// Over how much time rates and percentiles are computed. Default 10 s, at most 1000 times the interval.
    ///
    /// Too low makes percentiles jump; too high hides a change.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub window: Duration,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            max_routes: 1000,
            max_series: 2000,
            unmatched_route: "_UNMATCHED".to_owned(),
            duration_buckets: DurationBuckets::Fine,
            https: false,
            interval: Duration::from_millis(250),
            window: Duration::from_secs(10),
        }
    }
}

impl MetricsConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// All that is wrong, not only the first.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut check = |ok: bool, key, value: String, expected: &str| {
            if !ok {
                errors.push(ConfigError {
                    key,
                    value,
                    expected: expected.to_owned(),
                });
            }
        };
        check(
            (1..=MAX_ROUTES).contains(&self.max_routes),
            "max_routes",
            self.max_routes.to_string(),
            "1 to 100000",
        );
        check(
            (1..=MAX_SERIES).contains(&self.max_series),
            "max_series",
            self.max_series.to_string(),
            "1 to 1000000",
        );
        check(
            !self.unmatched_route.is_empty(),
            "unmatched_route",
            format!("{:?}", self.unmatched_route),
            "a name that is not empty",
        );
        let interval = self.interval;
        check(
            (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&interval),
            "interval",
            format!("{interval:?}"),
            "10ms to 60s",
        );
        check(
            self.window >= interval && self.window <= interval.saturating_mul(1000),
            "window",
            format!("{:?}", self.window),
            "1 to 1000 times `interval`",
        );
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

const MAX_ROUTES: usize = 100_000;
const MAX_SERIES: usize = 1_000_000;

/// One field of a configuration that is out of range.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigError {
    /// The name of the field.
    pub key: &'static str,
    /// The value it had.
    pub value: String,
    /// What would have been accepted.
    pub expected: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` = {}: expected {}",
            self.key, self.value, self.expected
        )
    }
}

impl Error for ConfigError {}

/// Why a component could not be built.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// Fields of the configuration are out of range.
    Config(Vec<ConfigError>),
    /// A recorder of the `metrics` facade is already installed: do not install ours, and publish to that one by a
    /// `FacadePublisher`, or do not install the other one.
    RecorderInstalled,
    /// The histogram bounds of the exporter were refused.
    Buckets(String),
    /// A metric of this name is exported already.
    MetricTwice(&'static str),
    /// No name of a metric: letters, digits and `_`, no digit first.
    MetricName(&'static str),
    /// A path of the admin service is taken or does not start with `/`.
    AdminPath(String),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => {
                for (i, error) in errors.iter().enumerate() {
                    write!(f, "{}{error}", if i == 0 { "" } else { "; " })?;
                }
                Ok(())
            }
            Self::RecorderInstalled => f.write_str(
                "a metrics recorder is already installed in this process: publish to it by a `FacadePublisher`, or install only one",
            ),
            Self::Buckets(why) => write!(f, "histogram bounds refused: {why}"),
            Self::MetricTwice(name) => write!(f, "the metric `{name}` is exported already: take another name"),
            Self::MetricName(name) => write!(
                f,
                "`{name}` is no name of a metric: expected letters, digits and `_`, no digit first"
            ),
            Self::AdminPath(path) => {
                write!(f, "admin path {path:?} is taken or does not start with `/`")
            }
        }
    }
}

impl Error for BuildError {}
