use std::{borrow::Cow, fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Extensions, Response};
use stellane_autotune::{AdaptiveLimitLayer, RequestHead};
use stellane_metrics::Dependency;
#[cfg(feature = "fleet")]
use stellane_metrics::LoadReportsBuilder;
use tokio_util::sync::CancellationToken;
use tower_layer::Layer;

#[cfg(feature = "fleet")]
use super::fleet::Fleet;
#[cfg(feature = "profiling")]
use super::runtime::HeapSource;
#[cfg(unix)]
use super::signals::Ending;
use super::{
    App, BoxService, Components, RefusalKind, RuntimeError, access_log,
    around::{OneOrMade, OuterFn},
    background::BackgroundTask,
    bypass::{self, PlainEngine},
    facts::DescribeFn,
    ready_check::ReadyCheck,
    refusal::AnswerFn,
    route_limits::{LimitsFn, RequestLimits},
    runtime::{Duties, Runtime, RuntimeParts, Signal},
};
#[cfg(feature = "tls")]
use crate::connection::TlsAcceptor;
#[cfg(feature = "profiling")]
use crate::profiling::HeapProfiler;
use crate::{
    BoxError,
    config::RuntimeConfig,
    connection::{ConnectInfo, HttpService, Incoming},
    logging::{LogHandle, LogWriter},
};

type ChangeLimit = Box<dyn FnOnce(AdaptiveLimitLayer, &Components) -> AdaptiveLimitLayer + Send>;

/// Builds a [`Runtime`].
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use stellane_core::{Runtime, RuntimeConfig};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let mut config = RuntimeConfig::default();
/// # config.server.admin_address = String::new();
/// let often = Duration::from_secs(5);
/// let runtime = Runtime::builder()
///     .config(config)
///     .service(axum::Router::<()>::new())
///     .ready_check("database", often, Duration::from_secs(1), async || Ok::<_, Infallible>(()))
///     .build()?;
/// # drop(runtime);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct RuntimeBuilder<F> {
    make_service: F,
    settings: Settings,
}

/// All of a builder but the service: what knows no type of one is compiled once, together with the library.
#[derive(Default)]
struct Settings {
    config: RuntimeConfig,
    components: Option<Components>,
    signal: Option<Signal>,
    on_refusal: Option<Arc<AnswerFn>>,
    limit_layer: Option<ChangeLimit>,
    route_limits: Option<Arc<LimitsFn>>,
    purge: Option<Box<dyn Fn() + Send + Sync>>,
    duties: Duties,
    log: Option<LogHandle>,
    describe: Option<Arc<DescribeFn>>,
    outer: Option<Arc<OuterFn>>,
    access_log: Option<LogWriter>,
    #[cfg(feature = "fleet")]
    load_reports: Option<super::fleet::ChangeReports>,
    #[cfg(feature = "otlp")]
    otlp: Option<crate::otlp::Otlp>,
    takes_metrics: bool,
    bypass: Option<bool>,
    #[cfg(feature = "tls")]
    tls: Option<TlsAcceptor>,
    #[cfg(feature = "profiling")]
    heap: Option<HeapSource>,
}

/// A builder's service, once it has one.
#[diagnostic::on_unimplemented(
    message = "this `Runtime` has no service yet",
    label = "call `.service(app)` before `.build()`"
)]
pub trait HasService<S> {
    #[doc(hidden)]
    fn make(self, components: &Components) -> Result<S, BoxError>;
}

#[diagnostic::do_not_recommend]
impl<S, F> HasService<S> for F
where
    F: FnOnce(&Components) -> Result<S, BoxError>,
{
    fn make(self, components: &Components) -> Result<S, BoxError> {
        self(components)
    }
}

impl Runtime<()> {
    /// A builder with the default configuration.
    pub fn builder() -> RuntimeBuilder<()> {
        RuntimeBuilder {
            make_service: (),
            settings: Settings::default(),
        }
    }
}

impl<F> RuntimeBuilder<F> {
    /// The configuration. Default: [`RuntimeConfig::default`].
    pub fn config(mut self, config: RuntimeConfig) -> Self {
        self.settings.config = config;
        self
    }

    /// Components that were made before, instead of those made from the configuration: for services
    /// that need a handle earlier than [`service_with`](Self::service_with) gives it.
    pub fn components(mut self, components: Components) -> Self {
        self.settings.components = Some(components);
        self
    }

    /// The service.
    pub fn service<S: App>(
        self,
        service: S,
    ) -> RuntimeBuilder<impl FnOnce(&Components) -> Result<S, BoxError>> {
        self.try_service_with(|_| Ok::<_, BoxError>(service))
    }

    /// The service, made with the components at hand: the worker pool, the buffer pools, …
    pub fn service_with<S: App>(
        self,
        make: impl FnOnce(&Components) -> S,
    ) -> RuntimeBuilder<impl FnOnce(&Components) -> Result<S, BoxError>> {
        self.try_service_with(|components| Ok::<_, BoxError>(make(components)))
    }

    /// The same for a service that may fail to be made.
    pub fn try_service_with<S: App, E: Into<BoxError>>(
        self,
        make: impl FnOnce(&Components) -> Result<S, E>,
    ) -> RuntimeBuilder<impl FnOnce(&Components) -> Result<S, BoxError>> {
        self.with_service(|components: &Components| make(components).map_err(Into::into))
    }

    fn with_service<G>(self, make_service: G) -> RuntimeBuilder<G> {
        RuntimeBuilder {
            make_service,
            settings: self.settings,
        }
    }

    pub(super) fn served(
        self,
        served: OneOrMade,
    ) -> RuntimeBuilder<impl FnOnce(&Components) -> Result<OneOrMade, BoxError>> {
        self.with_service(|_: &Components| Ok(served))
    }

    /// What begins the drain. Default: `SIGTERM` or `SIGINT` (Ctrl-C elsewhere). These end the process before the service
    /// begins, begin the drain while it serves, end the process at once when they come again, and do what they do without
    /// a handler once the runtime has ended. A process that is blocked is ended before the
    /// [grace period](crate::config::ServerConfig::grace_period) is over. With a signal of one's own all of this is left
    /// to the program.
    pub fn shutdown_signal(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.settings.signal = Some(Box::pin(signal));
        self
    }

    /// Answers of one's own to what is refused or fails in the preset, from the limit to a panic of the service; `None`
    /// is the usual answer. What is no request yet is not asked about: a head that can't be read or is not sent in
    /// time, a connection too many.
    ///
    /// While it is set, the head of each request is copied for it, and refusals cost
    /// [about twice as much](crate::connection#early-refusals).
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::Response;
    /// use stellane_core::{RefusalKind, Runtime};
    ///
    /// let builder = Runtime::builder().on_refusal(|kind, head| {
    ///     if kind != RefusalKind::BodyTooLarge || !head.uri.path().starts_with("/api/") {
    ///         return None;
    ///     }
    ///     let mut response = Response::new(Bytes::from(r#"{"error":"at most 2 MiB"}"#));
    ///     *response.status_mut() = kind.status();
    ///     Some(response)
    /// });
    /// # drop(builder);
    /// ```
    pub fn on_refusal(
        mut self,
        answer: impl Fn(RefusalKind, RequestHead<'_>) -> Option<Response<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        self.settings.on_refusal = Some(Arc::new(answer));
        self
    }

    /// Changes the layer of the limit: what class a request is of, whose it is, what is exempt, what an answer says about
    /// the load. It comes with what the configuration says of classes and exemptions, which a closure of one's own
    /// takes the place of.
    ///
    /// ```
    /// use stellane_core::{Runtime, autotune::Key};
    ///
    /// // No tenant takes all places, however many connections it has.
    /// let builder = Runtime::builder()
    ///     .limit_layer(|layer, _| layer.key(|head| head.headers.get("x-tenant").map(Key::of)));
    /// # drop(builder);
    /// ```
    ///
    /// Nor does a client who shows a certificate, by the `TlsClient` in the extensions:
    /// `head.extensions.get::<TlsClient>()?.id().map(Key::of)`.
    pub fn limit_layer(
        mut self,
        change: impl FnOnce(AdaptiveLimitLayer, &Components) -> AdaptiveLimitLayer + Send + 'static,
    ) -> Self {
        self.settings.limit_layer = Some(Box::new(change));
        self
    }

    /// Deadlines and body limits of some requests, where they have to be computed; what can be said by paths, methods and
    /// gRPC services is said by [`server.route_limits`](crate::config::ServerConfig::route_limits), which is also what counts
    /// where the closure leaves something open. See [`RouteLimits`](crate::config::RouteLimits) for what they mean. It is
    /// asked up to four times for a request. A request with a deadline takes boxes, some 8 allocations.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use stellane_core::{RequestLimits, Runtime};
    ///
    /// let builder = Runtime::builder().route_limits(|head| {
    ///     let limits = RequestLimits::default();
    ///     match head.headers.contains_key("x-batch") {
    ///         true => limits.timeout(Duration::from_secs(600)).max_body_bytes(1 << 30),
    ///         false => limits,
    ///     }
    /// });
    /// # drop(builder);
    /// ```
    pub fn route_limits(
        mut self,
        of: impl Fn(RequestHead<'_>) -> RequestLimits + Send + Sync + 'static,
    ) -> Self {
        self.settings.route_limits = Some(Arc::new(of));
        self
    }

    /// A layer outside of the preset, for what has to see refusals too: request ids, CORS, access logs. The last one that
    /// is given is the outermost. What a layer answers by itself, such as a preflight, takes no place under the limit and
    /// is not counted by the metrics.
    ///
    /// It stands around a [`BoxService`], which costs two allocations for a request, and
    /// [refusals cost about twice as much](crate::connection#early-refusals): who has no such layer pays nothing.
    ///
    /// ```
    /// use stellane_core::Runtime;
    /// use tower_http::cors::CorsLayer;
    ///
    /// let builder = Runtime::builder().outer_layer(CorsLayer::permissive());
    /// # drop(builder);
    /// ```
    pub fn outer_layer<O>(mut self, layer: O) -> Self
    where
        O: Layer<BoxService<Incoming>, Service: HttpService> + Send + Sync + 'static,
    {
        self.settings.outer = Some(match self.settings.outer.take() {
            None => Arc::new(move |service| BoxService::new(layer.layer(service))),
            Some(inner) => Arc::new(move |service| BoxService::new(layer.layer(inner(service)))),
        });
        self
    }

    /// Writes the lines of the access log there, such as to a file of its own, whatever
    /// [`access_log.output`](crate::config::AccessLogConfig::output) says. Whether there are any is said by the
    /// configuration.
    pub fn access_log_writer(mut self, writer: LogWriter) -> Self {
        self.settings.access_log = Some(writer);
        self
    }

    /// Sends the metrics there, whatever the environment says: see [`otlp`](crate::otlp). For spans too a program that has a
    /// subscriber of its own adds [`Otlp::layer`](crate::otlp::Otlp::layer) to it.
    ///
    /// ```
    /// use stellane_core::{Runtime, otlp::Otlp};
    ///
    /// let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")];
    /// let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    /// if let Some(otlp) = Otlp::from_vars(variables)? {
    ///     let builder = Runtime::builder().otlp(otlp);
    ///     # drop(builder);
    /// }
    /// # Ok::<_, stellane_core::otlp::OtlpError>(())
    /// ```
    #[cfg(feature = "otlp")]
    pub fn otlp(mut self, otlp: crate::otlp::Otlp) -> Self {
        self.settings.otlp = Some(otlp);
        self
    }

    /// Changes what [`fleet.load_reports`](crate::config::FleetConfig::load_reports) tells balancers: the utilization that they choose by,
    /// and numbers of one's own. It comes with `Components::saturation`, the CPU, and the memory where there is a limit of it. Where
    /// seats can be counted, seats taken of all seats is better: it is known at once.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use stellane_core::Runtime;
    /// use tokio::sync::Semaphore;
    ///
    /// let seats = Arc::new(Semaphore::new(16));
    /// let free = seats.clone();
    /// let builder = Runtime::builder().load_reports(move |reports, _| {
    ///     reports.application_utilization(move || Some(1.0 - free.available_permits() as f64 / 16.0))
    /// });
    /// # drop(builder);
    /// ```
    #[cfg(feature = "fleet")]
    pub fn load_reports(
        mut self,
        change: impl FnOnce(LoadReportsBuilder, &Components) -> LoadReportsBuilder + Send + 'static,
    ) -> Self {
        self.settings.load_reports = Some(Box::new(change));
        self
    }

    /// Puts what handlers look for about their connection into the extensions of each request, beside our own
    /// [`ConnectInfo`]; turns [`connection.connect_info`](crate::connection::ConnectionConfig::connect_info) on. Those of
    /// axum and tonic are there by the features `axum-08` and `tonic-014`.
    ///
    /// ```
    /// use std::net::SocketAddr;
    ///
    /// use stellane_core::Runtime;
    ///
    /// #[derive(Clone)]
    /// struct Peer(Option<SocketAddr>);
    ///
    /// let builder = Runtime::builder().connect_info(|connection, extensions| {
    ///     extensions.insert(Peer(connection.peer()));
    /// });
    /// # drop(builder);
    /// ```
    pub fn connect_info(
        mut self,
        describe: impl Fn(&ConnectInfo, &mut Extensions) + Send + Sync + 'static,
    ) -> Self {
        self.settings.describe = Some(Arc::new(describe));
        self
    }

    /// TLS for the listeners of TCP that have none of their own, in the place of the files of `connection.tls`, whose keys
    /// can't change it: with a configuration of rustls for what these do not say, such as certificates that come from
    /// elsewhere. Its ALPN is used as it is: for HTTP/2 it has to hold `h2`. The handle changes it while it serves, as for
    /// new certificates.
    ///
    /// ```no_run
    /// use stellane_core::{Runtime, connection::TlsAcceptor};
    ///
    /// # fn example(config: tokio_rustls::rustls::ServerConfig) {
    /// let tls = TlsAcceptor::from_rustls(config);
    /// let builder = Runtime::builder().tls(tls.clone());
    /// # drop(builder);
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: impl Into<TlsAcceptor>) -> Self {
        self.settings.tls = Some(tls.into());
        self
    }

    /// Hands freed memory back to the system; see
    /// [`ConnectionManagerBuilder::purge_hook`](crate::connection::ConnectionManagerBuilder::purge_hook).
    pub fn purge_hook(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.settings.purge = Some(Box::new(hook));
        self
    }

    /// Asks for something that the service depends on again and again, in the background: `every` so often it calls
    /// `check`, which has failed if it returns an error, panics, or takes longer than `timeout`. `/readyz?verbose` and the
    /// live page show how it is, `stellane_dependency_up` counts on it.
    ///
    /// A name alone is a dependency that is [required](Dependency::required), whose failures are tolerated for 10 s: until
    /// it has succeeded once, and after it has failed for as long, `/readyz` says 503. A database that blinks must not
    /// take all replicas away at once, so let it be tolerated for longer than it ever blinks; and what the service can do
    /// without is [degraded](Dependency::degraded).
    ///
    /// The check itself should be small (`SELECT 1`), and must not block its thread: it runs on the service's runtime.
    /// `every` so short that checks are a load of their own is too short; too long delays both bad news and good.
    ///
    /// ```
    /// use std::{io, time::Duration};
    ///
    /// use stellane_core::{Runtime, metrics::Dependency};
    ///
    /// # async fn ping_database() -> io::Result<()> { Ok(()) }
    /// # async fn ping_cache() -> io::Result<()> { Ok(()) }
    /// let (second, half) = (Duration::from_secs(1), Duration::from_millis(500));
    /// let builder = Runtime::builder()
    ///     .ready_check("database", second, half, ping_database)
    ///     .ready_check(Dependency::degraded("cache"), second, half, ping_cache);
    /// # drop(builder);
    /// ```
    pub fn ready_check<C, Fut, E>(
        mut self,
        dependency: impl Into<Dependency>,
        every: Duration,
        timeout: Duration,
        check: C,
    ) -> Self
    where
        C: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let check = ReadyCheck::new(dependency.into(), every, timeout, check);
        self.settings.duties.checks.push(check);
        self
    }

    /// Runs `task` beside the service, on its runtime, until it returns. The token is cancelled when the drain begins: a
    /// task then ends what it has begun and returns. The drain waits for it as for requests, until `server.drain_timeout`,
    /// and then cuts it off.
    ///
    /// After a panic it is started again, after a pause of 100 ms that doubles each time up to 30 s;
    /// `stellane_background_restarts_total` counts that.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use stellane_core::Runtime;
    ///
    /// # async fn send_what_is_there() {}
    /// let builder = Runtime::builder().background("outbox", async |draining| {
    ///     while !draining.is_cancelled() {
    ///         send_what_is_there().await;
    ///         let pause = tokio::time::sleep(Duration::from_secs(1));
    ///         draining.run_until_cancelled(pause).await;
    ///     }
    ///     send_what_is_there().await; // of the requests that were just answered
    /// });
    /// # drop(builder);
    /// ```
    pub fn background<T, Fut>(mut self, name: impl Into<Cow<'static, str>>, task: T) -> Self
    where
        T: Fn(CancellationToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let task = BackgroundTask::new(name.into(), task);
        self.settings.duties.background.push(task);
        self
    }

    /// The way out, for who suspects us: serves the same service on the same addresses by plain hyper-util, without any of
    /// our own paths. There is then no limit, no deadline and no timeout but hyper's, no check of ambiguous requests, no
    /// answer to a panic or an error (the connection ends), and no request is counted; the PROXY protocol, TLS, the admin
    /// address, readiness, the signals and the drain are as before, what stands
    /// [outside of the preset](Self::outer_layer) too. A fault that is still there is not ours.
    ///
    /// Default: what `STELLANE_BYPASS=1` in the environment says, which needs no new build. At the start a warning says
    /// that it is on.
    ///
    /// ```
    /// use stellane_core::Runtime;
    ///
    /// let builder = Runtime::builder().bypass(true);
    /// # drop(builder);
    /// ```
    pub fn bypass(mut self, bypass: bool) -> Self {
        self.settings.bypass = Some(bypass);
        self
    }

    /// Renders what the application records by the macros of the `metrics` facade together with our own numbers, by
    /// becoming the recorder of the process: see [`Prometheus::install`](stellane_metrics::Prometheus::install). With a
    /// recorder of one's own it is left out, and ours are published to that by
    /// [`Components::publisher`](super::Components::publisher). The build fails if there is one already.
    ///
    /// ```
    /// use stellane_core::Runtime;
    ///
    /// let builder = Runtime::builder().install_recorder();
    /// # drop(builder);
    /// ```
    pub fn install_recorder(mut self) -> Self {
        self.settings.takes_metrics = true;
        self
    }

    /// Lets the admin service change the log level.
    pub fn log_handle(mut self, log: LogHandle) -> Self {
        self.settings.log = Some(log);
        self
    }

    /// The program's allocator, for `/debug/profile/heap` on the admin address. It samples if
    /// `dev.profile_mem` is set, about every `dev.heap_sample_bytes`.
    ///
    /// ```
    /// use std::alloc::System;
    /// use stellane_core::{Runtime, profiling::HeapProfiler};
    ///
    /// #[global_allocator]
    /// static ALLOCATOR: HeapProfiler<System> = HeapProfiler::new(System);
    ///
    /// let builder = Runtime::builder().heap_profiler(&ALLOCATOR);
    /// # drop(builder);
    /// ```
    #[cfg(feature = "profiling")]
    pub fn heap_profiler<A: Sync>(mut self, allocator: &'static HeapProfiler<A>) -> Self {
        self.settings.heap = Some(Box::new(move |sample_bytes| {
            allocator.start(usize::try_from(sample_bytes).unwrap_or(usize::MAX));
            Box::new(|| Ok(allocator.pprof()))
        }));
        self
    }

    /// Another source of heap profiles for `go tool pprof`, such as jemalloc's; called for each
    /// profile, on a thread that may block, and only if `dev.profile_mem` is set.
    #[cfg(feature = "profiling")]
    pub fn heap_source(
        mut self,
        source: impl Fn() -> Result<Vec<u8>, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.settings.heap = Some(Box::new(move |_| Box::new(source)));
        self
    }

    /// Validates the configuration, starts the components and makes the service.
    ///
    /// # Errors
    /// A wrong configuration, a component that can't start, or the error of the service's maker.
    pub fn build<S>(self) -> Result<Runtime<S>, RuntimeError>
    where
        F: HasService<S>,
    {
        let parts = self.settings.build()?;
        let service = self.make_service.make(&parts.components);
        Ok(Runtime {
            service: service.map_err(RuntimeError::Service)?,
            parts,
        })
    }
}

impl Settings {
    fn build(mut self) -> Result<RuntimeParts, RuntimeError> {
        self.config.connection.connect_info |= self.describe.is_some();
        // Only the connection knows whether it is one of TLS.
        self.config.connection.connect_info |= !self.config.http.hsts.max_age.is_zero();
        self.config.connection.connect_info |= self.config.access_log.enabled;
        self.config.connection.connect_info |= rates_by_peer(&self.config);
        // Handlers are to find who shows a certificate.
        #[cfg(feature = "tls")]
        {
            self.config.connection.connect_info |= super::tls::asks_clients(&self.config);
        }
        self.config.validate()?;
        #[cfg(not(feature = "http-layers"))]
        if !self.config.http.is_off() {
            return Err(RuntimeError::Component {
                name: "http",
                source: "build with the feature `http-layers` of `stellane-core`".into(),
            });
        }
        #[cfg(not(feature = "fleet"))]
        if !self.config.fleet.is_off() {
            return Err(RuntimeError::Component {
                name: "fleet",
                source: "build with the feature `fleet` of `stellane-core`".into(),
            });
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(RuntimeError::NoTokio);
        }
        // Who brings a signal of their own has their own way to restart.
        #[cfg(all(unix, feature = "restart"))]
        let restart = match &self.signal {
            None if !self.config.server.restart_timeout.is_zero() => restart_signal(),
            _ => None,
        };
        let components = match self.components {
            Some(components) => components,
            None => Components::with_purge_hook(&self.config, self.purge)?,
        };
        // Before the service, which may take its time: one that comes meanwhile is obeyed.
        #[cfg(unix)]
        let ending = match &self.signal {
            None => {
                let grace = self.config.server.grace_period();
                let ending = Ending::new(&components.connections, grace);
                Some(ending.map_err(|error| RuntimeError::Component {
                    name: "signals",
                    source: error.into(),
                })?)
            }
            Some(_) => None,
        };
        if self.takes_metrics {
            let installed = components.prometheus.install();
            installed.map_err(|error| RuntimeError::Component {
                name: "metrics",
                source: error.into(),
            })?;
        }
        let mut limit_layer = components.limit_layer.clone();
        if let Some(change) = self.limit_layer {
            limit_layer = change(limit_layer, &components);
        }
        let mut own_limits = components.own_limits.clone();
        if let Some(closure) = self.route_limits {
            own_limits = own_limits.by(closure, &components.faults);
        }
        let dev = &self.config.dev;
        #[cfg(not(all(feature = "admin", feature = "profiling")))]
        if dev.profile_cpu || dev.profile_mem || dev.profile_block {
            tracing::warn!(
                "no profiles: build with the features `admin` and `profiling` of `stellane-core`"
            );
        }
        #[cfg(feature = "profiling")]
        if dev.profile_mem && self.heap.is_none() {
            tracing::warn!(
                "no heap profile: give the global allocator to `RuntimeBuilder::heap_profiler`"
            );
        }
        let bypass = self.bypass.unwrap_or_else(bypass::is_asked_for);
        let bypass = bypass.then(|| PlainEngine::new(&components.connections));
        #[cfg(feature = "http-layers")]
        let http = super::HttpLayers::new(&self.config.http)?;
        #[cfg(feature = "otlp")]
        let otlp = super::otlp::start(self.otlp, &components);
        #[cfg(feature = "fleet")]
        let fleet = match &bypass {
            None => Fleet::new(&self.config.fleet, &components, self.load_reports)?,
            // Nothing is counted that could be told.
            Some(_) => Fleet::default(),
        };
        let access_log = access_log::layer(&self.config, &components, self.access_log)?;
        Ok(RuntimeParts {
            config: self.config,
            components,
            signal: self.signal,
            on_refusal: self.on_refusal,
            limit_layer,
            own_limits,
            duties: self.duties,
            #[cfg(all(unix, feature = "restart"))]
            restart,
            #[cfg(unix)]
            ending,
            log: self.log,
            describe: self.describe,
            outer: self.outer,
            access_log,
            #[cfg(feature = "fleet")]
            fleet,
            #[cfg(feature = "otlp")]
            otlp,
            bypass,
            #[cfg(feature = "tls")]
            tls: self.tls,
            #[cfg(feature = "http-layers")]
            http,
            #[cfg(all(feature = "admin", feature = "profiling"))]
            heap: self.heap,
        })
    }
}

/// Whether the address of the client has to be known.
fn rates_by_peer(config: &RuntimeConfig) -> bool {
    let mut sections = config.rate_limit.values();
    sections.any(|section| section.header().is_none())
}

#[cfg(all(unix, feature = "restart"))]
fn restart_signal() -> Option<tokio::signal::unix::Signal> {
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::user_defined2())
        .inspect_err(|error| tracing::warn!(%error, "SIGUSR2 will not restart"))
        .ok()
}

impl<F> fmt::Debug for RuntimeBuilder<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeBuilder")
            .field("config", &self.settings.config)
            .finish_non_exhaustive()
    }
}
