use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Response, StatusCode};
use pin_project_lite::pin_project;

use super::{CatchFaultsBody, FaultCounter, Refusal, grpc::Grpc};
use crate::BoxError;

pin_project! {
    /// The response of [`CatchFaultsService`](super::CatchFaultsService).
    #[derive(Debug)]
    pub struct CatchFaultsFuture<F> {
        #[pin]
        inner: Option<F>,
        // None after a panic of the call.
        faults: Option<FaultCounter>,
        grpc: Option<Grpc>,
    }
}

impl<F> CatchFaultsFuture<F> {
    pub(super) fn running(inner: F, faults: FaultCounter, grpc: Option<Grpc>) -> Self {
        Self {
            inner: Some(inner),
            faults: Some(faults),
            grpc,
        }
    }

    pub(super) fn panicked(grpc: Option<Grpc>) -> Self {
        Self {
            inner: None,
            faults: None,
            grpc,
        }
    }
}

impl<F, RB, E> Future for CatchFaultsFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<CatchFaultsBody<RB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const FAILED: Refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR);
        let mut this = self.project();
        let grpc = *this.grpc;
        let (Some(inner), Some(faults)) = (this.inner.as_mut().as_pin_mut(), &this.faults) else {
            return Poll::Ready(Ok(FAILED.response(grpc)));
        };
        // One match: each step of several would move the response once more.
        Poll::Ready(Ok(match faults.catch("future", || inner.poll(cx)) {
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(Ok(response))) => {
                response.map(|body| CatchFaultsBody::new(body, *faults))
            }
            Some(Poll::Ready(Err(error))) => {
                let error = error.into();
                let own = grpc.and_then(|grpc| grpc.answer_to(&error));
                own.unwrap_or_else(|| faults.answer_to(&error).refusal().response(grpc))
            }
            None => {
                // Dropped now: a future that panicked must not be polled again.
                this.inner.set(None);
                FAILED.response(grpc)
            }
        }))
    }
}

/// What an error of a service means.
pub(crate) enum Failure {
    Refused(Refusal),
    BodyTooLarge,
    Error,
}

impl Failure {
    fn refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::BodyTooLarge => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE),
            Self::Error => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

impl FaultCounter {
    /// How an error of a service is answered; counts it as one unless it is a refusal.
    #[cold]
    pub(crate) fn answer_to(self, error: &BoxError) -> Failure {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Failure::Refused(*refusal);
        }
        if over_body_limit(&**error) {
            return Failure::BodyTooLarge;
        }
        self.failed(error);
        Failure::Error
    }
}

fn over_body_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.is::<http_body_util::LengthLimitError>())
}
