use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    RateLeft, RateLimit, RateLimited,
    refusal::{self, Tells},
};
use crate::{Key, LimitBody, RequestHead};

type KeyFn = dyn Fn(RequestHead<'_>) -> Option<Key> + Send + Sync;
type CostFn = dyn Fn(RequestHead<'_>) -> u32 + Send + Sync;
type RefusalFn = dyn Fn(RateLimited, RequestHead<'_>) -> Option<Response<Bytes>> + Send + Sync;

/// Puts a [`RateLimit`] in front of a service; see the [module](crate::rate_limit).
///
/// What exceeds it is answered before its body is read: by 429 with `Retry-After`, `RateLimit` and an RFC 9457 body; to gRPC and
/// gRPC-Web by `RESOURCE_EXHAUSTED` with `grpc-retry-pushback-ms`. Who waits for as long as that is let in.
///
/// ```
/// use stellane_autotune::{Key, RateLimit, RateLimitLayer};
///
/// let limit = RateLimit::builder().rule("1000/h burst 100".parse()?).build()?;
/// let layer = RateLimitLayer::new(&limit, |head| head.headers.get("x-api-key").map(Key::of));
/// # let _ = layer;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// By address under `axum::serve`, which has to be asked for the address:
///
/// ```no_run
/// use std::net::SocketAddr;
///
/// use axum::{Router, extract::ConnectInfo, routing::get};
/// use stellane_autotune::{Key, RateLimit, RateLimitLayer};
///
/// # async fn example(listener: tokio::net::TcpListener) -> Result<(), Box<dyn std::error::Error>> {
/// let limit = RateLimit::builder().rule("10/s burst 50".parse()?).build()?;
/// let app = Router::new()
///     .route("/", get(async || "hello"))
///     .layer(RateLimitLayer::new(&limit, |head| {
///         let peer = head.extensions.get::<ConnectInfo<SocketAddr>>()?;
///         Some(Key::peer(peer.0.ip()))
///     }));
/// axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RateLimitLayer {
    rates: Arc<[Rate]>,
    on_refusal: Option<Arc<RefusalFn>>,
}

/// One limit, and what is asked about a request.
#[derive(Clone)]
struct Rate {
    limit: RateLimit,
    key: Arc<KeyFn>,
    cost: Option<Arc<CostFn>>,
}

impl Rate {
    fn new(
        limit: &RateLimit,
        key: impl Fn(RequestHead<'_>) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        Self {
            limit: limit.clone(),
            key: Arc::new(key),
            cost: None,
        }
    }

    /// `None` if the request is nobody's.
    fn check(&self, head: RequestHead<'_>) -> Option<Result<RateLeft, RateLimited>> {
        let key = (self.key)(head)?;
        let cost = self.cost.as_ref().map_or(1, |cost| cost(head));
        Some(self.limit.check(key, cost))
    }
}

impl RateLimitLayer {
    /// A layer under `limit`. The closure says whose a request is; `None` is nobody's, and is let through.
    #[must_use]
    pub fn new(
        limit: &RateLimit,
        key: impl Fn(RequestHead<'_>) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        Self {
            rates: Arc::new([Rate::new(limit, key)]),
            on_refusal: None,
        }
    }

    /// Another limit further in, by another key: an address and a tenant, say. What it refuses counts for those before it.
    #[must_use]
    pub fn and(
        mut self,
        limit: &RateLimit,
        key: impl Fn(RequestHead<'_>) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        let rates = self.rates.iter().cloned();
        self.rates = rates.chain([Rate::new(limit, key)]).collect();
        self
    }

    /// For how many a request counts, under the limit that was given last. Default: one. Zero asks for nothing, and is let in
    /// while the key is not over its rate.
    #[must_use]
    pub fn cost(mut self, cost: impl Fn(RequestHead<'_>) -> u32 + Send + Sync + 'static) -> Self {
        if let Some(rate) = Arc::make_mut(&mut self.rates).last_mut() {
            rate.cost = Some(Arc::new(cost));
        }
        self
    }

    /// Answers of one's own; `None` is the usual one. Default: none.
    #[must_use]
    pub fn on_refusal(
        mut self,
        answer: impl Fn(RateLimited, RequestHead<'_>) -> Option<Response<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        self.on_refusal = Some(Arc::new(answer));
        self
    }
}

impl fmt::Debug for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rates.iter().map(|rate| rate.limit.rules());
        f.debug_list().entries(rules).finish()
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
        let RateLimitLayer { rates, on_refusal } = &self.layer;
        let head = RequestHead::from(&request);
        let mut tells = Tells::default();
        for rate in &**rates {
            let limit = &rate.limit;
            match rate.check(head) {
                None => {}
                Some(Ok(left)) => tells.let_in(limit, left),
                Some(Err(limited)) => {
                    let own = on_refusal.as_ref().and_then(|own| own(limited, head));
                    let headers = request.into_parts().0.headers;
                    let state = State::Refused {
                        response: Some(refusal::answer(limit, limited, own, headers)),
                    };
                    return RateLimitFuture { state };
                }
            }
        }
        RateLimitFuture::new(self.inner.call(request), tells)
    }
}

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
        Allowed { #[pin] future: F, tells: Tells },
        Refused { response: Option<Response<Bytes>> },
    }
}

impl<F> RateLimitFuture<F> {
    fn new(future: F, tells: Tells) -> Self {
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
                tells.tell(response.headers_mut());
                Poll::Ready(Ok(response.map(|body| LimitBody::new(body, None))))
            }
            StateProjection::Refused { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response.map(LimitBody::refusal))),
                None => Poll::Pending,
            },
        }
    }
}
