//! Metrics and spans for a collector of OpenTelemetry, by OTLP: [`Otlp`].
//!
//! With this feature a [`Runtime`](crate::Runtime) sends its metrics, and [`logging::init`](crate::logging::init) has
//! spans sent, where the environment names a collector. These variables are heard, as OpenTelemetry has specified them;
//! `_METRICS` and `_TRACES` stand for what is said of one signal alone:
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `OTEL_EXPORTER_OTLP[_METRICS\|_TRACES]_ENDPOINT` | where the collector is, such as `http://localhost:4318` or `https://otel.example:4318`; without it nothing is sent | none |
//! | `OTEL_EXPORTER_OTLP[_METRICS\|_TRACES]_PROTOCOL` | `grpc` or `http/protobuf` | `http/protobuf` |
//! | `OTEL_EXPORTER_OTLP[_METRICS\|_TRACES]_HEADERS` | `name=value,name=value` | none |
//! | `OTEL_EXPORTER_OTLP[_METRICS\|_TRACES]_COMPRESSION` | `gzip` or `none` | `none` |
//! | `OTEL_EXPORTER_OTLP[_METRICS\|_TRACES]_TIMEOUT` | for each message, in milliseconds | 10000 |
//! | `OTEL_EXPORTER_OTLP[_METRICS\|_TRACES]_CERTIFICATE` | of an `https` endpoint: a PEM file of whom to trust | the system's |
//! | `OTEL_EXPORTER_OTLP[_METRICS\|_TRACES]_CLIENT_CERTIFICATE`, `_CLIENT_KEY` | PEM files of who this is, for a collector that asks | none |
//! | `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE` | `cumulative` or `delta` | `cumulative` |
//! | `OTEL_METRIC_EXPORT_INTERVAL` | milliseconds between two messages of metrics | 60000 |
//! | `OTEL_BSP_SCHEDULE_DELAY` | for how many milliseconds spans are gathered | 5000 |
//! | `OTEL_BSP_MAX_QUEUE_SIZE` | spans that wait at most; the others are lost, and counted | 2048 |
//! | `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` | spans of one message | 512 |
//! | `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | who this is | `unknown_service:` and the program |
//! | `OTEL_METRICS_EXPORTER`, `OTEL_TRACES_EXPORTER` | `none` for neither | `otlp` |
//! | `OTEL_SDK_DISABLED` | `true` for nothing at all | `false` |
//!
//! Which requests have spans is said by the section `[trace]` of the configuration, not by `OTEL_TRACES_SAMPLER`. No other
//! variable is heard: whether there is TLS is said by the endpoint, not by `OTEL_EXPORTER_OTLP_INSECURE`.
//!
//! An endpoint with `https` needs the feature `tls`, and cryptography for rustls: that of the feature `tls-ring` or
//! `tls-aws-lc-rs`, or what the program installs. The files are read for each connection, so renewed ones need no restart.
//!
//! Metrics are those of the scrape, from the same tables, under OpenTelemetry's names; not what the program records through
//! the `metrics` facade. A request pays nothing for that: a thread of their own, with a runtime of its own, reads and sends
//! them. A collector that is away, or does not answer, costs a warning, a number (`stellane_otlp_exports_total`) and the
//! spans that find no room; nobody waits for it, and the end of the process for no longer than half a second.

mod client;
mod counts;
mod exporting;
mod metrics;
mod settings;
mod spans;
#[cfg(feature = "tls")]
mod tls;

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

#[cfg(any(feature = "logging", feature = "preset"))]
use std::sync::OnceLock;

use opentelemetry_sdk::trace::SdkTracerProvider;
use stellane_metrics::embed::Sink;
use tokio::sync::{mpsc, oneshot};
use tracing::Subscriber;
use tracing_subscriber::{Layer, registry::LookupSpan};

pub use self::settings::OtlpError;
#[cfg(feature = "preset")]
pub(crate) use self::spans::begin;
use self::{
    counts::{Counts, Flush, Walk},
    exporting::Exporting,
    settings::Settings,
    spans::{Queue, Waiting},
};

/// Sends metrics and spans to a collector: a cheap handle. When the last one is dropped, what is left is sent once more, in
/// the background, and the thread ends.
///
/// ```
/// use stellane_core::otlp::Otlp;
///
/// // Where the environment says nothing, nothing is sent.
/// assert!(Otlp::from_env()?.is_none());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Otlp {
    shared: Arc<Shared>,
}

struct Shared {
    flush: Vec<mpsc::UnboundedSender<Flush>>,
    walk: Arc<Mutex<Option<Walk>>>,
    provider: Option<SdkTracerProvider>,
    counts: Arc<Counts>,
}

/// What [`Otlp`] has sent so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OtlpStats {
    /// Messages of metrics that have arrived.
    pub metrics_sent: u64,
    /// Those that have not, each try by itself.
    pub metrics_failed: u64,
    /// Messages of spans that have arrived.
    pub traces_sent: u64,
    /// Those that have not, each try by itself.
    pub traces_failed: u64,
    /// Spans that found no room, or were given up.
    pub spans_lost: u64,
    /// Points and spans that the collector has not taken, of messages that have arrived.
    pub rejected: u64,
}

impl Otlp {
    /// As the variables of the environment say: see the [module docs](self). `None` if they name no collector.
    ///
    /// # Errors
    /// A variable whose value is wrong.
    pub fn from_env() -> Result<Option<Self>, OtlpError> {
        let variables = std::env::vars_os();
        let text = variables.filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            Some((name, value.into_string().ok()?))
        });
        Self::from_vars(text.filter(|(name, _)| name.starts_with("OTEL_")))
    }

    /// The same with variables that stand elsewhere.
    ///
    /// # Errors
    /// A variable whose value is wrong.
    pub fn from_vars(
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Option<Self>, OtlpError> {
        let Some(settings) = Settings::new(variables)? else {
            return Ok(None);
        };
        let started = Self::start(settings);
        started.map(Some).map_err(|error| OtlpError {
            variable: "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(),
            problem: format!("the thread that sends could not begin: {error}"),
        })
    }

    fn start(settings: Settings) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let counts = Arc::<Counts>::default();
        let walk = Arc::<Mutex<Option<Walk>>>::default();
        let mut flush = Vec::new();
        let mut asked = || {
            let (ask, asked) = mpsc::unbounded_channel();
            flush.push(ask);
            asked
        };
        let metrics = settings.metrics.clone().map(|target| {
            let resource = settings.resource.clone();
            let collector = metrics::Collector::new(settings.is_delta, resource);
            let exporting = Exporting::new(target, asked(), Arc::clone(&counts));
            exporting.metrics(collector, Arc::clone(&walk), settings.interval)
        });
        let mut provider = None;
        let traces = settings.traces.clone().map(|target| {
            let lost = Arc::clone(&counts.spans_lost);
            let waiting = Arc::new(Waiting::new(settings.queue, settings.batch, lost));
            provider = Some(spans::provider(Queue(Arc::clone(&waiting))));
            let exporting = Exporting::new(target, asked(), Arc::clone(&counts));
            exporting.traces(settings, waiting)
        });
        thread::Builder::new()
            .name("stellane-otlp".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let metrics = async {
                        if let Some(metrics) = metrics {
                            metrics.await;
                        }
                    };
                    let traces = async {
                        if let Some(traces) = traces {
                            traces.await;
                        }
                    };
                    tokio::join!(metrics, traces);
                });
                // A name that is still looked up is waited for by nobody.
                runtime.shutdown_background();
            })?;
        let shared = Shared {
            flush,
            walk,
            provider,
            counts,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Sends the metrics that `walk` shows, such as those of
    /// [`Prometheus::walk`](stellane_metrics::Prometheus::walk). Of several calls the first one counts; whether this is it.
    pub fn send_metrics(&self, walk: impl Fn(&mut dyn Sink) + Send + Sync + 'static) -> bool {
        let walks = self.shared.walk.lock();
        let mut walks = walks.unwrap_or_else(PoisonError::into_inner);
        let is_first = walks.is_none();
        if is_first {
            *walks = Some(Box::new(walk));
        }
        is_first
    }

    /// What [`send_metrics`](Self::send_metrics) was given is over.
    #[cfg(feature = "preset")]
    pub(crate) fn forget_metrics(&self) {
        let walks = self.shared.walk.lock();
        *walks.unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Has the spans of a subscriber of one's own sent, of level `INFO` and above, but for those of what sends them. `None`
    /// if no spans are sent. [`logging::init`](crate::logging::init) does it by itself.
    ///
    /// Of the spans without a parent those are sent whose field `otel.kind` is `server` or `consumer`: a handler's, of a
    /// request that is not recorded, are none.
    #[must_use]
    pub fn layer<S>(&self) -> Option<impl Layer<S> + Send + Sync + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        self.shared.provider.as_ref().map(spans::layer)
    }

    /// Sends what there is, now, and waits for that until `within` is over: whether all has arrived.
    pub async fn flush(&self, within: Duration) -> bool {
        let asked = self.shared.flush.iter().map(|ask| {
            let (tell, told) = oneshot::channel();
            // Otherwise it has ended.
            let _ = ask.send(tell);
            told
        });
        let asked: Vec<_> = asked.collect();
        let all = async {
            let mut is_well = true;
            for told in asked {
                is_well &= told.await.unwrap_or(false);
            }
            is_well
        };
        let within = tokio::time::timeout(within, all).await;
        within.unwrap_or(false)
    }

    /// What was sent so far.
    #[must_use]
    pub fn stats(&self) -> OtlpStats {
        let Counts {
            metrics,
            traces,
            spans_lost,
            rejected,
        } = &*self.shared.counts;
        OtlpStats {
            metrics_sent: metrics.well.load(Relaxed),
            metrics_failed: metrics.failed.load(Relaxed),
            traces_sent: traces.well.load(Relaxed),
            traces_failed: traces.failed.load(Relaxed),
            spans_lost: spans_lost.load(Relaxed),
            rejected: rejected.load(Relaxed),
        }
    }
}

/// That of the process, by its environment.
#[cfg(any(feature = "logging", feature = "preset"))]
pub(crate) fn of_process() -> Result<Option<&'static Otlp>, &'static OtlpError> {
    static OF_PROCESS: OnceLock<Result<Option<Otlp>, OtlpError>> = OnceLock::new();
    let of_process = OF_PROCESS.get_or_init(Otlp::from_env);
    of_process.as_ref().map(Option::as_ref)
}

impl fmt::Debug for Otlp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Otlp")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
