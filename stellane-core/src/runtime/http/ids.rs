use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use http::{HeaderName, HeaderValue, Request};
use tower_http::request_id::{
    MakeRequestId, PropagateRequestId, PropagateRequestIdLayer, RequestId, SetRequestId,
    SetRequestIdLayer,
};
use tower_layer::Layer;
use tower_service::Service;

/// Sets ids of requests and sends them back, by tower-http's two layers.
#[derive(Debug, Clone)]
pub(super) struct RequestIdsLayer {
    header: HeaderName,
    /// Whether a request may bring one.
    accept: bool,
    make: MakeId,
}

impl RequestIdsLayer {
    pub(super) fn new(header: HeaderName, accept: bool) -> Self {
        Self {
            header,
            accept,
            make: MakeId::default(),
        }
    }
}

impl<S> Layer<S> for RequestIdsLayer {
    type Service = RequestIds<S>;

    fn layer(&self, inner: S) -> RequestIds<S> {
        let (header, make) = (self.header.clone(), self.make.clone());
        let inner = PropagateRequestIdLayer::new(header.clone()).layer(inner);
        RequestIds {
            inner: SetRequestIdLayer::new(header.clone(), make).layer(inner),
            header,
            accept: self.accept,
        }
    }
}

/// What `SetRequestId` finds is taken as it is: here is what must not come so far.
#[derive(Debug, Clone)]
pub struct RequestIds<S> {
    inner: SetRequestId<PropagateRequestId<S>, MakeId>,
    header: HeaderName,
    accept: bool,
}

impl<S, B, R> Service<Request<B>> for RequestIds<S>
where
    S: Service<Request<B>, Response = http::Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = <PropagateRequestId<S> as Service<Request<B>>>::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let mut brought = request.headers().get_all(&self.header).iter();
        if let Some(first) = brought.next()
            && !(self.accept && is_id(first) && brought.next().is_none())
        {
            request.headers_mut().remove(&self.header);
        }
        self.inner.call(request)
    }
}

const MAX_BYTES: usize = 128;

/// Whether it can do no harm in a log or a header: what UUIDs, ULIDs, base64 and the ids of load balancers are made of.
fn is_id(value: &HeaderValue) -> bool {
    let is_part = |&byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~+/=:".contains(&byte);
    (1..=MAX_BYTES).contains(&value.len()) && value.as_bytes().iter().all(is_part)
}

/// 128 bits that nobody can guess and no two processes share: a counter through a keyed hash, twice. `MakeRequestUuid`
/// asks the system for random bytes each time.
#[derive(Debug, Clone, Default)]
pub(super) struct MakeId {
    count: Arc<AtomicU64>,
    keys: [RandomState; 2],
}

impl MakeRequestId for MakeId {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        let count = self.count.fetch_add(1, Relaxed);
        let mut text = [0; 32];
        for (half, keys) in text.chunks_exact_mut(16).zip(&self.keys) {
            let mut rest = keys.hash_one(count);
            for digit in half {
                *digit = b"0123456789abcdef"[(rest & 15) as usize];
                rest >>= 4;
            }
        }
        HeaderValue::from_bytes(&text).ok().map(RequestId::new)
    }
}
