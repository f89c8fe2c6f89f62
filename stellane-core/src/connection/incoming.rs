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
/// [`Default`] is the empty body, and hyper's, bytes and text become one of these by [`From`], for services that are
/// called without a [`ConnectionManager`](crate::connection::ConnectionManager):
///
/// ```
/// use http_body::Body;
/// use stellane_core::connection::Incoming;
///
/// let request = http::Request::get("/").body(Incoming::default())?;
/// assert!(request.body().is_end_stream());
/// let request = http::Request::post("/").body(Incoming::from("hello"))?;
/// assert_eq!(request.body().size_hint().exact(), Some(5));
/// # Ok::<_, http::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Incoming {
    body: Kind,
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

#[derive(Debug, Default)]
enum Kind {
    #[default]
    Empty,
    Sent(hyper::body::Incoming),
    Whole(Bytes),
}

impl Incoming {
    /// Of one of the many streams of a connection.
    #[cfg(feature = "http2")]
    pub(super) fn of_stream(body: hyper::body::Incoming, connection: u64, paced: bool) -> Self {
        Self {
            body: Kind::Sent(body),
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
            body: Kind::Sent(body),
            shared_connection: None,
            paced: false,
        }
    }
}

impl From<Bytes> for Incoming {
    fn from(bytes: Bytes) -> Self {
        let body = match bytes.is_empty() {
            true => Kind::Empty,
            false => Kind::Whole(bytes),
        };
        Self {
            body,
            ..Self::default()
        }
    }
}

impl From<Vec<u8>> for Incoming {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&'static [u8]> for Incoming {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl From<String> for Incoming {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Incoming {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
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
        let polled = match body {
            Kind::Sent(body) => Pin::new(body).poll_frame(cx),
            Kind::Empty => return Poll::Ready(None),
            Kind::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *body = Kind::Empty;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        };
        if *paced {
            Received::note(&polled);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Kind::Sent(body) => body.is_end_stream(),
            Kind::Empty => true,
            Kind::Whole(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Kind::Sent(body) => body.size_hint(),
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
