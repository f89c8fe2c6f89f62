use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    AutoTuneBody, AutoTuneFuture,
    traffic::{Passage, Traffic},
};

/// The service of [`AutoTuneLayer`](super::AutoTuneLayer).
#[derive(Debug, Clone)]
pub struct AutoTuneService<S> {
    pub(super) inner: S,
    pub(super) traffic: Arc<Traffic>,
}

impl<S, B, RB> Service<Request<B>> for AutoTuneService<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: Body,
{
    type Response = Response<AutoTuneBody<RB>>;
    type Error = S::Error;
    type Future = AutoTuneFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let passage = Passage::begin(&self.traffic);
        AutoTuneFuture::new(self.inner.call(request), passage)
    }
}
