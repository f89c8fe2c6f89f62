//! [`TraceLayer`]: one span per request under OpenTelemetry's names, `traceparent`, and a log of slow requests.

mod context;
mod service;
mod span;

use std::time::Duration;

use http::Request;
use tower_layer::Layer;
use tracing_subscriber::{EnvFilter, reload};

pub use context::TraceContext;
pub use service::{TraceBody, TraceFuture, TraceService};
pub use span::{Asked, BeginSpan, Known, RequestSpan, Spans, Spent};

/// Opens a span for each request and closes it when the response body ends.
///
/// The span is called `request`, its target is `stellane_metrics::trace`, and it has the names of OpenTelemetry's semantic conventions:
/// `http.request.method`, `url.path`, `http.route`, `http.response.status_code`, `otel.name`, `trace_id`, `span_id`, ...
/// The [`TraceContext`] of the `traceparent` header, or a new one, lies in the extensions of the request, with this
/// server as the parent, to be passed on: the `traceparent` header of the request is replaced by it.
///
/// Put it inside of [`MetricsLayer`](crate::MetricsLayer), so that refusals of outer layers cost no span, and so that it
/// knows the routes that [`label_route`](crate::label_route) names.
///
/// tower-http's `TraceLayer` can't do all of that by its `MakeSpan` and `OnResponse`: it does not hear of a body that ends by
/// its `Content-Length`, where a server stops polling, nor of a client that leaves; the size of the answer and a route that
/// the handler's router names are known to it too late or never; and who is not sampled pays for it as well.
///
/// ```
/// use std::time::Duration;
/// use stellane_metrics::TraceLayer;
///
/// let layer = TraceLayer::new()
///     .sample(0.1) // of the requests that no caller has decided for
///     .slow(Duration::from_millis(500)); // is logged, sampled or not
/// # let _ = layer;
/// ```
#[derive(Debug, Clone)]
pub struct TraceLayer<Q = crate::NoRoute> {
    pub(crate) settings: Settings,
    request_route: Q,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Of 2^64.
    pub(crate) sample: u64,
    pub(crate) slow: Duration,
}

impl TraceLayer {
    /// Samples every request and logs those that take longer than a second.
    #[expect(
        clippy::new_without_default,
        reason = "the defaults are worth writing down"
    )]
    pub fn new() -> Self {
        let settings = Settings {
            sample: u64::MAX,
            slow: Duration::from_secs(1),
        };
        Self {
            settings,
            request_route: crate::NoRoute,
        }
    }
}

impl<Q> TraceLayer<Q> {
    /// Opens a span for this share of the requests, 0 to 1. A caller's decision in `traceparent` has precedence.
    #[must_use]
    pub fn sample(mut self, share: f64) -> Self {
        // A cast of floats to integers saturates.
        self.settings.sample = (share * u64::MAX as f64) as u64;
        self
    }

    /// Logs requests whose body ends later than this, as a warning. Zero turns it off.
    #[must_use]
    pub fn slow(mut self, threshold: Duration) -> Self {
        self.settings.slow = threshold;
        self
    }

    /// Takes `http.route` from the request, as [`MetricsLayer::route_from_request`](crate::MetricsLayer::route_from_request) does.
    #[must_use]
    pub fn route_from_request<B, F>(self, find: F) -> TraceLayer<F>
    where
        F: for<'a> Fn(&'a Request<B>) -> Option<&'a str>,
    {
        TraceLayer {
            settings: self.settings,
            request_route: find,
        }
    }
}

impl<S, Q: Clone> Layer<S> for TraceLayer<Q> {
    type Service = TraceService<S, Q>;

    fn layer(&self, inner: S) -> Self::Service {
        TraceService::new(inner, self.settings, self.request_route.clone())
    }
}

/// A log filter that can be changed while the process runs: the filter for the subscriber, and the two functions that
/// `AdminBuilder::log_level` takes.
///
/// ```
/// use stellane_metrics::LogLevel;
/// use tracing_subscriber::{Registry, layer::SubscriberExt};
///
/// let (filter, level) = LogLevel::new::<Registry>("info").unwrap();
/// let subscriber = tracing_subscriber::registry().with(filter);
/// level.set("warn,hyper=debug").unwrap();
/// assert_eq!(level.get(), "hyper=debug,warn");
/// assert!(level.set("hyper=loud").is_err());
/// # drop(subscriber);
/// ```
pub struct LogLevel {
    get: Box<dyn Fn() -> String + Send + Sync>,
    set: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

impl LogLevel {
    /// A filter with these directives, in the syntax of `RUST_LOG`.
    ///
    /// # Errors
    ///
    /// What is wrong with the directives.
    pub fn new<S: tracing::Subscriber>(
        directives: &str,
    ) -> Result<(reload::Layer<EnvFilter, S>, Self), String> {
        let (layer, handle) = reload::Layer::new(parse(directives)?);
        let read = handle.clone();
        let get = move || read.with_current(ToString::to_string).unwrap_or_default();
        let set = move |filter| handle.reload(filter).map_err(|error| error.to_string());
        Ok((
            layer,
            Self {
                get: Box::new(get),
                set: Box::new(set),
            },
        ))
    }

    /// The directives in force.
    pub fn get(&self) -> String {
        (self.get)()
    }

    /// Replaces the directives.
    ///
    /// # Errors
    ///
    /// What is wrong with them; the old ones stay in force.
    pub fn set(&self, directives: &str) -> Result<(), String> {
        (self.set)(parse(directives)?)
    }
}

fn parse(directives: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(directives).map_err(|error| error.to_string())
}

impl std::fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogLevel").field(&self.get()).finish()
    }
}
