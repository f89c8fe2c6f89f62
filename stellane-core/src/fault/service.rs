use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{FaultBody, Faults, ResponseFuture};
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
        // The service may be left half-way through a change by a panic. It is the user's own, who
        // asked for exactly this; Rust's types keep it memory-safe.
        match catch_unwind(AssertUnwindSafe(|| self.inner.call(request))) {
            Ok(future) => ResponseFuture::running(future, faults),
            Err(payload) => {
                faults.panicked("call", &*payload);
                ResponseFuture::panicked()
            }
        }
    }
}
