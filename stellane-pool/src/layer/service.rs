use std::task::{Context, Poll};

use http::Request;
use tower_service::Service;

use super::{PoolFuture, handles::Handles};
use crate::embed::PoolScope;

/// The service of [`PoolLayer`](super::PoolLayer).
#[derive(Debug, Clone)]
pub struct PoolService<S> {
    pub(super) inner: S,
    pub(super) pools: Handles,
    pub(super) extension: bool,
}

impl<S, B> Service<Request<B>> for PoolService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = PoolFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let pools = self.pools.of_this_thread();
        if self.extension {
            request.extensions_mut().insert(pools.clone());
        }
        let mut scope = PoolScope::new(pools);
        let entered = scope.enter();
        let future = self.inner.call(request);
        drop(entered);
        PoolFuture { future, scope }
    }
}
