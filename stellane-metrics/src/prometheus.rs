//! One scrape of everything: our tables, and what the application records through the `metrics` facade.

use std::{
    collections::HashSet,
    convert::Infallible,
    fmt,
    io::{self, Write},
    pin::Pin,
    sync::{Arc, mpsc},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder as ExporterBuilder, PrometheusHandle, PrometheusRecorder,
};
use tower_service::Service;

use crate::{
    BuildError, DurationBuckets, HttpMetrics, Kind, Readiness, RuntimeMetrics, catalogue as names,
    negotiate,
    sink::Sink,
    text::{Format, TextSink},
};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Starts a [`Prometheus`] scrape.
///
/// ```
/// use stellane_metrics::{HttpMetrics, prometheus};
///
/// # fn main() -> Result<(), stellane_metrics::BuildError> {
/// let http = HttpMetrics::builder().build()?;
/// let scrape = prometheus().http(&http).build()?;
/// assert!(scrape.render().contains("http_server_active_requests"));
/// # Ok(())
/// # }
/// ```
pub fn prometheus() -> PrometheusBuilder {
    PrometheusBuilder::default()
}

/// Builds [`Prometheus`].
#[must_use = "a builder does nothing until `build` is called"]
#[derive(Debug, Default)]
pub struct PrometheusBuilder {
    http: Option<HttpMetrics>,
    runtime: Option<RuntimeMetrics>,
    readiness: Option<Readiness>,
    labels: Vec<(String, String)>,
}

impl PrometheusBuilder {
    /// Renders these request metrics.
    pub fn http(mut self, http: &HttpMetrics) -> Self {
        self.http = Some(http.clone());
        self
    }

    /// Renders these runtime metrics, and the request metrics they read.
    pub fn runtime(mut self, runtime: &RuntimeMetrics) -> Self {
        self.http = self.http.or(runtime.http());
        self.runtime = Some(runtime.clone());
        self
    }

    /// Renders `stellane_ready`, and how the dependencies are.
    pub fn readiness(mut self, readiness: &Readiness) -> Self {
        self.readiness = Some(readiness.clone());
        self
    }

    /// Adds a label to every series that is recorded through the facade.
    pub fn global_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((name.into(), value.into()));
        self
    }

    /// Builds the exporter. What the application records is rendered too once [`install`](Prometheus::install) was called.
    ///
    /// Histograms of the facade get buckets, not summaries, so that they can be added up over instances. Inside of a tokio
    /// runtime the exporter's upkeep is spawned; elsewhere a thread does it: without, samples pile up until a scrape.
    ///
    /// # Errors
    ///
    /// [`BuildError::Buckets`]: never, with the bounds there are.
    pub fn build(self) -> Result<Prometheus, BuildError> {
        let refused =
            |error: metrics_exporter_prometheus::BuildError| BuildError::Buckets(error.to_string());
        let mut builder = ExporterBuilder::new()
            .set_buckets(DurationBuckets::Fine.bounds())
            .map_err(refused)?;
        for suffix in ["_bytes", "_size"] {
            builder = builder
                .set_buckets_for_metric(
                    Matcher::Suffix(suffix.to_owned()),
                    &crate::requests::SIZE_BOUNDS,
                )
                .map_err(refused)?;
        }
        for (name, value) in self.labels {
            builder = builder.add_global_label(name, value);
        }
        let exporter = builder.build_recorder();
        let handle = exporter.handle();
        let recorder = Arc::new(OnlyOthers {
            exporter,
            has_ours: self.http.is_some() || self.runtime.is_some() || self.readiness.is_some(),
            runtime: self.runtime.clone(),
        });
        Ok(Prometheus {
            inner: Arc::new(Inner {
                http: self.http,
                runtime: self.runtime,
                readiness: self.readiness,
                recorder,
                _upkeep: Upkeep::start(handle.clone()),
                handle,
            }),
        })
    }
}

/// How often the exporter moves samples into buckets. Between two runs each takes 16 bytes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Ends when it is dropped.
struct Upkeep {
    task: Option<tokio::task::AbortHandle>,
    _thread: Option<mpsc::Sender<()>>,
}

impl Upkeep {
    fn start(handle: PrometheusHandle) -> Self {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let task = runtime.spawn(async move {
                loop {
                    tokio::time::sleep(UPKEEP).await;
                    let handle = handle.clone();
                    let _ = tokio::task::spawn_blocking(move || handle.run_upkeep()).await;
                }
            });
            return Self {
                task: Some(task.abort_handle()),
                _thread: None,
            };
        }
        let (alive, gone) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("stellane-metrics-upkeep".to_owned());
        // Without a thread the samples wait for the next scrape: more memory, nothing lost.
        let _ = thread.spawn(move || {
            while gone.recv_timeout(UPKEEP) == Err(mpsc::RecvTimeoutError::Timeout) {
                handle.run_upkeep();
            }
        });
        Self {
            task: None,
            _thread: Some(alive),
        }
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Renders a scrape; a cheap handle, and a `Service` that renders on a blocking thread.
#[derive(Clone)]
pub struct Prometheus {
    inner: Arc<Inner>,
}

struct Inner {
    http: Option<HttpMetrics>,
    runtime: Option<RuntimeMetrics>,
    readiness: Option<Readiness>,
    recorder: Arc<OnlyOthers>,
    handle: PrometheusHandle,
    _upkeep: Upkeep,
}

impl Prometheus {
    /// The scrape, in the text format. Takes milliseconds when there are thousands of series: do not call it in a task.
    pub fn render(&self) -> String {
        self.render_as(Format::Plain)
    }

    /// The same as OpenMetrics, in which a figure leads to the trace of a request that it counts.
    pub fn render_open_metrics(&self) -> String {
        self.render_as(Format::Open)
    }

    fn render_as(&self, format: Format) -> String {
        let others = self.inner.handle.render();
        let mut text = match format {
            Format::Plain => TextSink::default(),
            Format::Open => TextSink::open(self.plain_names(&others)),
        };
        self.walk(&mut text);
        text.append(&others);
        text.into_string()
    }

    /// Those of all metrics that are no counters.
    fn plain_names(&self, others: &str) -> HashSet<String> {
        let added = self.inner.runtime.as_ref().map(RuntimeMetrics::added);
        let ours = names::catalogue().iter().copied().copied();
        let ours = ours.chain(added.into_iter().flatten());
        let ours = ours.filter(|metric| metric.kind != Kind::Counter);
        let types = others.lines().filter_map(|line| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            (kind != "counter").then(|| name.to_owned())
        });
        ours.map(|metric| metric.name.to_owned())
            .chain(types)
            .collect()
    }

    /// Shows all numbers of ours to whoever exports them elsewhere; not what the application records through the facade.
    /// Takes milliseconds when there are thousands of series.
    pub fn walk(&self, sink: &mut dyn Sink) {
        if let Some(http) = &self.inner.http {
            http.export(sink);
        }
        if let Some(runtime) = &self.inner.runtime {
            runtime.export(sink);
        }
        if let Some(readiness) = &self.inner.readiness {
            sink.start(&names::READY);
            let ready = f64::from(u8::from(readiness.is_ready()));
            sink.gauge(&names::READY, &[], ready);
            let dependencies = readiness.dependencies();
            sink.start(&names::DEPENDENCY_UP);
            for one in &dependencies {
                let up = f64::from(u8::from(one.up));
                sink.gauge(&names::DEPENDENCY_UP, &[("dependency", &one.name)], up);
            }
            let metric = &names::DEPENDENCY_FAILURES;
            sink.start(metric);
            for one in &dependencies {
                sink.counter(metric, &[("dependency", &one.name)], one.failures);
            }
        }
    }

    /// Makes this the recorder of the process: what the application records by the macros of the `metrics` facade, such as
    /// `metrics::counter!`, is rendered with our own numbers from now on. What it recorded before is lost.
    ///
    /// What is exported already can't be recorded a second time under the same name: that is left out.
    ///
    /// # Errors
    ///
    /// [`BuildError::RecorderInstalled`] when the process has a recorder already: our numbers are then published to that
    /// one by a [`FacadePublisher`](crate::FacadePublisher).
    pub fn install(&self) -> Result<(), BuildError> {
        metrics::set_global_recorder(Arc::clone(&self.inner.recorder))
            .map_err(|_| BuildError::RecorderInstalled)
    }

    /// The recorder, to register with where it is not [installed](Self::install).
    pub fn recorder(&self) -> Arc<dyn Recorder + Send + Sync> {
        Arc::clone(&self.inner.recorder) as _
    }

    /// The answer to a scrape with these headers, rendered on a blocking thread.
    pub(crate) async fn answer(self, headers: &HeaderMap) -> Response<Bytes> {
        let format = negotiate::format(headers);
        let takes_gzip = negotiate::takes_gzip(headers);
        let render = move || {
            let text = self.render_as(format);
            let zipped = takes_gzip.then(|| gzip(text.as_bytes()).ok()).flatten();
            (
                zipped.is_some(),
                zipped.unwrap_or_else(|| text.into_bytes()),
            )
        };
        let rendered = tokio::task::spawn_blocking(render).await;
        let (is_zipped, body) = rendered
            .unwrap_or_else(|error| (false, format!("# rendering failed: {error}\n").into_bytes()));
        let mut response = Response::new(Bytes::from(body));
        let headers = response.headers_mut();
        let kind = match format {
            Format::Plain => TEXT,
            Format::Open => OPEN_METRICS,
        };
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(
            header::VARY,
            HeaderValue::from_static("accept, accept-encoding"),
        );
        if is_zipped {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// A scrape of 19 KB becomes one of 2 KB.
fn gzip(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(text)?;
    gzip.finish()
}

/// The exporter, for all that is not exported by us already: it would be there twice.
struct OnlyOthers {
    exporter: PrometheusRecorder,
    /// Whether there is anything of ours beside it.
    has_ours: bool,
    runtime: Option<RuntimeMetrics>,
}

impl OnlyOthers {
    fn is_ours(&self, name: &str) -> bool {
        let in_catalogue = || names::catalogue().iter().any(|metric| metric.name == name);
        let added = |runtime: &RuntimeMetrics| runtime.has(name);
        self.has_ours && (in_catalogue() || self.runtime.as_ref().is_some_and(added))
    }
}

impl Recorder for OnlyOthers {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        if !self.is_ours(name.as_str()) {
            self.exporter.describe_counter(name, unit, help);
        }
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        if !self.is_ours(name.as_str()) {
            self.exporter.describe_gauge(name, unit, help);
        }
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        if !self.is_ours(name.as_str()) {
            self.exporter.describe_histogram(name, unit, help);
        }
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        match self.is_ours(key.name()) {
            true => Counter::noop(),
            false => self.exporter.register_counter(key, metadata),
        }
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        match self.is_ours(key.name()) {
            true => Gauge::noop(),
            false => self.exporter.register_gauge(key, metadata),
        }
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        match self.is_ours(key.name()) {
            true => Histogram::noop(),
            false => self.exporter.register_histogram(key, metadata),
        }
    }
}

impl fmt::Debug for Prometheus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prometheus").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for Prometheus {
    type Response = Response<TextBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    /// # Panics
    ///
    /// The future panics outside of a tokio runtime.
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (this, headers) = (self.clone(), request.headers().clone());
        Box::pin(async move {
            let response = this.answer(&headers).await;
            Ok(response.map(|text| TextBody(Some(text))))
        })
    }
}

/// The body of a scrape.
#[derive(Debug)]
pub struct TextBody(Option<Bytes>);

impl Body for TextBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |text| text.len() as u64))
    }
}
