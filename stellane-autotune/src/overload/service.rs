use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{OverloadFuture, OverloadLayer, TimeOut};
use crate::{LimitBody, RequestHead};

/// A service with deadlines; made by [`OverloadLayer`](super::OverloadLayer).
#[derive(Debug, Clone)]
pub struct OverloadService<S> {
    inner: S,
    layer: OverloadLayer,
}

impl<S> OverloadService<S> {
    pub(super) fn new(inner: S, layer: OverloadLayer) -> Self {
        Self { inner, layer }
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
        let Some(timeout) = self.layer.timeout(RequestHead::from(&request)) else {
            return OverloadFuture::open(self.inner.call(request));
        };
        let shared = &self.layer.shared;
        let on_refusal = &shared.on_refusal;
        let request = match shared.admit(request, timeout, on_refusal) {
            Ok(request) => request,
            Err(refusal) => return OverloadFuture::refused(*refusal),
        };
        if !shared.enforces() {
            return OverloadFuture::open(self.inner.call(request));
        }
        let end = TimeOut::new(&request, on_refusal.clone(), Arc::clone(shared));
        OverloadFuture::timed(self.inner.call(request), timeout, end)
    }
}
