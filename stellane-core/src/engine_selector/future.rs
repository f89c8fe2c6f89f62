use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::{
    Declined, EngineSelectorBody,
    handle::{Attempt, Cause},
};
use crate::BoxError;

pin_project! {
    /// The response of an [`EngineSelectorService`](super::EngineSelectorService).
    pub struct EngineSelectorFuture<A, N, B>
    where
        N: Service<Request<B>>,
    {
        #[pin]
        stage: Stage<A, N::Future>,
        native: Option<Native<N, B>>,
    }
}

/// The native service, ready, and the request as it would answer it.
pub(super) struct Native<N, B> {
    pub(super) service: N,
    pub(super) request: Request<B>,
}

impl<N: Service<Request<B>>, B> Native<N, B> {
    pub(super) fn call(mut self) -> N::Future {
        self.service.call(self.request)
    }
}

pin_project! {
    #[project = Projected]
    enum Stage<A, N> {
        Trying {
            #[pin]
            future: A,
            attempt: Option<Attempt>,
            // Made when the first poll gave no answer.
            sleep: Option<Pin<Box<Sleep>>>,
        },
        Native {
            #[pin]
            future: N,
        },
        Refused,
    }
}

impl<A, N: Service<Request<B>>, B> EngineSelectorFuture<A, N, B> {
    pub(super) fn trying(future: A, attempt: Attempt, native: Option<Native<N, B>>) -> Self {
        Self {
            stage: Stage::Trying {
                future,
                attempt: Some(attempt),
                sleep: None,
            },
            native,
        }
    }

    pub(super) fn native(future: N::Future) -> Self {
        Self {
            stage: Stage::Native { future },
            native: None,
        }
    }

    pub(super) fn refused() -> Self {
        Self {
            stage: Stage::Refused,
            native: None,
        }
    }
}

impl<A, N: Service<Request<B>>, B> fmt::Debug for EngineSelectorFuture<A, N, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineSelectorFuture")
            .finish_non_exhaustive()
    }
}

impl<A, N, B, AB, NB, E> Future for EngineSelectorFuture<A, N, B>
where
    A: Future<Output = Result<Response<AB>, E>>,
    E: Into<BoxError>,
    N: Service<Request<B>, Response = Response<NB>>,
{
    type Output = Result<Response<EngineSelectorBody<AB, NB>>, N::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let (attempt, cause) = match this.stage.as_mut().project() {
                Projected::Native { future } => {
                    let response = ready!(future.poll(cx))?;
                    return Poll::Ready(Ok(response.map(EngineSelectorBody::native)));
                }
                Projected::Refused => return Poll::Ready(Ok(refusal())),
                Projected::Trying {
                    future,
                    attempt,
                    sleep,
                } => {
                    let cause = match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
                        Ok(Poll::Ready(Ok(response))) => {
                            if let Some(attempt) = attempt.take() {
                                attempt.succeed();
                            }
                            // The native service is not needed: others may have its place.
                            *this.native = None;
                            return Poll::Ready(Ok(response.map(EngineSelectorBody::accelerated)));
                        }
                        Ok(Poll::Pending) => {
                            ready!(poll_timeout(sleep, attempt.as_ref(), cx));
                            Cause::Timeout
                        }
                        Ok(Poll::Ready(Err(error))) => cause_of(&error.into()),
                        Err(_) => Cause::Panic,
                    };
                    (attempt.take(), cause)
                }
            };
            if let Some(attempt) = attempt {
                attempt.fail(cause);
            }
            // The accelerated future is dropped here: it does nothing more.
            this.stage.set(match this.native.take() {
                Some(native) => Stage::Native {
                    future: native.call(),
                },
                None => Stage::Refused,
            });
        }
    }
}

fn poll_timeout(
    timer: &mut Option<Pin<Box<Sleep>>>,
    attempt: Option<&Attempt>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if timer.is_none() {
        *timer = attempt
            .and_then(Attempt::timeout)
            .map(|timeout| Box::pin(sleep(timeout)));
    }
    match timer {
        Some(timer) => timer.as_mut().poll(cx),
        None => Poll::Pending,
    }
}

fn cause_of(error: &BoxError) -> Cause {
    if error.is::<Declined>() {
        return Cause::Declined;
    }
    tracing::debug!(%error, "the accelerated service failed");
    Cause::Error
}

fn refusal<A, N>() -> Response<EngineSelectorBody<A, N>> {
    let mut response = Response::new(EngineSelectorBody::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let one = HeaderValue::from_static("1");
    response.headers_mut().insert(header::RETRY_AFTER, one);
    response
}
