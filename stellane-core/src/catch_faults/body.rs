use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::FaultCounter;
use crate::BoxError;

pin_project! {
    /// The body of the guarded service, or the few words that replace it.
    #[derive(Debug)]
    pub struct CatchFaultsBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<B> {
        Inner { #[pin] body: B, faults: FaultCounter },
        // `None` once it was sent, or after the inner body panicked.
        Plain { text: Option<Bytes> },
    }
}

impl<B> CatchFaultsBody<B> {
    #[inline]
    pub(crate) fn new(body: B, faults: FaultCounter) -> Self {
        Self {
            kind: Kind::Inner { body, faults },
        }
    }

    pub(crate) fn text(text: Bytes) -> Self {
        Self {
            kind: Kind::Plain {
                text: Some(text).filter(|text| !text.is_empty()),
            },
        }
    }

    /// A response that says no more than its status: what failed is for the log, not for the client.
    pub(super) fn plain(status: StatusCode) -> Response<Self> {
        let text = status.canonical_reason().unwrap_or("error");
        let text = Bytes::from_static(text.as_bytes());
        let mut response = Response::new(Self::text(text));
        *response.status_mut() = status;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        response
    }
}

/// The empty body.
impl<B> Default for CatchFaultsBody<B> {
    fn default() -> Self {
        Self::text(Bytes::new())
    }
}

/// Data of another kind become [`Bytes`]; those are passed on as they are.
impl<B> Body for CatchFaultsBody<B>
where
    B: Body<Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut kind = self.project().kind;
        match kind.as_mut().project() {
            KindProj::Plain { text } => {
                return Poll::Ready(text.take().map(|t| Ok(Frame::data(t))));
            }
            KindProj::Inner { body, faults } => {
                let mut polled = Poll::Pending;
                let poll = || polled = body.poll_frame(cx);
                if faults.catch("response body", poll).is_some() {
                    let whole = |mut data: B::Data| data.copy_to_bytes(data.remaining());
                    return polled
                        .map_ok(|frame| frame.map_data(whole))
                        .map_err(Into::into);
                }
            }
        }
        kind.set(Kind::Plain { text: None });
        Poll::Ready(Some(Err("the response body panicked".into())))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body, .. } => body.is_end_stream(),
            Kind::Plain { text } => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body, .. } => body.size_hint(),
            Kind::Plain { text } => {
                SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64))
            }
        }
    }
}
