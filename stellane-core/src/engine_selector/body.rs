use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::BoxError;

pin_project! {
    /// The response body of an [`EngineSelectorService`](super::EngineSelectorService).
    #[derive(Debug)]
    pub struct EngineSelectorBody<A, N> {
        #[pin]
        kind: Kind<A, N>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = Projected]
    enum Kind<A, N> {
        Accelerated { #[pin] body: A },
        Native { #[pin] body: N },
        /// Of a refusal.
        Empty,
    }
}

impl<A, N> EngineSelectorBody<A, N> {
    pub(crate) fn accelerated(body: A) -> Self {
        Self {
            kind: Kind::Accelerated { body },
        }
    }

    pub(crate) fn native(body: N) -> Self {
        Self {
            kind: Kind::Native { body },
        }
    }

    pub(super) fn empty() -> Self {
        Self { kind: Kind::Empty }
    }
}

impl<A, N> Body for EngineSelectorBody<A, N>
where
    A: Body<Error: Into<BoxError>>,
    N: Body<Data = A::Data, Error: Into<BoxError>>,
{
    type Data = A::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<A::Data>, BoxError>>> {
        match self.project().kind.project() {
            Projected::Accelerated { body } => body
                .poll_frame(cx)
                .map(|frame| frame.map(|f| f.map_err(Into::into))),
            Projected::Native { body } => body
                .poll_frame(cx)
                .map(|frame| frame.map(|f| f.map_err(Into::into))),
            Projected::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Accelerated { body } => body.is_end_stream(),
            Kind::Native { body } => body.is_end_stream(),
            Kind::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Accelerated { body } => body.size_hint(),
            Kind::Native { body } => body.size_hint(),
            Kind::Empty => SizeHint::with_exact(0),
        }
    }
}
