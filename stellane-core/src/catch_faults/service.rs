use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::{CatchFaultsBody, CatchFaultsFuture, Faults, grpc::Grpc};
use crate::BoxError;

/// Turns panics and errors of a service into responses. See the [module docs](super).
#[derive(Debug, Clone)]
pub struct CatchFaultsService<S> {
    inner: S,
    faults: Faults,
}

impl<S> CatchFaultsService<S> {
    /// Guards `inner`, counting into `faults`.
    pub const fn new(inner: S, faults: Faults) -> Self {
        Self { inner, faults }
    }

    /// The guarded service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, RB> Service<Request<B>> for CatchFaultsService<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<CatchFaultsBody<RB>>;
    type Error = S::Error;
    type Future = CatchFaultsFuture<S::Future>;

    /// A service that fails to become ready is broken for good: its error is passed on.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let faults = self.faults.counter();
        let grpc = Grpc::of(&request);
        match faults.catch("call", || self.inner.call(request)) {
            Some(future) => CatchFaultsFuture::running(future, faults, grpc),
            None => CatchFaultsFuture::panicked(grpc),
        }
    }
}
