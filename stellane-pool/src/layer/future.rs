use std::{
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::current::enter;
use crate::Pools;

pin_project! {
    /// The future of [`PoolService`](super::PoolService).
    #[derive(Debug)]
    pub struct PoolFuture<F> {
        #[pin]
        pub(super) future: F,
        // There except while `future` runs.
        pub(super) pools: Option<Pools>,
    }
}

impl<F: Future> Future for PoolFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = enter(this.pools);
        this.future.poll(cx)
    }
}
