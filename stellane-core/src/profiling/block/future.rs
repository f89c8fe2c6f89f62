use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::Response;
use pin_project_lite::pin_project;

use super::{Polls, SlowPolls};

pin_project! {
    /// The response of [`SlowPoll`](super::SlowPoll). Reports once: when it is done or dropped.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        table: SlowPolls,
        route: Option<String>,
        polls: Polls,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if this.polls.slow > 0 {
                this.table.record(this.route.as_deref(), this.polls);
            }
        }
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(inner: F, table: SlowPolls, route: Option<String>) -> Self {
        Self {
            inner,
            table,
            route,
            polls: Polls::default(),
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let threshold = this.table.threshold();
        if threshold == Duration::ZERO {
            return this.inner.poll(cx);
        }
        let started = Instant::now();
        let poll = this.inner.poll(cx);
        let took = started.elapsed();
        if took > threshold {
            this.polls.add(took);
        }
        if let Poll::Ready(Ok(response)) = &poll
            && this.polls.slow > 0
            && this.route.is_none()
        {
            *this.route = this.table.route_of(response.extensions());
        }
        poll
    }
}
