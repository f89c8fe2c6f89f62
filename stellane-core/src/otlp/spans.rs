//! Spans of `tracing` become OpenTelemetry's, and wait to be sent.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState, TracerProvider},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{
        SamplingDecision, SamplingResult, SdkTracerProvider, ShouldSample, Span, SpanData,
        SpanProcessor,
    },
};
use tokio::sync::Notify;
use tracing::{Metadata, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, filter_fn},
    registry::LookupSpan,
};
#[cfg(feature = "preset")]
use {
    opentelemetry::trace::{SpanContext, SpanId, TraceFlags},
    stellane_metrics::TraceContext,
    tracing_opentelemetry::OpenTelemetrySpanExt,
};

/// Spans that have ended and wait to be sent. Whoever ends one waits for nobody, and seldom wakes who sends: by the first,
/// and by the last that a message has room for.
#[derive(Debug)]
pub(super) struct Waiting {
    spans: Mutex<Vec<SpanData>>,
    /// No more of them wait.
    most: usize,
    /// What a message has room for.
    pub(super) batch: usize,
    given: Notify,
    /// No more will come.
    is_over: AtomicBool,
    lost: Arc<AtomicU64>,
}

impl Waiting {
    pub(super) fn new(most: usize, batch: usize, lost: Arc<AtomicU64>) -> Self {
        Self {
            spans: Mutex::default(),
            most,
            batch,
            given: Notify::new(),
            is_over: AtomicBool::new(false),
            lost,
        }
    }

    fn spans(&self) -> MutexGuard<'_, Vec<SpanData>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, span: SpanData) {
        let mut spans = self.spans();
        if spans.len() >= self.most {
            drop(spans);
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        spans.push(span);
        let waiting = spans.len();
        drop(spans);
        if waiting == 1 || waiting == self.batch {
            self.given.notify_one();
        }
    }

    /// As many as a message has room for.
    pub(super) fn take(&self) -> Vec<SpanData> {
        let mut spans = self.spans();
        if spans.len() <= self.batch {
            // Who puts some more finds room.
            let room = Vec::with_capacity(spans.len());
            return std::mem::replace(&mut *spans, room);
        }
        spans.drain(..self.batch).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.spans().len()
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Acquire)
    }

    /// There is more, or it is over.
    pub(super) async fn given(&self) {
        self.given.notified().await;
    }
}

/// Puts spans there.
#[derive(Debug)]
pub(super) struct Queue(pub(super) Arc<Waiting>);

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.is_over.store(true, Release);
        self.0.given.notify_one();
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.0.put(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// A span that has begun can't be given another name, and the route of a request is known later.
pub(super) fn complete(span: &mut SpanData) {
    if span.span_kind != SpanKind::Server {
        return;
    }
    let text = |key: &str| {
        let found = span.attributes.iter().find(|one| one.key.as_str() == key);
        found.map(|one| one.value.as_str())
    };
    if let (Some(method), Some(route)) = (text("http.request.method"), text("http.route"))
        && span.name == method
    {
        span.name = format!("{method} {route}").into();
    }
    // They are for logs: a span has its ids.
    let ids = ["trace_id", "span_id", "parent_id"];
    span.attributes
        .retain(|one| !ids.contains(&one.key.as_str()));
}

/// Whose parent is recorded is recorded. Without a parent: what is served, or taken from a queue. The preset has decided for
/// each request whether it has a span; what its handler opens in one that has none belongs to no trace.
#[derive(Debug, Clone)]
struct AsTheParent;

impl ShouldSample for AsTheParent {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        _: TraceId,
        _: &str,
        kind: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let parent = parent.filter(|parent| parent.has_active_span());
        let parent = parent.map(|parent| parent.span().span_context().clone());
        let is_sampled = match &parent {
            Some(parent) => parent.is_sampled(),
            None => matches!(kind, SpanKind::Server | SpanKind::Consumer),
        };
        SamplingResult {
            decision: match is_sampled {
                true => SamplingDecision::RecordAndSample,
                false => SamplingDecision::Drop,
            },
            attributes: Vec::new(),
            trace_state: parent
                .map_or_else(TraceState::default, |parent| parent.trace_state().clone()),
        }
    }
}

pub(super) fn provider(queue: Queue) -> SdkTracerProvider {
    SdkTracerProvider::builder()
        .with_span_processor(queue)
        .with_sampler(AsTheParent)
        .build()
}

/// What becomes of the spans of `tracing`.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    // What sends spans would otherwise send its own.
    let is_ours = |metadata: &Metadata<'_>| {
        let crates = [
            "h2",
            "hyper",
            "hyper_util",
            "opentelemetry",
            "tonic",
            "tower",
        ];
        let name = metadata.target().split("::").next().unwrap_or_default();
        !crates.contains(&name)
    };
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("stellane"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(is_ours).and(LevelFilter::INFO))
}

/// Tells the span of a request its parent, before it is entered; what it is called is what is passed on.
#[cfg(feature = "preset")]
pub(crate) fn begin(span: &tracing::Span, parent: Option<TraceContext>) -> Option<TraceContext> {
    if let Some(parent) = parent {
        let context = SpanContext::new(
            TraceId::from(parent.trace_id),
            SpanId::from(parent.span_id),
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        );
        // Where nobody exports spans, there is no layer to tell.
        let _ = span.set_parent(Context::new().with_remote_span_context(context));
    }
    let context = span.context();
    let span = context.span();
    let own = span.span_context();
    TraceContext::new(
        u128::from_be_bytes(own.trace_id().to_bytes()),
        u64::from_be_bytes(own.span_id().to_bytes()),
        own.is_sampled(),
    )
}
