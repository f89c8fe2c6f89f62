use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::{FaultBody, Faults, ResponseFuture, grpc::Grpc};
use crate::BoxError;

/// Turns panics and errors of a service into responses. See the [module docs](super).
#[derive(Debug, Clone)]
pub struct Fault<S> {
    inner: S,
    faults: Faults,
}

impl<S> Fault<S> {
    /// Guards `inner`, counting into `faults`.
    pub const fn new(inner: S, faults: Faults) -> Self {
        Self { inner, faults }
    }

    /// The guarded service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, RB> Service<Request<B>> for Fault<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<FaultBody<RB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    /// A service that fails to become ready is broken for good: its error is passed on.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let faults = self.faults.clone();
        let grpc = Grpc::of(&request);
        match faults.catch("call", || self.inner.call(request)) {
            Some(future) => ResponseFuture::running(future, faults, grpc),
            None => ResponseFuture::panicked(grpc),
        }
    }
}
