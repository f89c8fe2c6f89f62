use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;
use tracing::{Span, field};

use super::{
    Settings,
    context::{TRACEPARENT, TraceContext},
};
use crate::{
    RequestRoute,
    requests::labels::{METHODS, method_index},
};

/// The service of [`TraceLayer`](crate::TraceLayer).
#[derive(Debug, Clone)]
pub struct TraceService<S, Q> {
    inner: S,
    settings: Settings,
    request_route: Q,
}

impl<S, Q> TraceService<S, Q> {
    pub(super) fn new(inner: S, settings: Settings, request_route: Q) -> Self {
        Self {
            inner,
            settings,
            request_route,
        }
    }
}

impl<S, Q, B, T> Service<Request<B>> for TraceService<S, Q>
where
    S: Service<Request<B>, Response = Response<T>>,
    Q: RequestRoute<B>,
    T: Body,
{
    type Response = Response<TraceBody<T>>;
    type Error = S::Error;
    type Future = TraceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let (context, parent) = TraceContext::enter(request.headers(), self.settings.sample);
        let route = self.request_route.route(&request);
        let span = open(&request, context, parent, route);
        let watch = Watch {
            route: route.map(Into::into),
            method: METHODS[usize::from(method_index(request.method()))],
            status: 0,
            slow: self.settings.slow,
            trace_id: context.trace_id,
            start: Instant::now(),
        };
        request.headers_mut().insert(TRACEPARENT, context.header());
        request.extensions_mut().insert(context);
        let inner = span.in_scope(|| self.inner.call(request));
        TraceFuture {
            inner,
            state: Some((span, watch)),
        }
    }
}

fn open<B>(
    request: &Request<B>,
    context: TraceContext,
    parent: Option<u64>,
    route: Option<&str>,
) -> Span {
    if !context.sampled {
        return Span::none();
    }
    let method = METHODS[usize::from(method_index(request.method()))];
    let span = tracing::info_span!(
        target: "stellane_metrics::trace",
        "request",
        otel.kind = "server",
        otel.name = field::Empty,
        http.request.method = method,
        url.path = request.uri().path(),
        http.route = route,
        http.response.status_code = field::Empty,
        error.r#type = field::Empty,
        trace_id = format_args!("{:032x}", context.trace_id),
        span_id = format_args!("{:016x}", context.span_id),
        parent_id = field::Empty,
    );
    match route {
        Some(route) => span.record(
            "otel.name",
            field::display(format_args!("{method} {route}")),
        ),
        None => span.record("otel.name", method),
    };
    if let Some(parent) = parent {
        span.record("parent_id", field::display(format_args!("{parent:016x}")));
    }
    span
}

/// Logs the request if it was slow, when it is dropped: at the end of the body, or when somebody gave up.
struct Watch {
    route: Option<Box<str>>,
    method: &'static str,
    status: u16,
    slow: Duration,
    trace_id: u128,
    start: Instant,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.slow.is_zero() {
            return;
        }
        let elapsed = self.start.elapsed();
        if elapsed >= self.slow {
            // Status zero: given up before there was one.
            tracing::warn!(
                target: "stellane_metrics::slow",
                message = "slow request",
                http.request.method = self.method,
                http.route = self.route.as_deref(),
                http.response.status_code = self.status,
                duration_seconds = elapsed.as_secs_f64(),
                trace_id = format_args!("{:032x}", self.trace_id),
            );
        }
    }
}

pin_project! {
    /// The future of [`TraceService`].
    pub struct TraceFuture<F> {
        #[pin]
        inner: F,
        state: Option<(Span, Watch)>,
    }
}

impl<F, T, E> Future for TraceFuture<F>
where
    F: Future<Output = Result<Response<T>, E>>,
    T: Body,
{
    type Output = Result<Response<TraceBody<T>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let entered = this.state.as_ref().map(|(span, _)| span.enter());
        let result = this.inner.poll(cx);
        drop(entered);
        let result = ready!(result);
        let mut state = this.state.take();
        if let Some((span, watch)) = &mut state {
            match &result {
                Ok(response) => {
                    let status = response.status();
                    watch.status = status.as_u16();
                    span.record("http.response.status_code", status.as_u16());
                    if status.is_server_error() {
                        span.record("error.type", status.as_str());
                    }
                }
                Err(_) => {
                    span.record("error.type", "service_error");
                }
            }
        }
        Poll::Ready(result.map(|response| response.map(|inner| TraceBody { inner, state })))
    }
}

impl<F> fmt::Debug for TraceFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// A response body that is polled inside of the span of its request, and ends it.
    pub struct TraceBody<B> {
        #[pin]
        inner: B,
        state: Option<(Span, Watch)>,
    }
}

impl<B: Body> Body for TraceBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let entered = this.state.as_ref().map(|(span, _)| span.enter());
        let frame = this.inner.poll_frame(cx);
        drop(entered);
        if let Poll::Ready(None | Some(Err(_))) = &frame {
            if let (Some((span, _)), Poll::Ready(Some(Err(_)))) = (&*this.state, &frame) {
                span.record("error.type", "body_error");
            }
            *this.state = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> fmt::Debug for TraceBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceBody").finish_non_exhaustive()
    }
}
