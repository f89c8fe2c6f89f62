use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;

use super::{Carried, Job, JobError, WorkerPoolBody, placement::Measured};

pin_project! {
    /// The response of a [`WorkerPoolService`](super::WorkerPoolService); dropping it cancels the work.
    #[derive(Debug)]
    pub struct WorkerPoolFuture<F, T, E> {
        #[pin]
        kind: Kind<F, T, E>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    pub(super) enum Kind<F, T, E> {
        Inline { #[pin] call: Measured<F> },
        Pooled { job: Job<Result<T, E>>, carried: Option<Carried> },
        Panicked,
    }
}

impl<F, T, E> WorkerPoolFuture<F, T, E> {
    pub(super) const fn new(kind: Kind<F, T, E>) -> Self {
        Self { kind }
    }
}

impl<F, RB, E> Future for WorkerPoolFuture<F, Response<RB>, E>
where
    F: Future<Output = Result<Response<RB>, E>>,
{
    type Output = Result<Response<WorkerPoolBody<RB>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match self.as_mut().project().kind.project() {
            // What a panic does must not depend on where the call runs.
            KindProj::Inline { call } => match catch_unwind(AssertUnwindSafe(|| call.poll(cx))) {
                Ok(Poll::Ready(result)) => Ok(result),
                Ok(Poll::Pending) => return Poll::Pending,
                Err(payload) => Err(JobError::panicked(&*payload)),
            },
            KindProj::Pooled { job, carried } => match Pin::new(job).poll(cx) {
                Poll::Ready(result) => {
                    if let Some(carried) = carried.take() {
                        carried.hand_back();
                    }
                    result
                }
                Poll::Pending => return Poll::Pending,
            },
            KindProj::Panicked => Err(JobError::Panicked(String::new())),
        };
        Poll::Ready(match result {
            Ok(result) => result.map(|response| response.map(WorkerPoolBody::inner)),
            Err(error) => Ok(refusal(&error)),
        })
    }
}

fn refusal<B>(error: &JobError) -> Response<WorkerPoolBody<B>> {
    let text: &[u8] = match error {
        JobError::Panicked(_) => {
            let text = br#"{"title":"Internal Server Error","status":500}"#;
            return WorkerPoolBody::problem(StatusCode::INTERNAL_SERVER_ERROR, text);
        }
        JobError::Overloaded => {
            br#"{"title":"Service Unavailable","status":503,"detail":"all workers are busy and the queue is full"}"#
        }
        JobError::Shed | JobError::Expired => {
            br#"{"title":"Service Unavailable","status":503,"detail":"no worker was free in time"}"#
        }
        JobError::Closed => {
            br#"{"title":"Service Unavailable","status":503,"detail":"the server is shutting down"}"#
        }
    };
    WorkerPoolBody::problem(StatusCode::SERVICE_UNAVAILABLE, text)
}
