use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The body of the guarded service, or the empty one of a refusal.
    #[derive(Debug)]
    pub struct StrictHttp1Body<B> {
        #[pin]
        inner: Option<B>,
    }
}

impl<B> StrictHttp1Body<B> {
    pub(super) fn inner(body: B) -> Self {
        Self { inner: Some(body) }
    }

    pub(super) fn refusal(status: StatusCode) -> Response<Self> {
        let mut response = Response::new(Self { inner: None });
        *response.status_mut() = status;
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        response
    }
}

impl<B: Body> Body for StrictHttp1Body<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().inner.as_pin_mut() {
            Some(inner) => inner.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
