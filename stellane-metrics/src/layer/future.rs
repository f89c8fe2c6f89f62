use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use pin_project_lite::pin_project;

use super::{body::MetricsBody, route::ResponseRoute};
use crate::embed::Recording;

pin_project! {
    /// The future of [`MetricsService`](crate::MetricsService). Dropping it counts the request as cancelled.
    pub struct MetricsFuture<F, R> {
        #[pin]
        inner: F,
        // Gone once the response was handed over.
        recording: Option<Recording>,
        response_route: R,
    }
}

impl<F, R> MetricsFuture<F, R> {
    #[inline]
    pub(super) fn new(inner: F, recording: Recording, response_route: R) -> Self {
        Self {
            inner,
            recording: Some(recording),
            response_route,
        }
    }
}

impl<F, R, T, E> Future for MetricsFuture<F, R>
where
    F: Future<Output = Result<Response<T>, E>>,
    R: ResponseRoute<T>,
    T: http_body::Body,
{
    type Output = Result<Response<MetricsBody<T>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(recording) = this.recording else {
            // Polled again after it was ready: the inner future's answer to that is as good as any.
            return this
                .inner
                .poll(cx)
                .map_ok(|response| response.map(MetricsBody::finished));
        };
        let entered = recording.enter();
        let polled = this.inner.poll(cx);
        entered.leave();
        // One match: each step of several would move the response once more.
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(response)) => {
                if let Some(route) = this.response_route.route(&response) {
                    recording.name(route);
                }
                recording.head(&response);
                let recording = this.recording.take();
                Poll::Ready(Ok(response.map(|body| MetricsBody::new(body, recording))))
            }
            Poll::Ready(Err(error)) => {
                recording.failed();
                *this.recording = None;
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<F, R> fmt::Debug for MetricsFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsFuture").finish_non_exhaustive()
    }
}
