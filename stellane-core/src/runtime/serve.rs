use std::{
    fmt, io,
    net::SocketAddr,
    pin::{Pin, pin},
    process::{ExitCode, Termination},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::task::JoinSet;
use tower_layer::Layer;
use tower_service::Service;

#[cfg(feature = "profiling")]
use super::builder::HeapSource;
use super::{
    Components, RequestBody, Runtime, RuntimeError, admin,
    background::Background,
    builder::Signal,
    refusal::{EarlyLimit, OnRefusal},
    stack,
    watch::Watch,
};
#[cfg(unix)]
use super::{
    signals::Ending,
    successor::{self, Successor},
    systemd,
};
use crate::{
    BoxError,
    config::{ServerConfig, is_socket_address},
    connection::{Early, ListenConfig, Listener, TlsAcceptor},
    engine::{Engine, EngineError, EngineKind, PerCoreEngine, SharedEngine, StopReport},
    hot_reload::LiveReloadLayer,
    strict_http1::{Http1Rules, StrictHttp1Layer},
};
#[cfg(feature = "profiling")]
use crate::{
    config::DevConfig,
    profiling::{ProfileLayer, ProfileService},
};
#[cfg(feature = "reload")]
use crate::{
    config::{ConfigErrors, ConfigWatcher, LiveTargets, Loader, Reload},
    detached::DetachedThread,
    logging::LogHandle,
};

/// A server that listens on its addresses; [`serve`](Self::serve) begins to answer.
#[derive(Debug)]
pub struct BoundRuntime<S> {
    runtime: Runtime<S>,
    listeners: Vec<Listener>,
    admin: Option<Listener>,
    tls: Option<TlsAcceptor>,
    local_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunReport {
    /// The drain of the connections.
    pub drain: StopReport,
}

impl RunReport {
    /// Whether everything came to its end by itself, or was told goodbye.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.drain.aborted == 0 && self.drain.left == 0
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StopReport {
            closed,
            farewells,
            aborted,
            left,
        } = self.drain;
        write!(
            f,
            "{closed} connections closed, {aborted} of them cut at the end of their time; {farewells} streams told \
             goodbye; {left} connections left to handlers that hold their threads"
        )
    }
}

/// What `main` may return: success if [nothing was cut](RunReport::is_clean), and otherwise failure, so that whoever
/// started the process can tell that its time was too short.
impl Termination for RunReport {
    fn report(self) -> ExitCode {
        match self.is_clean() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}

pub(super) async fn bind<S>(runtime: Runtime<S>) -> Result<BoundRuntime<S>, RuntimeError> {
    let server = &runtime.config.server;
    let mut options = runtime.config.connection.listen.clone();
    if runtime.config.engine.kind == EngineKind::PerCore && options.sockets == 1 {
        // Each core accepts what the system deals it.
        options.sockets = runtime.config.engine.threads();
    }
    let mut listeners = Listener::inherited().map_err(|source| RuntimeError::Bind {
        key: "server.address",
        address: server.address.clone(),
        source,
    })?;
    #[cfg(unix)]
    let mut admin = {
        let admin = successor::take_admin(&mut listeners);
        let (key, address) = ("server.address", &server.address);
        listeners = successor::where_configured(listeners, key, address, &options).await;
        admin
    };
    #[cfg(not(unix))]
    let mut admin = None;
    if listeners.is_empty() {
        listeners = listen("server.address", &server.address, &options).await?;
    }
    let files = &runtime.config.connection.tls;
    // One without the other is an error of its own.
    let tls = if files.certificate.is_empty() && files.key.is_empty() {
        None
    } else {
        let tls = TlsAcceptor::from_files(&files.certificate, &files.key);
        Some(tls.map_err(|error| RuntimeError::Component {
            name: "connection.tls",
            source: error.into(),
        })?)
    };
    if let Some(tls) = &tls {
        listeners = listeners.into_iter().map(|l| l.tls(tls)).collect();
    }
    let one = ListenConfig {
        sockets: 1,
        ..options
    };
    let address = server.admin_address.as_str();
    admin = match (address, admin) {
        ("", _) => None,
        (_, None) => listen_for_admin(address, &one).await?.pop(),
        #[cfg(unix)]
        (_, Some(admin)) => {
            successor::where_configured(vec![admin], "server.admin_address", address, &one)
                .await
                .pop()
        }
        #[cfg(not(unix))]
        (_, admin) => admin,
    };
    // Only a Unix socket that was handed over has none.
    let local_addr = listeners
        .iter()
        .find_map(Listener::local_addr)
        .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
    let admin_addr = admin.as_ref().and_then(Listener::local_addr);
    Ok(BoundRuntime {
        runtime,
        listeners,
        admin,
        tls,
        local_addr,
        admin_addr,
    })
}

/// Nobody chose the default address: who finds it in use, by a Prometheus or another service, gets another port.
async fn listen_for_admin(
    address: &str,
    options: &ListenConfig,
) -> Result<Vec<Listener>, RuntimeError> {
    const KEY: &str = "server.admin_address";
    match listen(KEY, address, options).await {
        Err(RuntimeError::Bind { source, .. })
            if source.kind() == io::ErrorKind::AddrInUse
                && address == ServerConfig::default().admin_address => {}
        result => return result,
    }
    let listeners = listen(KEY, "127.0.0.1:0", options).await?;
    if let Some(used) = listeners.first().and_then(Listener::local_addr) {
        tracing::warn!(
            %used,
            "`{KEY}`: the default, {address}, is in use by somebody else; the admin service is on {used} instead"
        );
    }
    Ok(listeners)
}

/// Applies what can change at run time when the configuration file changes, or on SIGHUP.
#[cfg(feature = "reload")]
async fn follow(components: Components, log: Option<LogHandle>) {
    let loader = Loader::from_process();
    if loader.path().is_none() {
        // Nothing to follow: SIGHUP keeps its usual meaning.
        return;
    }
    let Ok(thread) = DetachedThread::spawn("stellane-config") else {
        return;
    };
    // The process started with it; what is wrong now is told when it changes.
    let Some(Ok(watcher)) = thread.run(|| ConfigWatcher::new(loader)).await else {
        return;
    };
    let targets = LiveTargets {
        log,
        connections: Some(components.connections),
        workers: Some(components.workers),
        pools: Some(components.pools),
        limit: Some(components.limit),
        tuner: Some(components.tuner),
    };
    let outcome = move |outcome: &Result<Reload, ConfigErrors>| match outcome {
        Ok(reload) => {
            targets.apply(reload);
            tracing::info!("{reload}");
        }
        Err(errors) => tracing::warn!("the old configuration stays: {errors}"),
    };
    drop(thread);
    #[cfg(unix)]
    let asked = {
        let readiness = components.readiness;
        move |asked| {
            // Until it is ready, systemd does not ask for it.
            if readiness.is_ready() {
                systemd::reloading(asked);
            }
        }
    };
    #[cfg(not(unix))]
    let asked = |_| {};
    watcher.run_and_tell(outcome, asked).await;
}

async fn listen(
    key: &'static str,
    address: &str,
    options: &ListenConfig,
) -> Result<Vec<Listener>, RuntimeError> {
    if !is_socket_address(address) {
        return Err(RuntimeError::Address {
            key,
            address: address.to_owned(),
        });
    }
    Listener::bind_all(address, options)
        .await
        .map_err(|source| RuntimeError::Bind {
            key,
            address: address.to_owned(),
            source,
        })
}

impl<S> BoundRuntime<S> {
    /// Serves on this as well, for example on a Unix socket for a proxy on the same machine.
    pub fn listen_also(&mut self, listener: impl Into<Listener>) {
        self.listeners.push(listener.into());
    }

    /// The address of the service, with the port that the system chose if it was 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The address of the admin service, unless it is off.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// The components, for the service's own use.
    #[must_use]
    pub fn components(&self) -> &Components {
        &self.runtime.components
    }
}

impl<S, B> BoundRuntime<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    /// Answers until the signal, then drains. Everything that runs in the background ends with it.
    ///
    /// # Errors
    /// A listener that fails for good.
    pub async fn serve(self) -> Result<RunReport, RuntimeError> {
        let connections = &self.components().connections;
        match self.runtime.config.engine.kind {
            EngineKind::Shared => {
                let engine = SharedEngine::new(connections);
                self.serve_on(engine).await
            }
            EngineKind::PerCore => {
                let engine = PerCoreEngine::builder()
                    .connections(connections)
                    .config(self.runtime.config.engine.clone())
                    .build();
                engine
                    .start()
                    .map_err(|error| RuntimeError::Serve(Box::new(error)))?;
                let Components {
                    runtime_metrics,
                    local_signal,
                    progress,
                    ..
                } = self.components();
                let runtimes = engine.runtimes();
                for runtime in &runtimes {
                    runtime_metrics.add_tokio(runtime);
                    // It ends with the runtime.
                    runtime.spawn(local_signal.watch_tokio());
                    runtime.spawn(progress.beat());
                }
                self.serve_watched(engine, runtimes).await
            }
        }
    }

    /// As [`serve`](Self::serve), on an engine of your own. Connections are limited, tuned and shown on the
    /// admin address if it serves through the [`ConnectionManager`](crate::connection::ConnectionManager) of the
    /// [`components`](Self::components).
    ///
    /// # Errors
    /// A listener that fails for good, or an engine that can't start.
    pub async fn serve_on<E: Engine>(self, engine: E) -> Result<RunReport, RuntimeError> {
        self.serve_watched(engine, Vec::new()).await
    }

    /// `runtimes` are those of the engine, for systemd's watchdog.
    async fn serve_watched<E: Engine>(
        self,
        engine: E,
        runtimes: Vec<tokio::runtime::Handle>,
    ) -> Result<RunReport, RuntimeError> {
        let Runtime {
            config,
            components,
            service,
            signal,
            on_refusal,
            limit_layer,
            duties,
            #[cfg(unix)]
            restart,
            #[cfg(unix)]
                ending: watched,
            log,
            #[cfg(feature = "profiling")]
            heap,
        } = self.runtime;
        let mut background = JoinSet::new();
        components.spawn_background(&mut background);
        background.spawn(components.progress.beat());
        for check in duties.checks {
            background.spawn(check.run(&components.readiness));
        }
        let duties = Background::start(duties.background, &components.restarts);
        if !components.local_signal.is_watched() {
            background.spawn(components.local_signal.watch_tokio());
        }
        if let Some(tls) = self.tls {
            let interval = config.connection.tls.reload_interval;
            background.spawn(async move { tls.follow_files(interval).await });
        }
        #[cfg(feature = "reload")]
        background.spawn(follow(components.clone(), log.clone()));
        #[cfg(unix)]
        let end = {
            let admin = self.admin.as_ref();
            let successor = restart
                .and_then(|asked| Successor::new(asked, &config.server, &self.listeners, admin));
            // One of the two is there.
            let signalled = watched.as_ref().map(Ending::serve);
            let asked = signal.or_else(|| Some(Box::pin(signalled?)));
            end_of_service(
                asked.unwrap_or_else(|| Box::pin(std::future::pending())),
                successor,
            )
        };
        #[cfg(not(unix))]
        let end = end_of_service(signal);
        let failed = |error: BoxError| RuntimeError::Component {
            name: "admin",
            source: error,
        };
        let admin = match (self.admin, self.admin_addr) {
            (Some(listener), Some(address)) => {
                let admin = admin::service(&components, &config, log.clone(), address)
                    .map_err(|error| failed(error.into()))?;
                #[cfg(feature = "profiling")]
                let admin = {
                    let profiles = profiles(&config.dev, heap, &components);
                    ProfileLayer::new(profiles.listening_on(address)).layer(admin)
                };
                let rules = Http1Rules::builder().build();
                let rules = rules.map_err(|error| failed(error.into()))?;
                Some((listener, StrictHttp1Layer::new(&rules).layer(admin)))
            }
            _ => None,
        };
        let watch = Watch::start(&components, &config.server, admin)
            .map_err(|error| failed(error.into()))?;

        #[cfg(unix)]
        background.spawn(systemd::watchdog(runtimes));
        #[cfg(not(unix))]
        drop(runtimes);
        #[cfg(unix)]
        background.spawn(successor::tell_ready(components.readiness.clone()));
        let on_refusal = OnRefusal::new(on_refusal, &components.faults);
        let limit = on_refusal.of_limit(limit_layer.overload(&components.overload));
        // Reloading pages is outside of all, and has to see each request.
        let early = match config.dev.hot_reload {
            true => Early::default(),
            false => Early::new(EarlyLimit {
                limit: limit.clone(),
                metrics: components.metrics,
            }),
        };
        let refuse_early = |listener: Listener| listener.refuse_early(&early);
        let listeners: Vec<_> = self.listeners.into_iter().map(refuse_early).collect();
        let service = stack::around(service, &components, &config.server, limit, on_refusal);
        // The answer to "which process is this?" is no request of the application: outside of all.
        let serving: Serving = match config.dev.hot_reload {
            true => Box::pin(engine.serve(listeners, LiveReloadLayer::new().layer(service))),
            false => Box::pin(engine.serve(listeners, service)),
        };
        let close_admin = watch.close_admin(Duration::from_secs(1));
        let ending = async {
            let delay = match end.await {
                End::Asked => {
                    #[cfg(unix)]
                    systemd::stopping(config.server.grace_period());
                    config.server.drain_delay
                }
                // The new process answers on both addresses: nobody has to notice anything, systemd neither.
                End::HandedOver => {
                    if let Some(ending) = &watched {
                        ending.watch();
                    }
                    close_admin.await;
                    Duration::ZERO
                }
            };
            tracing::info!(?delay, deadline = ?config.server.drain_timeout, "draining");
            components.readiness.set_ready(false);
            // What is left of the work needs few.
            components.workers.set_min_workers(1);
            tokio::time::sleep(delay).await;
            let deadline = config.server.drain_timeout;
            let (drain, ()) = tokio::join!(engine.stop(deadline), duties.end(deadline));
            drain
        };
        components.readiness.set_ready(true);
        let grace = config.server.grace_period();
        tracing::info!(
            engine = engine.name(), address = %self.local_addr, admin = ?self.admin_addr,
            grace_period = ?grace, "serving; whoever stops this process has to wait for the grace period before killing it"
        );

        let (mut serving, mut ending) = (serving, pin!(ending));
        let failed = |error| RuntimeError::Serve(Box::new(error));
        let drain = tokio::select! {
            // A listener that fails ends the run now, not at the next signal.
            served = &mut serving => {
                served.map_err(failed)?;
                ending.await
            }
            drain = &mut ending => {
                serving.await.map_err(failed)?;
                drain
            }
        };
        components.workers.shutdown();
        watch.end(Duration::from_millis(100)).await;
        let report = RunReport { drain };
        #[cfg(unix)]
        if let Some(ending) = watched.as_ref().filter(|_| !report.is_clean()) {
            ending.has_cut();
        }
        tracing::info!("ended: {report}");
        Ok(report)
    }
}

type Serving = Pin<Box<dyn Future<Output = Result<(), EngineError>> + Send>>;

/// The kinds of profile that the configuration asks for.
#[cfg(feature = "profiling")]
fn profiles(
    config: &DevConfig,
    heap: Option<HeapSource>,
    components: &Components,
) -> ProfileService {
    let mut profiles = ProfileService::builder().cpu(config.profile_cpu);
    if config.profile_mem
        && let Some(heap) = heap
    {
        profiles = profiles.heap(heap(config.heap_sample_bytes));
    }
    if config.profile_block {
        profiles = profiles.block(components.slow_polls.clone());
    }
    profiles.build()
}

enum End {
    Asked,
    #[cfg(unix)]
    HandedOver,
}

/// Waits until this process is to end. What it holds of the sockets is closed by then.
#[cfg(unix)]
async fn end_of_service(asked: Signal, successor: Option<Successor>) -> End {
    match successor {
        None => asked.await,
        Some(successor) => tokio::select! {
            () = asked => {}
            () = successor.takes_over() => return End::HandedOver,
        },
    }
    End::Asked
}

#[cfg(not(unix))]
async fn end_of_service(signal: Option<Signal>) -> End {
    match signal {
        Some(signal) => signal.await,
        None => terminated().await,
    }
    End::Asked
}

#[cfg(not(unix))]
async fn ignore_end<T>(future: impl Future<Output = T>) {
    let _ = future.await;
}

/// Resolves at Ctrl-C.
#[cfg(not(unix))]
async fn terminated() {
    ignore_end(tokio::signal::ctrl_c()).await;
}
