use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The body of a request: hyper's, or none at all. A request that announces no body has none, and hyper may never
/// have seen it; see the [module docs](super).
///
/// [`Default`] is the empty body, and hyper's becomes one of these by [`From`], for services that are called without
/// a [`ConnectionManager`](crate::connection::ConnectionManager):
///
/// ```
/// use http_body::Body;
/// use stellane_core::connection::Incoming;
///
/// let request = http::Request::get("/").body(Incoming::default())?;
/// assert!(request.body().is_end_stream());
/// # Ok::<_, http::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Incoming(Option<hyper::body::Incoming>);

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self(Some(body))
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.get_mut().0 {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
