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
    /// The response of [`SlowPollService`](super::SlowPollService). Reports once: when it is done or dropped.
    #[derive(Debug)]
    pub struct SlowPollFuture<F> {
        #[pin]
        inner: F,
        // Boxed: off is the rule, and this future lies within others.
        watch: Option<Box<Watch>>,
    }
}

/// What is kept while the measuring is on.
#[derive(Debug)]
struct Watch {
    table: SlowPolls,
    route: Option<String>,
    polls: Polls,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.polls.slow > 0 {
            self.table.record(self.route.as_deref(), &self.polls);
        }
    }
}

impl<F> SlowPollFuture<F> {
    pub(super) fn unwatched(inner: F) -> Self {
        Self { inner, watch: None }
    }

    pub(super) fn watched(inner: F, table: SlowPolls, route: Option<String>) -> Self {
        let watch = Watch {
            table,
            route,
            polls: Polls::default(),
        };
        Self {
            inner,
            watch: Some(Box::new(watch)),
        }
    }
}

impl<F, B, E> Future for SlowPollFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(watch) = this.watch else {
            return this.inner.poll(cx);
        };
        let started = Instant::now();
        let poll = this.inner.poll(cx);
        let took = started.elapsed();
        let threshold = watch.table.threshold();
        if threshold != Duration::ZERO && took > threshold {
            watch.polls.add(took);
        }
        if let Poll::Ready(Ok(response)) = &poll
            && watch.polls.slow > 0
            && watch.route.is_none()
        {
            watch.route = watch.table.route_of(response.extensions());
        }
        poll
    }
}
