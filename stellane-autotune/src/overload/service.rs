use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::layer::Shared;
use super::{OverloadFuture, TimeOut};
use crate::LimitBody;

/// A service with deadlines; made by [`OverloadLayer`](super::OverloadLayer).
#[derive(Debug, Clone)]
pub struct OverloadService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> OverloadService<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S, B, RB> Service<Request<B>> for OverloadService<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: Body,
    RB::Data: From<Bytes>,
{
    type Response = Response<LimitBody<RB>>;
    type Error = S::Error;
    type Future = OverloadFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(timeout) = self.shared.timeout(request.headers()) else {
            return OverloadFuture::open(self.inner.call(request));
        };
        let on_refusal = &self.shared.on_refusal;
        let request = match self.shared.admit(request, timeout, on_refusal) {
            Ok(request) => request,
            Err(refusal) => return OverloadFuture::refused(*refusal),
        };
        if !self.shared.enforces() {
            return OverloadFuture::open(self.inner.call(request));
        }
        let end = TimeOut::new(&request, on_refusal.clone(), Arc::clone(&self.shared));
        OverloadFuture::timed(self.inner.call(request), timeout, end)
    }
}
