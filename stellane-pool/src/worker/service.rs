use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use super::{WorkerBody, WorkerFuture, WorkerPool};

/// The service of [`WorkerPoolLayer`](super::WorkerPoolLayer).
#[derive(Debug, Clone)]
pub struct WorkerPoolService<S> {
    inner: S,
    pool: WorkerPool,
}

impl<S> WorkerPoolService<S> {
    pub(super) const fn new(inner: S, pool: WorkerPool) -> Self {
        Self { inner, pool }
    }
}

impl<S, B, RB> Service<Request<B>> for WorkerPoolService<S>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Send + 'static,
    RB: Send + 'static,
{
    type Response = Response<WorkerBody<RB>>;
    type Error = S::Error;
    type Future = WorkerFuture<Response<RB>, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready goes to the pool; the clone that stays must become ready first.
        let fresh = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, fresh);
        WorkerFuture::new(self.pool.spawn(async move { ready.call(request).await }))
    }
}
