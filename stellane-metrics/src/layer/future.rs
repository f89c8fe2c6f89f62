use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use pin_project_lite::pin_project;

use super::{body::ResponseBody, route::ResponseRoute, scope};
use crate::http_metrics::{guard::Guard, labels::Outcome};

pin_project! {
    /// The future of [`Metrics`](crate::Metrics). Dropping it counts the request as cancelled.
    pub struct ResponseFuture<F, R> {
        #[pin]
        inner: F,
        // Gone once the response was handed over.
        guard: Option<Guard>,
        response_route: R,
    }
}

impl<F, R> ResponseFuture<F, R> {
    #[inline]
    pub(super) fn new(inner: F, guard: Guard, response_route: R) -> Self {
        Self {
            inner,
            guard: Some(guard),
            response_route,
        }
    }
}

impl<F, R, T, E> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<T>, E>>,
    R: ResponseRoute<T>,
    T: http_body::Body,
{
    type Output = Result<Response<ResponseBody<T>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(guard) = this.guard else {
            // Polled again after it was ready: the inner future's answer to that is as good as any.
            return this
                .inner
                .poll(cx)
                .map_ok(|response| response.map(ResponseBody::finished));
        };
        let entered = scope::enter(guard);
        let polled = this.inner.poll(cx);
        entered.leave();
        // One match: each step of several would move the response once more.
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(response)) => {
                if let Some(route) = this.response_route.route(&response) {
                    guard.route = guard.table().route_id(route);
                }
                guard.head(&response);
                let guard = this.guard.take();
                Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, guard))))
            }
            Poll::Ready(Err(error)) => {
                guard.finish(Outcome::ServiceError);
                *this.guard = None;
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<F, R> fmt::Debug for ResponseFuture<F, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
