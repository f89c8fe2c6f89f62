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
pub struct Incoming {
    body: Option<hyper::body::Incoming>,
    /// The id of the connection that it shares with other requests.
    #[cfg_attr(
        not(feature = "full"),
        expect(dead_code, reason = "only the runtime asks")
    )]
    shared_connection: Option<u64>,
}

impl Incoming {
    /// Of one of the many streams of a connection.
    pub(super) fn of_stream(body: hyper::body::Incoming, connection: u64) -> Self {
        Self {
            body: Some(body),
            shared_connection: Some(connection),
        }
    }

    /// The id of the connection, if that has other requests at the same time.
    #[cfg(feature = "full")]
    pub(crate) fn shared_connection(&self) -> Option<u64> {
        self.shared_connection
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self {
            body: Some(body),
            shared_connection: None,
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.get_mut().body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
