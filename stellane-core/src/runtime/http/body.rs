use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_http::compression::CompressionBody;

use crate::BoxError;

pin_project! {
    /// The body of an answer behind a [`HttpInnerLayer`](super::HttpInnerLayer), compressed or as it is.
    pub struct HttpBody<B: Body> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B: Body> {
        Plain { #[pin] body: B },
        Compressed { #[pin] body: CompressionBody<B> },
        Empty,
    }
}

impl<B: Body> HttpBody<B> {
    pub(super) fn plain(body: B) -> Self {
        Self {
            kind: Kind::Plain { body },
        }
    }

    pub(super) fn compressed(body: CompressionBody<B>) -> Self {
        Self {
            kind: Kind::Compressed { body },
        }
    }
}

/// The empty body.
impl<B: Body> Default for HttpBody<B> {
    fn default() -> Self {
        Self { kind: Kind::Empty }
    }
}

impl<B: Body> fmt::Debug for HttpBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpBody").finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes, Error = BoxError>> Body for HttpBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProjection::Plain { body } => body.poll_frame(cx),
            KindProjection::Compressed { body } => body.poll_frame(cx),
            KindProjection::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Plain { body } => body.is_end_stream(),
            Kind::Compressed { body } => body.is_end_stream(),
            Kind::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Plain { body } => body.size_hint(),
            Kind::Compressed { body } => body.size_hint(),
            Kind::Empty => SizeHint::with_exact(0),
        }
    }
}
