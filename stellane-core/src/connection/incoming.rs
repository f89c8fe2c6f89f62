use std::{
    cell::Cell,
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
    /// Whether its client has to send it at a rate.
    paced: bool,
}

thread_local! {
    /// What became of the body of the stream that this thread polls.
    static RECEIVED: Cell<Received> = const { Cell::new(Received::NOTHING) };
}

/// What a service got when it asked for the body of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) bytes: u64,
    /// In the end, it has to wait for the client.
    pub(super) starved: bool,
}

impl Received {
    const NOTHING: Self = Self {
        bytes: 0,
        starved: false,
    };

    fn note<E>(polled: &Poll<Option<Result<Frame<Bytes>, E>>>) {
        let mut received = RECEIVED.get();
        received.starved = polled.is_pending();
        if let Poll::Ready(Some(Ok(frame))) = polled {
            received.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        RECEIVED.set(received);
    }
}

#[cfg(feature = "http2")]
/// Runs `poll`, which polls a stream, and returns what its service got of its body.
pub(super) fn observe<T>(poll: impl FnOnce() -> T) -> (T, Received) {
    let outer = RECEIVED.replace(Received::NOTHING);
    let polled = poll();
    (polled, RECEIVED.replace(outer))
}

impl Incoming {
    /// Of one of the many streams of a connection.
    #[cfg(feature = "http2")]
    pub(super) fn of_stream(body: hyper::body::Incoming, connection: u64, paced: bool) -> Self {
        Self {
            body: Some(body),
            shared_connection: Some(connection),
            paced,
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
            paced: false,
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
        let Self { body, paced, .. } = self.get_mut();
        let Some(body) = body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
        if *paced {
            Received::note(&polled);
        }
        polled
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
