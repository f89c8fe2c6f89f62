use std::{
    fmt, mem,
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

use super::{SharedCheck, SharedRateLimit, SharedRateLimited};
use crate::{
    Key, LimitBody, RequestHead,
    rate_limit::refusal::{self, Tells},
};

type KeyFn = dyn Fn(RequestHead<'_>) -> Option<Key> + Send + Sync;
type CostFn = dyn Fn(RequestHead<'_>) -> u32 + Send + Sync;
type RefusalFn =
    dyn Fn(SharedRateLimited, RequestHead<'_>) -> Option<Response<Bytes>> + Send + Sync;

/// Puts a [`SharedRateLimit`] in front of a service; see the [module](crate::rate_limit::shared).
///
/// It answers as [`RateLimitLayer`](crate::RateLimitLayer) does. Inside of an adaptive limit, or of a layer that measures, the wait for
/// the store is part of the request. Put what is cheap to decide, such as local rates, outside of it.
///
/// ```no_run
/// use stellane_autotune::{Key, rate_limit::shared::{RateStore, SharedRateLimit, SharedRateLimitLayer}};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = RateStore::builder("redis://cache:6379/0").build()?;
/// let limit = SharedRateLimit::builder(&store, "api-keys").rule("1000/s".parse()?).build()?;
/// let layer = SharedRateLimitLayer::new(&limit, |head| head.headers.get("x-api-key").map(Key::of));
/// # let _ = layer;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SharedRateLimitLayer {
    rates: Arc<[Rate]>,
    on_refusal: Option<Arc<RefusalFn>>,
}

/// One limit, and what is asked about a request.
#[derive(Clone)]
struct Rate {
    limit: SharedRateLimit,
    key: Arc<KeyFn>,
    cost: Option<Arc<CostFn>>,
}

impl Rate {
    fn new(
        limit: &SharedRateLimit,
        key: impl Fn(RequestHead<'_>) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        Self {
            limit: limit.clone(),
            key: Arc::new(key),
            cost: None,
        }
    }

    /// Whose the request is, if anybody's, and for how many it counts.
    fn of(&self, head: RequestHead<'_>) -> Option<(Key, u32)> {
        let key = (self.key)(head)?;
        Some((key, self.cost.as_ref().map_or(1, |cost| cost(head))))
    }
}

impl SharedRateLimitLayer {
    /// A layer under `limit`. The closure says whose a request is; `None` is nobody's, and is let through.
    #[must_use]
    pub fn new(
        limit: &SharedRateLimit,
        key: impl Fn(RequestHead<'_>) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        Self {
            rates: Arc::new([Rate::new(limit, key)]),
            on_refusal: None,
        }
    }

    /// Another limit further in, by another key. What it refuses counts for those before it; each may need a question.
    #[must_use]
    pub fn and(
        mut self,
        limit: &SharedRateLimit,
        key: impl Fn(RequestHead<'_>) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        let rates = self.rates.iter().cloned();
        self.rates = rates.chain([Rate::new(limit, key)]).collect();
        self
    }

    /// For how many a request counts, under the limit that was given last. Default: one. What costs more than the limit leases at a
    /// time needs a question each.
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
        answer: impl Fn(SharedRateLimited, RequestHead<'_>) -> Option<Response<Bytes>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.on_refusal = Some(Arc::new(answer));
        self
    }
}

impl fmt::Debug for SharedRateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rates.iter().map(|rate| rate.limit.rules());
        f.debug_list().entries(rules).finish()
    }
}

impl<S> Layer<S> for SharedRateLimitLayer {
    type Service = SharedRateLimitService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SharedRateLimitService {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service behind a [`SharedRateLimit`]; made by [`SharedRateLimitLayer`].
#[derive(Debug, Clone)]
pub struct SharedRateLimitService<S> {
    inner: S,
    layer: SharedRateLimitLayer,
}

impl<S, B, RB> Service<Request<B>> for SharedRateLimitService<S>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    RB: Body,
    RB::Data: From<Bytes>,
{
    type Response = Response<LimitBody<RB>>;
    type Error = S::Error;
    type Future = SharedRateLimitFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut walk = Walk::default();
        let state = match walk.next(&self.layer, RequestHead::from(&request)) {
            Step::LetIn => State::LetIn {
                future: self.inner.call(request),
                tells: walk.tells,
            },
            Step::Refused(refused) => State::refused(&self.layer, &refused, request),
            Step::Asks(check) => {
                // The one that is ready goes with the request.
                let fresh = self.inner.clone();
                State::Asks {
                    check,
                    walk,
                    layer: self.layer.clone(),
                    waiting: Some((mem::replace(&mut self.inner, fresh), request)),
                }
            }
        };
        SharedRateLimitFuture { state }
    }
}

/// How far a request has come among the rates.
#[derive(Default)]
struct Walk {
    at: usize,
    tells: Tells,
}

enum Step {
    LetIn,
    Refused(Refused),
    Asks(SharedCheck),
}

type Refused = (SharedRateLimit, SharedRateLimited);

impl Walk {
    fn next(&mut self, layer: &SharedRateLimitLayer, head: RequestHead<'_>) -> Step {
        while let Some(rate) = layer.rates.get(self.at) {
            self.at += 1;
            let Some((key, cost)) = rate.of(head) else {
                continue;
            };
            match rate.limit.decide(key, cost) {
                Ok(Ok(left)) => self.tells.let_in(rate.limit.local(), left),
                Ok(Err(limited)) => return Step::Refused((rate.limit.clone(), limited)),
                Err(check) => return Step::Asks(check),
            }
        }
        Step::LetIn
    }
}

pin_project! {
    /// The future of a [`SharedRateLimitService`].
    pub struct SharedRateLimitFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B, S::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F> {
        Asks { check: SharedCheck, walk: Walk, layer: SharedRateLimitLayer, waiting: Option<(S, Request<B>)> },
        LetIn { #[pin] future: F, tells: Tells },
        Refused { response: Option<Response<Bytes>> },
    }
}

impl<S, B, F> State<S, B, F> {
    fn refused(
        layer: &SharedRateLimitLayer,
        (limit, limited): &Refused,
        request: Request<B>,
    ) -> Self {
        let own = layer.on_refusal.as_ref();
        let own = own.and_then(|own| own(*limited, RequestHead::from(&request)));
        let headers = request.into_parts().0.headers;
        let response = match *limited {
            SharedRateLimited::Rate(limited) => {
                refusal::answer(limit.local(), limited, own, headers)
            }
            SharedRateLimited::WithoutStore => {
                own.unwrap_or_else(|| refusal::without_store(limited.retry_after(), headers))
            }
        };
        Self::Refused {
            response: Some(response),
        }
    }
}

impl<S, B> fmt::Debug for SharedRateLimitFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRateLimitFuture")
            .finish_non_exhaustive()
    }
}

impl<S, B, RB> Future for SharedRateLimitFuture<S, B>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: Body,
{
    type Output = Result<Response<LimitBody<RB>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Asks {
                    check,
                    walk,
                    layer,
                    waiting,
                } => {
                    let answer = ready!(Pin::new(&mut *check).poll(cx));
                    let Some((mut service, request)) = waiting.take() else {
                        return Poll::Pending;
                    };
                    let step = match answer {
                        Ok(left) => {
                            walk.tells.let_in(check.limit().local(), left);
                            walk.next(layer, RequestHead::from(&request))
                        }
                        Err(limited) => Step::Refused((check.limit().clone(), limited)),
                    };
                    match step {
                        Step::LetIn => State::LetIn {
                            future: service.call(request),
                            tells: mem::take(&mut walk.tells),
                        },
                        Step::Refused(refused) => State::refused(layer, &refused, request),
                        Step::Asks(next) => {
                            *check = next;
                            *waiting = Some((service, request));
                            continue;
                        }
                    }
                }
                StateProjection::LetIn { future, tells } => {
                    let mut response = ready!(future.poll(cx))?;
                    tells.tell(response.headers_mut());
                    return Poll::Ready(Ok(response.map(|body| LimitBody::new(body, None))));
                }
                StateProjection::Refused { response } => {
                    return match response.take() {
                        Some(response) => Poll::Ready(Ok(response.map(LimitBody::refusal))),
                        None => Poll::Pending,
                    };
                }
            };
            state.set(next);
        }
    }
}
