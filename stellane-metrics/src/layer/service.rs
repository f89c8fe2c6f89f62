use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::{
    body::MetricsBody,
    future::MetricsFuture,
    route::{RequestRoute, ResponseRoute},
};
use crate::HttpMetrics;

/// The service of [`MetricsLayer`](crate::MetricsLayer).
#[derive(Debug, Clone)]
pub struct MetricsService<S, Q, R> {
    pub(super) inner: S,
    pub(super) http: HttpMetrics,
    pub(super) request_route: Q,
    pub(super) response_route: R,
}

impl<S, Q, R, B, T> Service<Request<B>> for MetricsService<S, Q, R>
where
    S: Service<Request<B>, Response = Response<T>>,
    Q: RequestRoute<B>,
    R: ResponseRoute<T> + Clone,
    B: http_body::Body,
    T: http_body::Body,
{
    type Response = Response<MetricsBody<T>>;
    type Error = S::Error;
    type Future = MetricsFuture<S::Future, R>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut recording = self.http.begin(&request);
        if let Some(route) = self.request_route.route(&request) {
            recording.name(route);
        }
        let entered = recording.enter();
        let future = self.inner.call(request);
        entered.leave();
        MetricsFuture::new(future, recording, self.response_route.clone())
    }
}
