use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{body::AccessLogBody, entry::Entry, future::AccessLogFuture, log::Log};

/// The service of [`AccessLogLayer`](super::AccessLogLayer).
#[derive(Debug, Clone)]
pub struct AccessLogService<S> {
    inner: S,
    log: Arc<Log>,
}

impl<S> AccessLogService<S> {
    pub(super) fn new(inner: S, log: Arc<Log>) -> Self {
        Self { inner, log }
    }
}

impl<S, B, RB> Service<Request<B>> for AccessLogService<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    B: Body,
    RB: Body,
{
    type Response = Response<AccessLogBody<RB>>;
    type Error = S::Error;
    type Future = AccessLogFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut entry = Entry::new(Arc::clone(&self.log), &request);
        let inner = entry.watch(|| self.inner.call(request));
        AccessLogFuture::new(inner, entry)
    }
}
