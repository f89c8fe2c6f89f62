use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::layer::Shared;
use super::{Deadline, OverloadFuture};
use crate::{LimitBody, Shed};

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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(timeout) = self.shared.timeout(request.headers()) else {
            return OverloadFuture::open(self.inner.call(request));
        };
        if self.shared.is_hopeless(timeout) {
            let (parts, _) = request.into_parts();
            let response = self.shared.refusals.response(Shed::Deadline, parts.headers);
            return OverloadFuture::refused(response);
        }
        request
            .extensions_mut()
            .insert(Deadline::new(&self.shared.clock, timeout));
        let future = self.inner.call(request);
        if self.shared.enforces() {
            OverloadFuture::timed(future, timeout, Arc::clone(&self.shared))
        } else {
            OverloadFuture::open(future)
        }
    }
}
