use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::{Http1Rules, StrictHttp1Body, StrictHttp1Future};

/// Refuses ambiguous HTTP/1 requests. See the [module docs](super).
#[derive(Debug, Clone)]
pub struct StrictHttp1Service<S> {
    inner: S,
    rules: Http1Rules,
}

impl<S> StrictHttp1Service<S> {
    /// Guards `inner` by `rules`.
    pub const fn new(inner: S, rules: Http1Rules) -> Self {
        Self { inner, rules }
    }

    /// The guarded service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, RB> Service<Request<B>> for StrictHttp1Service<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
{
    type Response = Response<StrictHttp1Body<RB>>;
    type Error = S::Error;
    type Future = StrictHttp1Future<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.rules.judge(&request, true) {
            Ok(()) => StrictHttp1Future::running(self.inner.call(request)),
            Err(violation) => StrictHttp1Future::refused(violation),
        }
    }
}
