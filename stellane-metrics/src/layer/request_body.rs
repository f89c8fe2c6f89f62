//! Counting request bodies that do not say their size.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::scope;

/// Counts the bytes of request bodies without `Content-Length`, for the [`MetricsLayer`](crate::MetricsLayer) right outside.
///
/// Without it their size is not recorded. It changes the type of the request body to [`RequestBytesBody`] and costs one
/// allocation per streamed request; bodies that say their size pass through untouched.
///
/// ```
/// use stellane_metrics::{HttpMetrics, MetricsLayer, RequestBytesLayer};
/// use tower::ServiceBuilder;
///
/// let metrics = HttpMetrics::builder().build()?;
/// let stack = ServiceBuilder::new().layer(MetricsLayer::new(&metrics)).layer(RequestBytesLayer::new());
/// # let _ = stack;
/// # Ok::<_, stellane_metrics::BuildError>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct RequestBytesLayer;

impl RequestBytesLayer {
    /// The layer.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for RequestBytesLayer {
    type Service = RequestBytesService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestBytesService { inner }
    }
}

/// The service of [`RequestBytesLayer`].
#[derive(Debug, Clone, Copy)]
pub struct RequestBytesService<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for RequestBytesService<S>
where
    S: Service<Request<RequestBytesBody<B>>>,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> S::Future {
        self.inner.call(request.map(RequestBytesBody::counted))
    }
}

pin_project! {
    /// A request body that counts what is read from it, if nobody knew before.
    #[derive(Debug)]
    pub struct RequestBytesBody<B> {
        #[pin]
        inner: B,
        counter: Option<Arc<AtomicU64>>,
    }
}

impl<B: Body> RequestBytesBody<B> {
    /// What [`RequestBytesLayer`] makes of a body, for a service that wraps it anyway: called inside of
    /// a service behind a [`MetricsLayer`](super::MetricsLayer), elsewhere it counts nothing.
    #[inline]
    pub fn counted(inner: B) -> Self {
        let known = inner.size_hint().exact().is_some();
        let counter = if known {
            None
        } else {
            scope::count_request_bytes()
        };
        Self { inner, counter }
    }
}

impl<B> RequestBytesBody<B> {
    /// The body inside; what is read from it later is not counted.
    pub fn into_inner(self) -> B {
        self.inner
    }
}

impl<B: Body> Body for RequestBytesBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if let (Some(counter), Some(Ok(frame))) = (this.counter, &frame)
            && let Some(data) = frame.data_ref()
        {
            counter.fetch_add(data.remaining() as u64, Relaxed);
        }
        Poll::Ready(frame)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
