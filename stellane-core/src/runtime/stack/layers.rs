//! The layers themselves: the specification of what the [`PresetLayer`](super::PresetLayer) does.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use stellane_autotune::{AdaptiveLimitLayer, LimitRequestBody};
use stellane_metrics::MetricsLayer;
use stellane_pool::PoolLayer;
use tower_layer::{Layer, Stack};
use tower_service::Service;

use super::{in_flight::upload, label};
use crate::{
    BoxError,
    catch_faults::{CatchFaultsLayer, Grpc},
    config::ServerConfig,
    memory::{MemoryBody, MemoryBudget},
    on_disconnect::Asking,
    runtime::{
        Components, RefusalKind, RequestBody,
        body::BodyWatch,
        route_limits::{BodyLimits, OwnLimits},
    },
    strict_http1::StrictHttp1Layer,
};

/// What a [`PresetLayer`](super::PresetLayer) stands for, the innermost layer first: see [`Components::layers`].
pub type PresetLayers = Stack<
    BodyLimitLayer,
    Stack<
        CatchFaultsLayer,
        Stack<StrictHttp1Layer, Stack<PoolLayer, Stack<AdaptiveLimitLayer, MetricsLayer>>>,
    >,
>;

impl Components {
    /// The layers that [`layer`](Self::layer) stands for, one around the other, as a `ServiceBuilder` puts them together:
    /// to leave one out, or to put others between them. They do the same, and cost more: each has a future and a body of
    /// its own. A test has them answer, count and measure random conversations as the one layer does.
    ///
    /// But for this: in a server that is not ours the one layer lets a request of HTTP/1.1 without a host pass, which may be
    /// none of the network's; [`StrictHttp1Layer`] refuses it.
    ///
    /// ```
    /// use stellane_core::{Components, RequestBody, RuntimeConfig, connection::HttpService};
    /// use tower::ServiceBuilder;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// let config = RuntimeConfig::default();
    /// let components = Components::new(&config)?;
    /// let service = ServiceBuilder::new()
    ///     .layer(components.layers(&config.server))
    ///     .service_fn(async |_: http::Request<RequestBody>| {
    ///         Ok::<_, std::convert::Infallible>(http::Response::new("hello".to_owned()))
    ///     });
    /// let serving = components.connections.serve_connection(tokio::io::duplex(64).0, None, service);
    /// # drop(serving);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn layers(&self, server: &ServerConfig) -> PresetLayers {
        let limit = self.limit_layer.clone().overload(&self.overload);
        let layers = Stack::new(limit, MetricsLayer::new(&self.metrics));
        let layers = Stack::new(PoolLayer::new(&self.pools), layers);
        let layers = Stack::new(StrictHttp1Layer::new(&self.http1_rules), layers);
        let layers = Stack::new(CatchFaultsLayer::new(&self.faults), layers);
        let body_limits = BodyLimits::new(server.max_body_bytes, &self.own_limits);
        let memory = self.memory_if_on();
        Stack::new(
            BodyLimitLayer {
                body_limits,
                memory,
            },
            layers,
        )
    }
}

/// Refuses a request whose body says that it is too large, and ends one that turns out to be; calls of gRPC are limited by
/// message, and not here. What has come of it is counted, as by [`RequestBytesLayer`](stellane_metrics::RequestBytesLayer).
///
/// It stands inside of an [`AdaptiveLimitLayer`], gives the service a [`RequestBody`], and its refusals are errors that a
/// [`CatchFaultsLayer`] around it answers.
///
/// ```
/// use stellane_core::{
///     autotune::{AdaptiveLimit, AdaptiveLimitLayer},
///     catch_faults::{CatchFaultsLayer, Faults},
///     runtime::BodyLimitLayer,
/// };
/// use tower::ServiceBuilder;
///
/// let (limit, faults) = (AdaptiveLimit::builder().build()?, Faults::new());
/// let stack = ServiceBuilder::new()
///     .layer(AdaptiveLimitLayer::new(&limit))
///     .layer(CatchFaultsLayer::new(&faults))
///     .layer(BodyLimitLayer::new(2 << 20));
/// # let _ = stack;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct BodyLimitLayer {
    body_limits: BodyLimits,
    memory: Option<MemoryBudget>,
}

impl BodyLimitLayer {
    /// At most so many bytes; 0 is no limit.
    #[must_use]
    pub fn new(max_bytes: u64) -> Self {
        Self {
            body_limits: BodyLimits::new(max_bytes, &OwnLimits::default()),
            memory: None,
        }
    }

    /// Also counts what bodies hold, as a [`MemoryBudgetLayer`](crate::memory::MemoryBudgetLayer) does.
    #[must_use]
    pub fn memory(mut self, budget: &MemoryBudget) -> Self {
        self.memory = Some(budget.clone());
        self
    }
}

impl<S> Layer<S> for BodyLimitLayer {
    type Service = BodyLimitService<S>;

    fn layer(&self, inner: S) -> BodyLimitService<S> {
        BodyLimitService {
            inner,
            body_limits: self.body_limits.clone(),
            memory: self.memory.clone(),
        }
    }
}

/// A service behind a [`BodyLimitLayer`].
#[derive(Debug, Clone)]
pub struct BodyLimitService<S> {
    inner: S,
    body_limits: BodyLimits,
    memory: Option<MemoryBudget>,
}

impl<S, B, RB> Service<Request<LimitRequestBody<B>>> for BodyLimitService<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<RB>, Error: Into<BoxError>>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
    RB: 'static,
{
    type Response = Response<MemoryBody<RB>>;
    type Error = BoxError;
    type Future = BodyLimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<LimitRequestBody<B>>) -> Self::Future {
        let grpc = Grpc::of(&request);
        let max_bytes = self.body_limits.of(&mut request, grpc);
        let size = request.body().size_hint();
        if usize::try_from(size.lower()).map_or(true, |bytes| bytes > max_bytes) {
            return BodyLimitFuture {
                inner: None,
                watch: BodyWatch::default(),
                asking: None,
                grpc,
                memory: None,
            };
        }
        let asking = self.body_limits.asking(&mut request);
        let is_open = max_bytes != usize::MAX && size.exact().is_none();
        let watch = BodyWatch::new(is_open, upload(self.memory.as_ref(), &request));
        let request = request.map(|body| RequestBody::limited(body, max_bytes, &watch));
        BodyLimitFuture {
            inner: Some(self.inner.call(request)),
            watch,
            asking,
            grpc,
            memory: self.memory.clone(),
        }
    }
}

pin_project! {
    /// The future of a [`BodyLimitService`].
    pub struct BodyLimitFuture<F> {
        #[pin]
        inner: Option<F>,
        watch: BodyWatch,
        asking: Option<Asking>,
        grpc: Option<Grpc>,
        memory: Option<MemoryBudget>,
    }
}

impl<F, B, E> Future for BodyLimitFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: 'static,
{
    type Output = Result<Response<MemoryBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let grpc = *this.grpc;
        let refused = |kind: RefusalKind| Poll::Ready(Err(kind.refusal(grpc).into()));
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return refused(RefusalKind::BodyTooLarge);
        };
        let polled = inner.poll(cx);
        if let Poll::Ready(Ok(response)) = &polled {
            label::tell(response.body());
        }
        if let Some(kind) = this.watch.refusal(&polled, grpc, cx) {
            this.inner.set(None);
            return refused(kind);
        }
        if let (Poll::Pending, Some(asking)) = (&polled, this.asking) {
            asking.ask();
        }
        let response = ready!(polled).map_err(Into::into)?;
        *this.watch = BodyWatch::default();
        Poll::Ready(Ok(
            response.map(|body| MemoryBody::new(body, this.memory.take()))
        ))
    }
}

impl<F> fmt::Debug for BodyLimitFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyLimitFuture").finish_non_exhaustive()
    }
}
