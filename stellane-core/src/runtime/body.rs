use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use pin_project_lite::pin_project;
use stellane_autotune::LimitRequestBody;

use super::ledger;
use crate::{BoxError, connection::Incoming};

pin_project! {
    /// The body of a request in the [`Runtime`](super::Runtime), and behind a [`PresetLayer`](super::PresetLayer): the
    /// body `B` that came in, measured, and limited if `server.max_body_bytes` is set.
    ///
    /// A service is called with one of one's own in a test: made [from](From) bytes and text, or from any other body
    /// by [`new`](Self::new).
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, StreamBody};
    /// use stellane_core::RequestBody;
    /// use tower::{ServiceExt, service_fn};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let size = service_fn(|request: Request<RequestBody>| async move {
    ///     let body = request.into_body().collect().await?.to_bytes();
    ///     Ok::<_, stellane_core::RequestBodyError>(Response::new(body.len()))
    /// });
    /// let answer = size.oneshot(Request::new("hello".into())).await?;
    /// assert_eq!(*answer.body(), 5);
    ///
    /// let frames = ["he", "llo"].map(|text| Ok::<_, Infallible>(http_body::Frame::data(text.as_bytes())));
    /// let stream = StreamBody::new(futures_util::stream::iter(frames));
    /// let answer = size.oneshot(Request::new(RequestBody::new(stream))).await?;
    /// assert_eq!(*answer.body(), 5);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub struct RequestBody<B = Incoming> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        Sent {
            #[pin]
            inner: Limited<stellane_metrics::RequestBytesBody<LimitRequestBody<B>>>,
            ceiling: Option<Ceiling>,
        },
        // A body may be `Send` alone, and a request is more useful if it is `Sync`: nobody ever waits for the lock.
        Made { inner: Mutex<UnsyncBoxBody<Bytes, BoxError>> },
    }
}

/// Whether a body that did not say how long it is has turned out to be too long.
#[derive(Debug, Clone, Default)]
pub(super) struct Ceiling(Arc<AtomicBool>);

impl Ceiling {
    pub(super) fn was_passed(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl<B> RequestBody<B> {
    pub(super) fn limited(
        body: LimitRequestBody<B>,
        max_bytes: usize,
        ceiling: Option<Ceiling>,
    ) -> Self
    where
        B: Body,
    {
        let counted = stellane_metrics::RequestBytesBody::counted(body);
        Self {
            kind: Kind::Sent {
                inner: Limited::new(counted, max_bytes),
                ceiling,
            },
        }
    }

    /// Made of another body, such as a stream of frames, for a service that is called without a server. It is neither
    /// measured nor limited; `Bytes` are not copied.
    pub fn new<M>(body: M) -> Self
    where
        M: Body<Error: Into<BoxError>> + Send + 'static,
    {
        Self {
            kind: Kind::Made {
                inner: Mutex::new(AsBytes::new(body).boxed_unsync()),
            },
        }
    }

    fn made<T>(
        inner: &Mutex<UnsyncBoxBody<Bytes, BoxError>>,
        ask: impl FnOnce(&UnsyncBoxBody<Bytes, BoxError>) -> T,
    ) -> T {
        ask(&inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The empty body.
impl<B> Default for RequestBody<B> {
    fn default() -> Self {
        Self::new(Empty::<Bytes>::new())
    }
}

macro_rules! from_bytes {
    ($($source:ty),*) => {$(
        impl<B> From<$source> for RequestBody<B> {
            fn from(whole: $source) -> Self {
                Self::new(Full::<Bytes>::from(whole))
            }
        }
    )*};
}

from_bytes!(Bytes, Vec<u8>, &'static [u8], String, &'static str);

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = RequestBodyError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let polled = match self.project().kind.project() {
            KindProjection::Sent { inner, ceiling } => {
                let polled = inner.poll_frame(cx);
                if let Poll::Ready(Some(Err(error))) = &polled
                    && let Some(ceiling) = ceiling
                    && error.is::<LengthLimitError>()
                {
                    ceiling.0.store(true, Relaxed);
                }
                if polled.is_pending() {
                    ledger::name_wait(Some(ledger::CLIENT_BODY));
                }
                polled
            }
            KindProjection::Made { inner } => {
                let inner = inner.get_mut().unwrap_or_else(PoisonError::into_inner);
                Pin::new(inner).poll_frame(cx)
            }
        };
        polled.map_err(RequestBodyError)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Sent { inner, .. } => inner.is_end_stream(),
            Kind::Made { inner } => Self::made(inner, Body::is_end_stream),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Sent { inner, .. } => inner.size_hint(),
            Kind::Made { inner } => Self::made(inner, Body::size_hint),
        }
    }
}

pin_project! {
    /// A body of any data and any error, of which `Bytes` are not copied.
    #[derive(Debug)]
    pub struct AsBytes<B> {
        #[pin]
        inner: B,
    }
}

impl<B> AsBytes<B> {
    pub(super) fn new(inner: B) -> Self {
        Self { inner }
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for AsBytes<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let whole = |mut data: B::Data| data.copy_to_bytes(data.remaining());
        let polled = self.project().inner.poll_frame(cx);
        polled
            .map_ok(|frame| frame.map_data(whole))
            .map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Why a [`RequestBody`] could not be read to its end: the client is gone, or what it sent is no body, or more than
/// `server.max_body_bytes`.
#[derive(Debug)]
pub struct RequestBodyError(BoxError);

impl RequestBodyError {
    /// Whether the body is larger than `server.max_body_bytes`.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.0.is::<LengthLimitError>()
    }

    /// The error of the body itself.
    #[must_use]
    pub fn into_inner(self) -> BoxError {
        self.0
    }
}

impl fmt::Display for RequestBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request body can't be read")
    }
}

impl std::error::Error for RequestBodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}
