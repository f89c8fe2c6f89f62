use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response};
use tower_service::Service;

use super::{
    Placed, WorkerPoolBody, WorkerPoolFuture, WorkerPoolLayer, carried::Carrying, future::Kind,
    placement::Measured,
};

/// The service of [`WorkerPoolLayer`].
#[derive(Debug, Clone)]
pub struct WorkerPoolService<S> {
    inner: S,
    layer: WorkerPoolLayer,
}

impl<S> WorkerPoolService<S> {
    pub(super) const fn new(inner: S, layer: WorkerPoolLayer) -> Self {
        Self { inner, layer }
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
    type Response = Response<WorkerPoolBody<RB>>;
    type Error = S::Error;
    type Future = WorkerPoolFuture<S::Future, Response<RB>, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let placement = self.layer.placement.clone();
        if self.layer.placed() == Placed::Inline {
            let began = Instant::now();
            let call = catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
            return WorkerPoolFuture::new(match call {
                Ok(call) => Kind::Inline {
                    call: Measured::new(call, began.elapsed(), placement),
                },
                Err(_) => Kind::Panicked,
            });
        }
        // The one that is ready goes to the pool; the clone that stays must become ready first.
        let fresh = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, fresh);
        let call = async move { ready.call(request).await };
        let carried = self.layer.carried();
        let call = Carrying::new(call, carried.clone());
        let measured = Measured::new(call, Duration::ZERO, placement);
        WorkerPoolFuture::new(Kind::Pooled {
            job: self.layer.job().spawn(measured),
            carried,
        })
    }
}
