use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::poll_fn,
    ops::Deref,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};

use crate::{PooledBuf, Pools};

/// From this size on, a body that came in one piece is kept as it came: copying it into pooled memory
/// would cost more than the connection saves by getting its read buffer back.
const ADOPT: usize = 32 << 10;

/// A whole body in pooled memory: a collected request, or a response, or both (an echo).
///
/// As a request it derefs to its bytes. As a response it is an [`http_body::Body`] of known length and
/// one frame. Either way the memory returns to the pool when the body is dropped or, once sent, when the
/// connection has written it.
///
/// With the feature `axum` it is an extractor and a response; it takes the pools from
/// [`PoolLayer`](crate::PoolLayer) and answers 413 past [`PoolConfig::max_body_bytes`](crate::PoolConfig::max_body_bytes).
///
/// ```
/// use http::Request;
/// use stellane_pool::{PooledBody, Pools};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pools = Pools::builder().enabled(true).build()?;
/// let request = Request::new(String::from("hello"));
/// let body = PooledBody::collect(request.into_body(), &pools).await?;
/// assert_eq!(&body[..], b"hello");
///
/// let mut reply = pools.buf().get(64);
/// reply.extend_from_slice(b"you said: ");
/// reply.extend_from_slice(&body);
/// let response = http::Response::new(PooledBody::from(reply));
/// # Ok(()) }
/// ```
pub struct PooledBody {
    data: Data,
}

enum Data {
    /// Returns to the pool as soon as it is dropped.
    Buf(PooledBuf),
    /// Returns to the pool after its last clone.
    Bytes(Bytes),
}

impl PooledBody {
    /// Collects `body`, up to the pools' [`max_body_bytes`](Pools::max_body_bytes). Trailers are dropped.
    ///
    /// # Errors
    ///
    /// When the body is larger than that, or fails.
    pub async fn collect<B: Body>(body: B, pools: &Pools) -> Result<Self, CollectError<B::Error>> {
        Self::collect_up_to(body, pools, pools.max_body_bytes()).await
    }

    /// Collects `body`, up to `limit` bytes. Trailers are dropped.
    ///
    /// # Errors
    ///
    /// When the body is larger than `limit`, or fails.
    pub async fn collect_up_to<B: Body>(
        body: B,
        pools: &Pools,
        limit: usize,
    ) -> Result<Self, CollectError<B::Error>> {
        let mut body = pin!(body);
        let too_large = || {
            pools.count_body(true);
            CollectError::TooLarge { limit }
        };
        // What announces too much is refused before it is read.
        let announced = body.size_hint().lower();
        if announced > limit as u64 {
            return Err(too_large());
        }
        let mut collected: Option<PooledBuf> = None;
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let Ok(mut data) = frame.map_err(CollectError::Body)?.into_data() else {
                continue;
            };
            let (more, len) = (
                data.remaining(),
                collected.as_ref().map_or(0, |buf| buf.len()),
            );
            if more > limit - len {
                return Err(too_large());
            }
            if len == 0 && more >= ADOPT && body.is_end_stream() {
                pools.count_body(false);
                return Ok(data.copy_to_bytes(more).into());
            }
            // Room for what is announced, but not for more than 16 times what was sent.
            let rest = usize::try_from(announced)
                .unwrap_or(limit)
                .saturating_sub(len);
            let room = more.max(rest.min((len + more).saturating_mul(15)));
            let buf = collected.get_or_insert_with(|| pools.buf().get(room));
            if more > buf.capacity() - len {
                buf.reserve(room);
            }
            while data.has_remaining() {
                let chunk = data.chunk();
                buf.extend_from_slice(chunk);
                let read = chunk.len();
                data.advance(read);
            }
        }
        pools.count_body(false);
        Ok(match collected {
            Some(buf) => buf.into(),
            None => Bytes::new().into(),
        })
    }

    /// The body as `Bytes` that share its memory.
    pub fn into_bytes(self) -> Bytes {
        match self.data {
            Data::Buf(buf) => buf.freeze(),
            Data::Bytes(bytes) => bytes,
        }
    }
}

impl Deref for PooledBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.data {
            Data::Buf(buf) => buf,
            Data::Bytes(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for PooledBody {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Body for PooledBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = std::mem::replace(&mut self.data, Data::Bytes(Bytes::new()));
        let bytes = Self { data }.into_bytes();
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}

impl From<PooledBuf> for PooledBody {
    fn from(buf: PooledBuf) -> Self {
        Self {
            data: Data::Buf(buf),
        }
    }
}

impl From<Bytes> for PooledBody {
    fn from(bytes: Bytes) -> Self {
        Self {
            data: Data::Bytes(bytes),
        }
    }
}

impl fmt::Debug for PooledBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The length only: a request's bytes do not belong in a log.
        f.debug_struct("PooledBody")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// A body could not be collected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CollectError<E> {
    /// It is larger than allowed: raise the limit, or stream the body.
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The body itself failed, mostly because the client went away.
    Body(E),
}

impl<E> CollectError<E> {
    /// The status to answer with: 413 or 400.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl<E> fmt::Display for CollectError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { limit } => write!(f, "the body is larger than {limit} bytes"),
            Self::Body(_) => f.write_str("the body could not be read"),
        }
    }
}

impl<E: Error + 'static> Error for CollectError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::TooLarge { .. } => None,
            Self::Body(error) => Some(error),
        }
    }
}
