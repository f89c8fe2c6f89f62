use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use pin_project_lite::pin_project;

use super::{StrictBody, Violation};

pin_project! {
    /// The response of a [`StrictHttp1`](super::StrictHttp1) service.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<F> {
        Running { #[pin] inner: F },
        Refused { violation: Violation },
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn running(inner: F) -> Self {
        Self {
            kind: Kind::Running { inner },
        }
    }

    pub(super) fn refused(violation: Violation) -> Self {
        Self {
            kind: Kind::Refused { violation },
        }
    }
}

impl<F, RB, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
{
    type Output = Result<Response<StrictBody<RB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProj::Running { inner } => inner
                .poll(cx)
                .map_ok(|response| response.map(StrictBody::inner)),
            KindProj::Refused { violation } => {
                Poll::Ready(Ok(StrictBody::refusal(violation.status())))
            }
        }
    }
}
