use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;

use super::{FaultBody, Faults};
use crate::BoxError;

pin_project! {
    /// The response of a [`Fault`](super::Fault) service.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Option<F>,
        faults: Faults,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn running(inner: F, faults: Faults) -> Self {
        Self {
            inner: Some(inner),
            faults,
        }
    }

    pub(super) fn panicked(faults: Faults) -> Self {
        Self {
            inner: None,
            faults,
        }
    }
}

impl<F, RB, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<FaultBody<RB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(Ok(FaultBody::plain(StatusCode::INTERNAL_SERVER_ERROR)));
        };
        match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
            Ok(polled) => match ready!(polled) {
                Ok(response) => Poll::Ready(Ok(
                    response.map(|body| FaultBody::new(body, this.faults.clone()))
                )),
                Err(error) => {
                    Poll::Ready(Ok(FaultBody::plain(status_of(&error.into(), this.faults))))
                }
            },
            Err(payload) => {
                // Dropped now: a future that panicked must not be polled again.
                this.inner.set(None);
                this.faults.panicked("future", &*payload);
                Poll::Ready(Ok(FaultBody::plain(StatusCode::INTERNAL_SERVER_ERROR)))
            }
        }
    }
}

fn status_of(error: &BoxError, faults: &Faults) -> StatusCode {
    if over_body_limit(&**error) {
        return StatusCode::PAYLOAD_TOO_LARGE;
    }
    faults.failed(error);
    StatusCode::INTERNAL_SERVER_ERROR
}

fn over_body_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.is::<http_body_util::LengthLimitError>())
}
