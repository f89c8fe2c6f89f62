use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use pin_project_lite::pin_project;

use super::{StrictHttp1Body, Violation};

pin_project! {
    /// The response of [`StrictHttp1Service`](super::StrictHttp1Service).
    #[derive(Debug)]
    pub struct StrictHttp1Future<F> {
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

impl<F> StrictHttp1Future<F> {
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

impl<F, RB, E> Future for StrictHttp1Future<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
{
    type Output = Result<Response<StrictHttp1Body<RB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProj::Running { inner } => inner
                .poll(cx)
                .map_ok(|response| response.map(StrictHttp1Body::inner)),
            KindProj::Refused { violation } => {
                Poll::Ready(Ok(StrictHttp1Body::refusal(violation.status())))
            }
        }
    }
}
