use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Buf;
use http::{Request, Response, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;
use tracing::{Span, field, record_all};

use super::{
    Settings,
    context::{TRACEPARENT, TraceContext},
    span::{Ids, Known, Name, RequestSpan, open, status_code},
};
use crate::{
    RequestRoute, current_route,
    requests::labels::{METHODS, has_no_body, method_index},
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
    B: Body,
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
        let route = self.request_route.route(&request).map(Into::into);
        let method = method_index(request.method());
        let span = context.sampled.then(|| {
            let ids = Ids::new(context, parent);
            let bytes = request.body().size_hint().exact();
            let span = open(&request, Some(&ids), bytes, Known::default());
            RequestSpan::new(span, context)
        });
        let mut watch = Watch {
            span,
            route,
            method,
            status: 0,
            response_bytes: 0,
            end: Some("cancelled"),
            expected: None,
            slow: self.settings.slow,
            trace_id: context.trace_id,
            start: Instant::now(),
        };
        let headers = request.headers_mut();
        headers.insert(TRACEPARENT.clone(), context.text().header());
        request.extensions_mut().insert(context);
        let inner = watch.within(|| self.inner.call(request));
        TraceFuture {
            inner,
            watch: Some(watch),
        }
    }
}

/// A request under way. When it is dropped, at the end of the body or when somebody gave up, its span is told what has come
/// of it, and it is logged if it was slow.
struct Watch {
    span: Option<RequestSpan>,
    route: Option<Arc<str>>,
    method: u8,
    status: u16,
    response_bytes: u64,
    /// What is wrong if it ends now.
    end: Option<&'static str>,
    /// How long the body of the answer is to be.
    expected: Option<u64>,
    slow: Duration,
    trace_id: u128,
    start: Instant,
}

impl Watch {
    fn within<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let span = self.span.as_mut().map(RequestSpan::entered);
        let done = run();
        drop(span);
        // Named by a router inside of a `MetricsLayer` that is around.
        if self.route.is_none() {
            self.route = current_route();
        }
        done
    }

    fn answered<B: Body>(&mut self, response: &Response<B>) {
        self.status = response.status().as_u16();
        let declared = || {
            let length = response.headers().get(CONTENT_LENGTH)?;
            length.to_str().ok()?.parse().ok()
        };
        self.expected = response.body().size_hint().exact().or_else(declared);
        if response.body().is_end_stream() || has_no_body(self.method, response.status()) {
            self.end = None;
        }
    }

    fn frame<D: Buf, E>(&mut self, frame: Option<&Result<Frame<D>, E>>, is_end: bool) {
        match frame {
            None => self.end = None,
            Some(Err(_)) => self.end = Some("body_error"),
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Buf::remaining);
                self.response_bytes += bytes as u64;
                // A server stops asking where the answer ends by its length.
                if is_end || frame.is_trailers() || self.expected == Some(self.response_bytes) {
                    self.end = None;
                }
            }
        }
    }

    fn tell(&self, span: &Span) {
        let status;
        let error = match self.end {
            None if self.status >= 500 => {
                status = self.status.to_string();
                Some(&*status)
            }
            end => end,
        };
        let method = METHODS[usize::from(self.method)];
        let route = self.route.as_deref();
        record_all!(
            span,
            otel.name = route.map(|route| field::display(Name { method, route })),
            otel.status_code = error.and_then(status_code),
            http.route = route,
            http.response.status_code = (self.status > 0).then_some(self.status),
            http.response.body.size = self.response_bytes,
            error.r#type = error,
        );
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(span) = &self.span {
            self.tell(span.span());
        }
        if self.slow.is_zero() {
            return;
        }
        let elapsed = self.start.elapsed();
        if elapsed >= self.slow {
            // Status zero: given up before there was one.
            tracing::warn!(
                target: "stellane_metrics::slow",
                message = "slow request",
                http.request.method = METHODS[usize::from(self.method)],
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
        watch: Option<Watch>,
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
        let inner = this.inner;
        let result = match this.watch {
            Some(watch) => watch.within(|| inner.poll(cx)),
            None => inner.poll(cx),
        };
        let result = ready!(result);
        let mut watch = this.watch.take();
        if let Some(watch) = &mut watch {
            match &result {
                Ok(response) => watch.answered(response),
                Err(_) => watch.end = Some("service_error"),
            }
        }
        Poll::Ready(result.map(|response| response.map(|inner| TraceBody { inner, watch })))
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
        watch: Option<Watch>,
    }
}

impl<B: Body> Body for TraceBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(watch) = this.watch else {
            return this.inner.poll_frame(cx);
        };
        let frame = ready!(watch.within(|| this.inner.as_mut().poll_frame(cx)));
        let is_end = this.inner.is_end_stream();
        watch.frame(frame.as_ref(), is_end);
        if is_end || matches!(frame, None | Some(Err(_))) {
            *this.watch = None;
        }
        Poll::Ready(frame)
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
