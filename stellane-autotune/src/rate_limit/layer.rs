use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{RateLimit, RateLimitHeaders, RateLimited, refusal};
use crate::{Key, LimitBody, RequestHead};

type KeyFn = dyn Fn(RequestHead<'_>) -> Option<Key> + Send + Sync;
type CostFn = dyn Fn(RequestHead<'_>) -> u32 + Send + Sync;
type RefusalFn = dyn Fn(RateLimited, RequestHead<'_>) -> Option<Response<Bytes>> + Send + Sync;

/// Puts a [`RateLimit`] in front of a service; see the [module](crate::rate_limit).
///
/// What exceeds it is answered before its body is read: by 429 with `Retry-After`, `RateLimit` and an RFC 9457 body; to gRPC and
/// gRPC-Web by `RESOURCE_EXHAUSTED` with `grpc-retry-pushback-ms`. Who waits for as long as that is let in.
#[derive(Clone)]
pub struct RateLimitLayer {
    limit: RateLimit,
    of: Arc<Of>,
}

/// What is asked about a request.
#[derive(Clone)]
struct Of {
    key: Arc<KeyFn>,
    cost: Option<Arc<CostFn>>,
    on_refusal: Option<Arc<RefusalFn>>,
}

impl RateLimitLayer {
    /// A layer under `limit`. The closure says whose a request is; `None` is nobody's, and is let through.
    #[must_use]
    pub fn new(
        limit: &RateLimit,
        key: impl Fn(RequestHead<'_>) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        Self {
            limit: limit.clone(),
            of: Arc::new(Of {
                key: Arc::new(key),
                cost: None,
                on_refusal: None,
            }),
        }
    }

    /// For how many a request counts. Default: one. Zero asks for nothing, and is let in while the key is not over its rate.
    #[must_use]
    pub fn cost(mut self, cost: impl Fn(RequestHead<'_>) -> u32 + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.of).cost = Some(Arc::new(cost));
        self
    }

    /// Answers of one's own; `None` is the usual one. Default: none.
    #[must_use]
    pub fn on_refusal(
        mut self,
        answer: impl Fn(RateLimited, RequestHead<'_>) -> Option<Response<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.of).on_refusal = Some(Arc::new(answer));
        self
    }
}

impl fmt::Debug for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RateLimitLayer")
            .field(&self.limit.rules())
            .finish()
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimitService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimitService {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service behind a [`RateLimit`]; made by [`RateLimitLayer`].
#[derive(Debug, Clone)]
pub struct RateLimitService<S> {
    inner: S,
    layer: RateLimitLayer,
}

impl<S, B, RB> Service<Request<B>> for RateLimitService<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: Body,
    RB::Data: From<Bytes>,
{
    type Response = Response<LimitBody<RB>>;
    type Error = S::Error;
    type Future = RateLimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let RateLimitLayer { limit, of } = &self.layer;
        let head = RequestHead::from(&request);
        let Some(key) = (of.key)(head) else {
            return RateLimitFuture::new(self.inner.call(request), None);
        };
        let cost = of.cost.as_ref().map_or(1, |cost| cost(head));
        match limit.check(key, cost) {
            Ok(left) => {
                let tells = limit.headers() == RateLimitHeaders::All;
                let tells = tells.then(|| (limit.clone(), left.rule, left.left, left.full_in));
                RateLimitFuture::new(self.inner.call(request), tells)
            }
            Err(limited) => {
                let own = of.on_refusal.as_ref().and_then(|own| own(limited, head));
                let mut response = own
                    .unwrap_or_else(|| refusal::response(&limited, request.into_parts().0.headers));
                if limit.headers() != RateLimitHeaders::Off {
                    let RateLimited { rule, full_in, .. } = limited;
                    refusal::tell(limit, rule, 0, full_in, response.headers_mut());
                }
                RateLimitFuture {
                    state: State::Refused {
                        response: Some(response),
                    },
                }
            }
        }
    }
}

type Tells = (RateLimit, usize, u64, Duration);

pin_project! {
    /// The future of a [`RateLimitService`].
    pub struct RateLimitFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Allowed { #[pin] future: F, tells: Option<Tells> },
        Refused { response: Option<Response<Bytes>> },
    }
}

impl<F> RateLimitFuture<F> {
    fn new(future: F, tells: Option<Tells>) -> Self {
        Self {
            state: State::Allowed { future, tells },
        }
    }
}

impl<F> fmt::Debug for RateLimitFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitFuture").finish_non_exhaustive()
    }
}

impl<F, RB, E> Future for RateLimitFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    RB: Body,
{
    type Output = Result<Response<LimitBody<RB>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Allowed { future, tells } => {
                let mut response = ready!(future.poll(cx))?;
                if let Some((limit, rule, left, full_in)) = tells.take() {
                    refusal::tell(&limit, rule, left, full_in, response.headers_mut());
                }
                Poll::Ready(Ok(response.map(|body| LimitBody::new(body, None))))
            }
            StateProjection::Refused { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response.map(LimitBody::refusal))),
                None => Poll::Pending,
            },
        }
    }
}
