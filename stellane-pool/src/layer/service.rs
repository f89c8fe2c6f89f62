use std::task::{Context, Poll};

use http::Request;
use tower_service::Service;

use super::PoolFuture;
use crate::{Pools, embed::PoolScope};

/// The service of [`PoolLayer`](super::PoolLayer).
#[derive(Debug, Clone)]
pub struct PoolService<S> {
    pub(super) inner: S,
    pub(super) pools: Pools,
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
        if self.extension {
            request.extensions_mut().insert(self.pools.clone());
        }
        let mut scope = PoolScope::new(&self.pools);
        let entered = scope.enter();
        let future = self.inner.call(request);
        drop(entered);
        PoolFuture { future, scope }
    }
}
