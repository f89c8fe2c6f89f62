use std::{
    cell::Cell,
    mem,
    num::NonZeroU64,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
#[cfg(feature = "http2")]
use http::{
    HeaderName,
    header::{self, Entry},
};
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
    origin: Origin,
}

/// Where it comes from.
#[derive(Debug, Default)]
enum Origin {
    #[default]
    Unknown,
    /// From a connection that it shares with other requests.
    #[cfg_attr(
        not(all(feature = "http2", feature = "preset")),
        expect(dead_code, reason = "only the runtime asks, of HTTP/2")
    )]
    Stream {
        of: Arc<Multiplexed>,
        /// Whether its client has to send it at a rate.
        paced: bool,
    },
    /// From a connection that wants to know what nobody reads of it.
    Connection(Arc<UnreadBody>),
    /// The same, and somebody has asked for it.
    Asked(Arc<UnreadBody>),
}

/// A connection that has many requests at the same time.
#[derive(Debug)]
#[cfg_attr(
    not(all(feature = "http2", feature = "preset")),
    allow(dead_code, reason = "only the runtime asks, of HTTP/2")
)]
pub(super) struct Multiplexed {
    /// Its id.
    pub(super) connection: u64,
    pub(super) client: Option<NonZeroU64>,
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

/// In boxes: a request is moved some ten times, and most have no body.
#[derive(Debug, Default)]
enum Kind {
    #[default]
    Empty,
    Sent(Box<hyper::body::Incoming>),
    Whole(Box<Bytes>),
}

impl Incoming {
    /// Of one of the many streams of a connection.
    #[cfg(feature = "http2")]
    pub(super) fn of_stream(
        body: hyper::body::Incoming,
        of: Arc<Multiplexed>,
        paced: bool,
    ) -> Self {
        // Asked once: hyper takes a lock that all streams of the connection share, each time.
        let body = match body.is_end_stream() {
            true => Kind::Empty,
            false => Kind::Sent(Box::new(body)),
        };
        Self {
            body,
            origin: Origin::Stream { of, paced },
        }
    }

    /// Of a connection that has it alone. What nobody reads of it goes back there.
    pub(super) fn of_connection(body: hyper::body::Incoming, unread: Arc<UnreadBody>) -> Self {
        Self {
            body: Kind::Sent(Box::new(body)),
            origin: Origin::Connection(unread),
        }
    }

    /// The id of the connection, if that has other requests at the same time.
    #[cfg(feature = "preset")]
    pub(crate) fn shared_connection(&self) -> Option<u64> {
        match &self.origin {
            Origin::Stream { of, .. } => Some(of.connection),
            _ => None,
        }
    }

    /// By the address of its connection: see `client.rs`.
    #[cfg(feature = "preset")]
    pub(crate) fn client(&self) -> Option<NonZeroU64> {
        match &self.origin {
            Origin::Stream { of, .. } => of.client,
            Origin::Connection(unread) | Origin::Asked(unread) => unread.client,
            Origin::Unknown => None,
        }
    }

    #[cold]
    fn leave(&mut self) {
        if let Kind::Sent(body) = mem::take(&mut self.body) {
            match mem::take(&mut self.origin) {
                Origin::Connection(unread) => unread.leave(*body, false),
                Origin::Asked(unread) => unread.leave(*body, true),
                Origin::Unknown | Origin::Stream { .. } => {}
            }
        }
    }

    /// It was asked for, and so a client that waits with it sends it.
    fn ask(&mut self) {
        if let Origin::Connection(_) = self.origin
            && let Origin::Connection(unread) = mem::take(&mut self.origin)
        {
            self.origin = Origin::Asked(unread);
        }
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self {
            body: Kind::Sent(Box::new(body)),
            origin: Origin::Unknown,
        }
    }
}

impl From<Bytes> for Incoming {
    fn from(bytes: Bytes) -> Self {
        let body = match bytes.is_empty() {
            true => Kind::Empty,
            false => Kind::Whole(Box::new(bytes)),
        };
        Self {
            body,
            origin: Origin::Unknown,
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
        let this = self.get_mut();
        this.ask();
        let body = match &mut this.body {
            Kind::Sent(body) => body,
            Kind::Empty => return Poll::Ready(None),
            Kind::Whole(bytes) => {
                let bytes = mem::take(&mut **bytes);
                this.body = Kind::Empty;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        };
        let polled = Pin::new(&mut **body).poll_frame(cx);
        if let Origin::Stream { paced: true, .. } = this.origin {
            Received::note(&polled);
        }
        #[cfg(feature = "http2")]
        let polled = match this.origin {
            Origin::Stream { .. } => polled.map_ok(unmarked),
            _ => polled,
        };
        if body.is_end_stream() || matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            // Nothing is left of it.
            if let Origin::Connection(unread) | Origin::Asked(unread) = mem::take(&mut this.origin)
            {
                unread.end();
            }
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

impl Drop for Incoming {
    #[inline]
    fn drop(&mut self) {
        if let Origin::Connection(_) | Origin::Asked(_) = self.origin {
            self.leave();
        }
    }
}

/// What stands, without a value, before the trailers of a stream when they come from hyper; no request has it.
#[cfg(feature = "http2")]
pub(super) const TRAILER_MARK: HeaderName = header::WWW_AUTHENTICATE;

/// Takes the mark out of trailers.
#[cfg(feature = "http2")]
fn unmarked(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut()
        && let Entry::Occupied(marks) = trailers.entry(TRAILER_MARK)
        && marks.get().is_empty()
    {
        let (name, values) = marks.remove_entry_mult();
        let others: Vec<_> = values.skip(1).collect();
        for value in others {
            trailers.append(&name, value);
        }
    }
    frame
}

/// What nobody reads of the body of a request. It comes from whatever thread that drops it.
#[derive(Debug)]
pub(super) struct UnreadBody {
    /// The longest that is read and dropped.
    most: u64,
    #[cfg_attr(
        not(feature = "preset"),
        expect(dead_code, reason = "only the runtime asks")
    )]
    client: Option<NonZeroU64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    left: Option<hyper::body::Incoming>,
    /// The client waits with it until it is asked for.
    is_awaited: bool,
    /// It is too long, or won't come.
    refused: bool,
    /// The connection ends with the response: nobody waits for its rest.
    given_up: bool,
    /// Somebody holds it.
    held: bool,
    /// Who reads and drops it.
    waker: Option<Waker>,
}

impl UnreadBody {
    pub(super) fn new(most: u64, client: Option<NonZeroU64>) -> Self {
        Self {
            most,
            client,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins, perhaps with a body that its client sends when it is asked for it.
    pub(super) fn begin(&self, is_awaited: bool) {
        let mut state = self.lock();
        state.is_awaited = is_awaited;
        state.refused = false;
        state.given_up = false;
        state.held = true;
    }

    /// It was read.
    fn end(&self) {
        let mut state = self.lock();
        state.held = false;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    fn leave(&self, body: hyper::body::Incoming, asked: bool) {
        let mut state = self.lock();
        let too_long = body.size_hint().exact() > Some(self.most);
        state.refused = too_long || (state.is_awaited && !asked);
        if !state.refused && !state.given_up {
            state.left = Some(body);
        }
        drop(state);
        self.end();
    }

    /// Whether its rest is neither read nor dropped: the connection ends with the response.
    pub(super) fn is_refused(&self) -> bool {
        self.lock().refused
    }

    /// The response is the connection's last: a client that waits for its end does not wait for its own body.
    pub(super) fn give_up(&self) {
        self.lock().given_up = true;
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.lock().given_up
    }

    /// What was left, if it is to be read and dropped.
    pub(super) fn take(&self) -> Option<hyper::body::Incoming> {
        self.lock().left.take()
    }

    /// Whether somebody holds it, and may read on. The task is woken when nobody does any more.
    pub(super) fn is_held(&self, cx: &Context<'_>) -> bool {
        let mut state = self.lock();
        match &state.waker {
            Some(known) if state.held && known.will_wake(cx.waker()) => {}
            _ => state.waker = state.held.then(|| cx.waker().clone()),
        }
        state.held
    }
}

#[cfg(all(test, feature = "http2"))]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn the_mark_alone_is_taken_out() {
        for (values, left) in [
            (&[""][..], &[][..]),
            (&[], &[]),
            (&["", "theirs", ""], &["theirs", ""]),
            (&["theirs"], &["theirs"]),
        ] {
            let mut trailers = HeaderMap::new();
            for value in values {
                trailers.append(TRAILER_MARK, value.parse().expect("a value"));
            }
            let frame = unmarked(Frame::trailers(trailers));
            let trailers = frame.into_trailers().expect("trailers");
            let rest: Vec<_> = trailers.get_all(TRAILER_MARK).iter().collect();
            assert_eq!(rest, left);
        }
    }
}
