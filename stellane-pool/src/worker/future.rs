use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Response, StatusCode};

use super::{Job, JobError, WorkerBody};

/// The response of a [`WorkerPoolService`](super::WorkerPoolService); dropping it cancels the work.
#[derive(Debug)]
pub struct WorkerFuture<T, E> {
    job: Job<Result<T, E>>,
}

impl<T, E> WorkerFuture<T, E> {
    pub(super) const fn new(job: Job<Result<T, E>>) -> Self {
        Self { job }
    }
}

impl<RB, E> Future for WorkerFuture<Response<RB>, E> {
    type Output = Result<Response<WorkerBody<RB>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match ready!(Pin::new(&mut self.job).poll(cx)) {
            Ok(result) => result?.map(WorkerBody::inner),
            Err(JobError::Panicked(_)) => WorkerBody::problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                br#"{"title":"Internal Server Error","status":500}"#,
            ),
            Err(JobError::Overloaded | JobError::Closed) => WorkerBody::problem(
                StatusCode::SERVICE_UNAVAILABLE,
                br#"{"title":"Service Unavailable","status":503,"detail":"all workers are busy and the queue is full"}"#,
            ),
        };
        Poll::Ready(Ok(response))
    }
}
