use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use tower_layer::Layer;

use super::{
    Deadline, OverloadConfig, OverloadService, Pressure,
    deadline::{GRPC_TIMEOUT, asked, may_ask},
};
use crate::{
    AdaptiveLimit, BuildError, Clock, RequestHead, Shed,
    limit::{OnRefusal, Refusals},
};

/// Reads deadlines, refuses what cannot meet them, passes them on and ends what exceeds them.
///
/// Put it outside of an [`AdaptiveLimitLayer`](crate::AdaptiveLimitLayer), so that waiting for a place counts. With
/// [`OverloadLayerBuilder::limit`] a request whose time left is below the median latency is refused
/// at once: it could only be answered for nobody.
///
/// ```
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use stellane_autotune::overload::{Deadline, OverloadLayer};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = OverloadLayer::builder().build()?;
/// let service = layer.layer(service_fn(|request: Request<Full<Bytes>>| async move {
///     assert!(request.extensions().get::<Deadline>().is_some());
///     Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::new())))
/// }));
/// let request = Request::builder().header("grpc-timeout", "250m").body(Full::default())?;
/// assert_eq!(service.oneshot(request).await?.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct OverloadLayer {
    pub(crate) shared: Arc<Shared>,
    timeouts: Timeouts,
}

/// The timeouts of some requests.
#[derive(Clone, Default)]
struct Timeouts(Option<Arc<TimeoutFn>>);

type TimeoutFn = dyn Fn(RequestHead<'_>) -> Option<Duration> + Send + Sync;

impl fmt::Debug for Timeouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timeouts").field(&self.0.is_some()).finish()
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    config: OverloadConfig,
    has_default: bool,
    /// The headers in which a client may ask for a timeout: gRPC's and another.
    grpc: Option<HeaderName>,
    header: Option<HeaderName>,
    clock: Clock,
    limit: Option<AdaptiveLimit>,
    pressure: Option<Pressure>,
    refusals: Refusals,
    pub(crate) on_refusal: OnRefusal,
    with_deadline: AtomicU64,
    /// Requests whose time left was below the median, refused or not.
    hopeless: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
}

/// Every so many hopeless requests one is tried all the same.
const TRIAL: u64 = 16;

impl OverloadLayer {
    /// A builder with the default configuration.
    #[must_use]
    pub fn builder() -> OverloadLayerBuilder {
        OverloadLayerBuilder::default()
    }

    /// Timeouts of their own for some requests: for these the closure's takes the place of `default_timeout` and of
    /// `max_timeout`, longer or shorter, so that a client may ask for less and not for more. `None`, or zero, leaves both as they are.
    /// A later closure takes the place of an earlier one; it is asked up to three times for a request.
    ///
    /// ```
    /// use std::time::Duration;
    /// use stellane_autotune::overload::OverloadLayer;
    ///
    /// let layer = OverloadLayer::builder().build()?.timeouts(|head| {
    ///     head.uri.path().starts_with("/reports/").then_some(Duration::from_secs(600))
    /// });
    /// # let _ = layer;
    /// # Ok::<_, stellane_autotune::BuildError>(())
    /// ```
    #[must_use]
    pub fn timeouts(
        mut self,
        of: impl Fn(RequestHead<'_>) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.timeouts = Timeouts(Some(Arc::new(of)));
        self
    }

    /// Whether a request has a timeout; counts nothing.
    #[inline]
    pub(crate) fn has_timeout(&self, head: RequestHead<'_>) -> bool {
        self.shared.has_timeout(head.headers) || self.own_timeout(head).is_some()
    }

    /// The timeout of a request, if it has one.
    #[inline]
    pub(crate) fn timeout(&self, head: RequestHead<'_>) -> Option<Duration> {
        self.shared.timeout(head.headers, self.own_timeout(head))
    }

    #[inline]
    fn own_timeout(&self, head: RequestHead<'_>) -> Option<Duration> {
        let own = self.timeouts.0.as_ref()?;
        own(head).filter(|timeout| !timeout.is_zero())
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> OverloadStats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        OverloadStats {
            with_deadline: load(&self.shared.with_deadline),
            refused: load(&self.shared.refused),
            timed_out: load(&self.shared.timed_out),
            pressure: self.shared.pressure.as_ref().map_or(0.0, Pressure::level),
        }
    }
}

impl Shared {
    #[inline]
    fn has_timeout(&self, headers: &HeaderMap) -> bool {
        let (grpc, other) = self.names();
        self.has_default || may_ask(headers, grpc, other) && self.asked(headers).is_some()
    }

    #[inline]
    fn names(&self) -> (Option<&HeaderName>, Option<&HeaderName>) {
        (self.grpc.as_ref(), self.header.as_ref())
    }

    #[cold]
    pub(super) fn asked(&self, headers: &HeaderMap) -> Option<Duration> {
        let (grpc, other) = self.names();
        asked(headers, grpc, other)
    }

    #[inline]
    fn timeout(&self, headers: &HeaderMap, own: Option<Duration>) -> Option<Duration> {
        let config = &self.config;
        let usual = own.or_else(|| self.has_default.then_some(config.default_timeout));
        let asked = self.asked(headers).or(usual)?;
        let most = own.unwrap_or(config.max_timeout);
        self.with_deadline.fetch_add(1, Ordering::Relaxed);
        // Pressure shortens how long the server is willing to work, not what the client asked for
        // if that is shorter anyway.
        let most = match &self.pressure {
            _ if most.is_zero() => Duration::MAX,
            Some(pressure) if self.is_full() => pressure.scale(most, config.pressed_timeout),
            _ => most,
        };
        Some(asked.min(most))
    }

    /// Whether anything says that the service is full; where no limit looks for that, it may be.
    fn is_full(&self) -> bool {
        self.limit.as_ref().is_none_or(AdaptiveLimit::is_limiting)
    }

    /// Whether there is no hope to answer within `timeout`.
    fn is_hopeless(&self, timeout: Duration) -> bool {
        let needed = match &self.limit {
            // While nothing is full the median of others says little about this one.
            Some(limit) if limit.is_limiting() => limit.latency_p50(),
            _ => Duration::ZERO,
        };
        if !timeout.is_zero() {
            // Some must be let through, or a median that was high once would stay so for ever.
            let is_trial = || self.hopeless.fetch_add(1, Ordering::Relaxed) % TRIAL == TRIAL - 1;
            if timeout >= needed || is_trial() {
                return false;
            }
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(limit) = &self.limit {
            limit.count_shed(Shed::Deadline);
        }
        true
    }

    pub(crate) fn enforces(&self) -> bool {
        cfg!(feature = "tokio") && self.config.enforce
    }

    /// The request with its deadline, or the refusal where there is no hope to meet it.
    pub(crate) fn admit<B>(
        &self,
        mut request: Request<B>,
        timeout: Duration,
        on_refusal: &OnRefusal,
    ) -> Result<Request<B>, Box<Response<Bytes>>> {
        if self.is_hopeless(timeout) {
            let refusal = on_refusal.refuse(Shed::Deadline, request, &self.refusals);
            return Err(Box::new(refusal));
        }
        let deadline = Deadline::new(&self.clock, timeout);
        request.extensions_mut().insert(deadline);
        Ok(request)
    }

    pub(crate) fn count_timed_out(&self) {
        self.timed_out.fetch_add(1, Ordering::Relaxed);
    }

    /// The answer to a request whose deadline has passed.
    pub(crate) fn time_out(&self, request: Request<()>, on_refusal: &OnRefusal) -> Response<Bytes> {
        self.count_timed_out();
        on_refusal.refuse(Shed::TimedOut, request, &self.refusals)
    }
}

impl<S> Layer<S> for OverloadLayer {
    type Service = OverloadService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OverloadService::new(inner, self.clone())
    }
}

/// Builds an [`OverloadLayer`].
#[derive(Debug, Default)]
pub struct OverloadLayerBuilder {
    config: OverloadConfig,
    clock: Clock,
    limit: Option<AdaptiveLimit>,
    pressure: Option<Pressure>,
    on_refusal: OnRefusal,
}

impl OverloadLayerBuilder {
    /// The settings.
    #[must_use]
    pub fn config(mut self, config: OverloadConfig) -> Self {
        self.config = config;
        self
    }

    /// Where the time comes from. Default: [`Clock::system`].
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The limit further in, whose median says what can be answered in time.
    #[must_use]
    pub fn limit(mut self, limit: &AdaptiveLimit) -> Self {
        self.limit = Some(limit.clone());
        self
    }

    /// What scales the timeouts down.
    #[must_use]
    pub fn pressure(mut self, pressure: &Pressure) -> Self {
        self.pressure = Some(pressure.clone());
        self
    }

    /// Answers of one's own, as [`AdaptiveLimitLayer::on_refusal`](crate::AdaptiveLimitLayer::on_refusal): to
    /// [`Shed::Deadline`] and [`Shed::TimedOut`].
    #[must_use]
    pub fn on_refusal(
        mut self,
        answer: impl Fn(Shed, RequestHead<'_>) -> Option<Response<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        self.on_refusal = OnRefusal::new(answer);
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    ///
    /// Lists all values of the configuration that are out of range.
    pub fn build(self) -> Result<OverloadLayer, BuildError> {
        self.config.validate()?;
        let shared = Shared {
            has_default: !self.config.default_timeout.is_zero(),
            grpc: self.config.grpc_timeout.then_some(GRPC_TIMEOUT),
            header: HeaderName::try_from(&self.config.header).ok(),
            config: self.config,
            clock: self.clock,
            limit: self.limit,
            pressure: self.pressure,
            refusals: Refusals::new(Duration::from_secs(1)),
            on_refusal: self.on_refusal,
            with_deadline: AtomicU64::new(0),
            hopeless: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
        };
        Ok(OverloadLayer {
            shared: Arc::new(shared),
            timeouts: Timeouts::default(),
        })
    }
}

/// What an [`OverloadLayer`] did so far.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct OverloadStats {
    /// Requests that had a deadline.
    pub with_deadline: u64,
    /// Requests that were refused because their deadline could not be met.
    pub refused: u64,
    /// Requests that were ended because their deadline passed.
    pub timed_out: u64,
    /// The pressure at its latest refresh.
    pub pressure: f64,
}
