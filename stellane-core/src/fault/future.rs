use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;

use super::{FaultBody, Faults, Refusal};
use crate::BoxError;

pin_project! {
    /// The response of a [`Fault`](super::Fault) service.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: Option<F>,
        // Moves on to the body.
        faults: Option<Faults>,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn running(inner: F, faults: Faults) -> Self {
        Self {
            inner: Some(inner),
            faults: Some(faults),
        }
    }

    pub(super) fn panicked() -> Self {
        Self {
            inner: None,
            faults: None,
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
        let (Some(inner), Some(faults)) = (this.inner.as_mut().as_pin_mut(), &this.faults) else {
            return Poll::Ready(Ok(FaultBody::plain(StatusCode::INTERNAL_SERVER_ERROR)));
        };
        // One match: each step of several would move the response once more.
        Poll::Ready(Ok(
            match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Ok(response))) => {
                    let faults = this.faults.take();
                    response.map(|body| FaultBody::new(body, faults))
                }
                Ok(Poll::Ready(Err(error))) => answer_to(&error.into(), faults),
                Err(payload) => {
                    // Dropped now: a future that panicked must not be polled again.
                    faults.panicked("future", &*payload);
                    this.inner.set(None);
                    FaultBody::plain(StatusCode::INTERNAL_SERVER_ERROR)
                }
            },
        ))
    }
}

#[cold]
fn answer_to<B>(error: &BoxError, faults: &Faults) -> Response<FaultBody<B>> {
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.response();
    }
    if over_body_limit(&**error) {
        return FaultBody::plain(StatusCode::PAYLOAD_TOO_LARGE);
    }
    faults.failed(error);
    FaultBody::plain(StatusCode::INTERNAL_SERVER_ERROR)
}

fn over_body_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.is::<http_body_util::LengthLimitError>())
}
