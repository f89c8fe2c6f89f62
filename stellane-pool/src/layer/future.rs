use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::embed::PoolScope;

pin_project! {
    /// The future of [`PoolService`](super::PoolService).
    #[derive(Debug)]
    pub struct PoolFuture<F> {
        #[pin]
        pub(super) future: F,
        pub(super) scope: PoolScope,
    }
}

impl<F: Future> Future for PoolFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.scope.enter();
        this.future.poll(cx)
    }
}
