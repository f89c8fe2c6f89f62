use std::{
    net::SocketAddr,
    pin::{Pin, pin},
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
    builder::Signal,
    machine,
    refusal::{EarlyLimit, OnRefusal},
    stack,
};
#[cfg(unix)]
use crate::restart::Restart;
use crate::{
    BoxError,
    config::is_socket_address,
    connection::{Early, ListenConfig, Listener, TlsAcceptor},
    engine::{Engine, EngineError, EngineKind, PerCoreEngine, SharedEngine, StopReport},
    hot_reload::LiveReloadLayer,
};
#[cfg(feature = "profiling")]
use crate::{
    config::DevConfig,
    profiling::{ProfileLayer, ProfileService},
};
#[cfg(feature = "reload")]
use crate::{
    config::{ConfigErrors, ConfigWatcher, LiveTargets, Loader, Reload},
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
    let mut admin = take_admin(&mut listeners);
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
    match server.admin_address.as_str() {
        "" => admin = None,
        address if admin.is_none() => {
            let one = ListenConfig {
                sockets: 1,
                ..options
            };
            admin = listen("server.admin_address", address, &one).await?.pop();
        }
        _ => {}
    }
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

/// The socket named `admin` among those that were handed over.
fn take_admin(listeners: &mut Vec<Listener>) -> Option<Listener> {
    #[cfg(unix)]
    if let Some(at) = crate::restart::names().iter().position(|n| n == ADMIN)
        && at < listeners.len()
    {
        return Some(listeners.remove(at));
    }
    let _ = listeners;
    None
}

/// Applies what can change at run time when the configuration file changes, or on SIGHUP.
#[cfg(feature = "reload")]
async fn follow(components: Components, log: Option<LogHandle>) {
    let loader = Loader::from_process();
    if loader.path().is_none() {
        // Nothing to follow: SIGHUP keeps its usual meaning.
        return;
    }
    // The process started with it; what is wrong now is told when it changes.
    let Ok(watcher) = ConfigWatcher::new(loader) else {
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
    watcher.run(outcome).await;
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
                    ..
                } = self.components();
                for runtime in engine.runtimes() {
                    runtime_metrics.add_tokio(&runtime);
                    // It ends with the runtime.
                    runtime.spawn(local_signal.watch_tokio());
                }
                self.serve_on(engine).await
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
        let Runtime {
            config,
            components,
            service,
            signal,
            on_refusal,
            limit_layer,
            #[cfg(unix)]
            restart,
            log,
            #[cfg(feature = "profiling")]
            heap,
        } = self.runtime;
        let mut background = JoinSet::new();
        components.spawn_background(&mut background);
        if !components.local_signal.is_watched() {
            background.spawn(components.local_signal.watch_tokio());
        }
        if let Some(tls) = self.tls {
            let interval = config.connection.tls.reload_interval;
            background.spawn(async move { tls.follow_files(interval).await });
        }
        #[cfg(feature = "reload")]
        background.spawn(follow(components.clone(), log.clone()));
        let admin_manager = Components::admin_manager()?;
        #[cfg(unix)]
        let end = {
            let admin = self.admin.as_ref();
            let successor = restart.and_then(|asked| {
                let patience = config.server.restart_timeout;
                Successor::new(asked, patience, &self.listeners, admin)
            });
            end_of_service(signal, successor)
        };
        #[cfg(not(unix))]
        let end = end_of_service(signal);
        if let (Some(listener), Some(address)) = (self.admin, self.admin_addr) {
            let admin =
                admin::service(&components, &config, log.clone(), address).map_err(|error| {
                    RuntimeError::Component {
                        name: "admin",
                        source: error.into(),
                    }
                })?;
            #[cfg(feature = "profiling")]
            let admin = {
                let profiles = profiles(&config.dev, heap, &components);
                ProfileLayer::new(profiles.listening_on(address)).layer(admin)
            };
            background.spawn(ignore_end(admin_manager.serve(listener, admin)));
        }

        #[cfg(unix)]
        background.spawn(tell_ready(components.readiness.clone()));
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
        let ending = async {
            let delay = match end.await {
                End::Asked => config.server.drain_delay,
                // The new process answers on both addresses: nobody has to notice anything.
                End::HandedOver => {
                    admin_manager.drain(Duration::from_secs(1)).await;
                    Duration::ZERO
                }
            };
            tracing::info!(?delay, deadline = ?config.server.drain_timeout, "draining");
            components.readiness.set_ready(false);
            tokio::time::sleep(delay).await;
            engine.stop(config.server.drain_timeout).await
        };
        components.readiness.set_ready(true);
        machine::say(&components.connections);
        tracing::info!(engine = engine.name(), address = %self.local_addr, admin = ?self.admin_addr, "serving");

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
        admin_manager.drain(Duration::from_millis(100)).await;
        tracing::info!(?drain, "ended");
        Ok(RunReport { drain })
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

/// The name by which the socket of the admin address is handed over.
#[cfg(unix)]
const ADMIN: &str = "admin";

enum End {
    Asked,
    #[cfg(unix)]
    HandedOver,
}

/// What a new process needs, and the signal that asks for it.
#[cfg(unix)]
struct Successor {
    restart: Restart,
    asked: tokio::signal::unix::Signal,
    patience: Duration,
}

#[cfg(unix)]
impl Successor {
    fn new(
        asked: tokio::signal::unix::Signal,
        patience: Duration,
        listeners: &[Listener],
        admin: Option<&Listener>,
    ) -> Option<Self> {
        let restart = || {
            let restart = Restart::from_process()?.with_listeners("http", listeners)?;
            restart.with_listeners(ADMIN, admin)
        };
        let restart = restart()
            .inspect_err(|error| tracing::warn!(%error, "SIGUSR2 will not restart"))
            .ok()?;
        Some(Self {
            restart,
            asked,
            patience,
        })
    }

    /// Resolves when a new process has taken over.
    async fn takes_over(mut self) {
        loop {
            self.asked.recv().await;
            tracing::info!("a new process is to take over");
            match self.restart.hand_over(self.patience).await {
                Ok(pid) => {
                    tracing::info!(pid, "a new process has taken over");
                    return;
                }
                Err(error) => tracing::error!(%error, "this process goes on"),
            }
        }
    }
}

/// Waits until this process is to end. What it holds of the sockets is closed by then.
#[cfg(unix)]
async fn end_of_service(signal: Option<Signal>, successor: Option<Successor>) -> End {
    match (signal, successor) {
        (Some(signal), _) => signal.await,
        (None, None) => terminated().await,
        (None, Some(successor)) => tokio::select! {
            () = terminated() => {}
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

/// Tells those who wait for this process, once it is ready.
#[cfg(unix)]
async fn tell_ready(readiness: stellane_metrics::Readiness) {
    while !readiness.is_ready() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if let Err(error) = crate::restart::ready() {
        tracing::warn!(%error, "nobody could be told that this process is ready");
    }
}

async fn ignore_end<T>(future: impl Future<Output = T>) {
    let _ = future.await;
}

/// Resolves at `SIGTERM` or `SIGINT`.
#[cfg(unix)]
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM can't be caught; only SIGINT drains");
            ignore_end(tokio::signal::ctrl_c()).await;
        }
    }
}

/// Resolves at Ctrl-C.
#[cfg(not(unix))]
async fn terminated() {
    ignore_end(tokio::signal::ctrl_c()).await;
}
