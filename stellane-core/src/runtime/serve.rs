use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use humantime_serde::re::humantime::format_duration;
use stellane_metrics::ExecutorStats;
use tokio::{runtime::Handle, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "reload")]
use super::follow::follow;
#[cfg(all(feature = "admin", feature = "profiling"))]
use super::runtime::HeapSource;
#[cfg(unix)]
use super::signals::Ending;
use super::{
    App, BoundRuntime, Components, IntoListener, RunReport, Runtime, RuntimeError, around::Served,
    background::Background, bind::Bound, error::BoxResult, held::HeldObserver, machine,
    on_engine::OnEngine, panics, refusal::EarlyLimit, runtime::RuntimeParts,
};
#[cfg(feature = "admin")]
use super::{admin, watch::Watch};
#[cfg(all(unix, feature = "restart"))]
use super::{
    runtime::Signal,
    successor::{self, Successor},
    systemd,
};
#[cfg(feature = "reload")]
use crate::config::ConfigWatcher;
#[cfg(feature = "profiling")]
use crate::profiling::HeldStacks;
#[cfg(feature = "admin")]
use crate::strict_http1::{Http1Rules, StrictHttp1Layer};
#[cfg(all(feature = "admin", feature = "profiling"))]
use crate::{
    config::DevConfig,
    profiling::{ProfileLayer, ProfileService},
};
use crate::{
    connection::{ConnectionStats, Early, Listener},
    engine::{Engine, EngineKind, HandoffEngine, PerCoreEngine, SharedEngine},
    logging,
};

impl<S: App> Runtime<S> {
    /// Serves on `address` until a signal, then drains.
    ///
    /// # Errors
    /// An address that can't be listened on, or a listener that fails for good.
    pub async fn serve(self, address: &str) -> Result<RunReport, RuntimeError> {
        self.bind(address).await?.serve().await
    }

    /// Serves on listeners that one has, each with its own TLS, and on nothing beside them: see
    /// [`listen_on`](Self::listen_on).
    ///
    /// ```no_run
    /// use stellane_core::{Runtime, connection::{Listener, TlsAcceptor}};
    /// use tokio::net::{TcpListener, UnixListener};
    ///
    /// # async fn example(app: axum::Router, tls: TlsAcceptor) -> Result<(), Box<dyn std::error::Error>> {
    /// let plain = Listener::from(UnixListener::bind("/run/app.sock")?);
    /// let secret = Listener::from(TcpListener::bind("0.0.0.0:443").await?).tls(&tls);
    /// let runtime = Runtime::builder().service(app).build()?;
    /// runtime.serve_listeners([plain, secret]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub async fn serve_listeners(
        self,
        listeners: impl IntoListener,
    ) -> Result<RunReport, RuntimeError> {
        self.listen_on(listeners).await?.serve().await
    }

    /// Serves on the configured `server.address`.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub async fn run(self) -> Result<RunReport, RuntimeError> {
        self.bind_configured().await?.serve().await
    }
}

impl<S: App> BoundRuntime<S> {
    /// Answers until the signal, then drains. Everything that runs in the background ends with it.
    ///
    /// # Errors
    /// A listener that fails for good.
    pub async fn serve(self) -> Result<RunReport, RuntimeError> {
        self.serve_configured().await
    }

    /// As [`serve`](Self::serve), on an engine of your own. Connections are limited, tuned and shown on the
    /// admin address if it serves through the [`ConnectionManager`](crate::connection::ConnectionManager) of the
    /// [`components`](Self::components).
    ///
    /// # Errors
    /// A listener that fails for good, or an engine that can't start.
    pub async fn serve_on<E: Engine>(self, engine: E) -> Result<RunReport, RuntimeError> {
        let Self { service, bound } = self;
        let engine = match &bound.parts.bypass {
            Some(plain) => OnEngine::bypass(plain, service),
            None => OnEngine::new(engine, service),
        };
        bound.serve(engine).await
    }
}

impl<S: Served> BoundRuntime<S> {
    /// On the configured engine.
    pub(super) fn serve_configured(self) -> BoxResult<RunReport> {
        let Self { service, bound } = self;
        let engine = match (&bound.parts.bypass, bound.parts.config.engine.kind) {
            (Some(plain), _) => OnEngine::bypass(plain, service),
            (None, EngineKind::Shared) => OnEngine::new(bound.shared(), service),
            (None, EngineKind::PerCore) => match bound.per_core() {
                Ok((engine, runtimes)) => OnEngine::new(engine, service).with_runtimes(runtimes),
                Err(error) => return Box::pin(std::future::ready(Err(error))),
            },
            (None, EngineKind::Handoff) => match bound.handoff() {
                Ok((engine, runtimes)) => OnEngine::new(engine, service)
                    .with_runtimes(runtimes)
                    .that_tells_held(),
                Err(error) => return Box::pin(std::future::ready(Err(error))),
            },
        };
        bound.serve(engine)
    }
}

impl Bound {
    fn shared(&self) -> SharedEngine {
        SharedEngine::new(&self.parts.components.connections)
    }

    /// Started, with the runtimes of its cores.
    fn handoff(&self) -> Result<(HandoffEngine, Vec<Handle>), RuntimeError> {
        let Components {
            connections,
            runtime_metrics,
            local_signal,
            held,
            metrics,
            limit,
            ..
        } = &self.parts.components;
        held.learned()
            .set_most(self.parts.config.engine.max_blocked);
        let observer = HeldObserver {
            held: held.clone(),
            metrics: metrics.clone(),
            limit: limit.clone(),
            signal: local_signal.clone(),
            #[cfg(feature = "profiling")]
            stacks: self.stacks(),
        };
        let engine = HandoffEngine::builder()
            .connections(connections)
            .observer(Arc::new(observer))
            .config(self.parts.config.engine.clone())
            .build();
        engine
            .start()
            .map_err(|error| RuntimeError::Serve(Box::new(error)))?;
        let mut runtimes = Vec::new();
        for core in engine.cores() {
            let runtime = core.runtime().clone();
            let counts = core.clone();
            // Tokio's own do not see connections there.
            runtime_metrics.add_executor(move || {
                let mut stats = ExecutorStats::default();
                stats.workers = 1;
                stats.tasks = counts.tasks() as u64;
                stats.queued = counts.queued() as u64;
                stats.busy = counts.worked();
                stats
            });
            // It ends with the runtime.
            runtime.spawn(local_signal.watch_executor(move || core.worked()));
            runtimes.push(runtime);
        }
        Ok((engine, runtimes))
    }

    /// Of handlers that hold a thread, if the block profile is asked for.
    #[cfg(feature = "profiling")]
    fn stacks(&self) -> Option<HeldStacks> {
        if !self.parts.config.dev.profile_block {
            return None;
        }
        let stacks = HeldStacks::start(&self.parts.components.slow_polls);
        stacks
            .inspect_err(|error| tracing::warn!("the block profile has no stacks: {error}"))
            .ok()
    }

    /// Started, with the runtimes of its threads.
    fn per_core(&self) -> Result<(PerCoreEngine, Vec<Handle>), RuntimeError> {
        let Components {
            connections,
            runtime_metrics,
            local_signal,
            ..
        } = &self.parts.components;
        let engine = PerCoreEngine::builder()
            .connections(connections)
            .config(self.parts.config.engine.clone())
            .build();
        engine
            .start()
            .map_err(|error| RuntimeError::Serve(Box::new(error)))?;
        let runtimes = engine.runtimes();
        for runtime in &runtimes {
            runtime_metrics.add_tokio(runtime);
            // It ends with the runtime.
            runtime.spawn(local_signal.watch_tokio());
        }
        Ok((engine, runtimes))
    }

    fn serve(self, engine: OnEngine) -> BoxResult<RunReport> {
        Box::pin(self.serve_watched(engine))
    }

    async fn serve_watched(self, engine: OnEngine) -> Result<RunReport, RuntimeError> {
        panics::never_wait();
        let around = self.parts.around();
        let RuntimeParts {
            config,
            components,
            signal,
            duties,
            #[cfg(feature = "fleet")]
            fleet,
            #[cfg(feature = "otlp")]
            otlp,
            #[cfg(all(unix, feature = "restart"))]
            restart,
            #[cfg(unix)]
                ending: watched,
            #[cfg(any(feature = "admin", feature = "reload"))]
            log,
            #[cfg(all(feature = "admin", feature = "profiling"))]
            heap,
            ..
        } = self.parts;
        let OnEngine {
            name,
            runtimes,
            #[cfg(feature = "admin")]
            tells_held,
            start,
            stop,
        } = engine;
        let mut background = JoinSet::new();
        if around.bypass.is_some() {
            tracing::warn!(
                "bypass: served by plain hyper-util, without limits, timeouts, checks and counts of requests (`STELLANE_BYPASS`)"
            );
        } else {
            components.spawn_background(&mut background);
        }
        for check in duties.checks {
            background.spawn(check.run(&components.readiness));
        }
        let duties = Background::start(duties.background, &components.restarts);
        if !components.local_signal.is_watched() {
            background.spawn(components.local_signal.watch_tokio());
        }
        #[cfg(feature = "tls")]
        for tls in self.acceptors {
            let interval = config.connection.tls.reload_interval;
            background.spawn(async move { tls.follow_files(interval).await });
        }
        #[cfg(feature = "reload")]
        let watcher = ConfigWatcher::of(&config);
        #[cfg(feature = "reload")]
        background.spawn(follow(watcher.clone(), components.clone(), log.clone()));
        // One of the two is there.
        #[cfg(unix)]
        let signal = {
            let signalled = watched.as_ref().map(Ending::serve);
            signal.or_else(|| Some(Box::pin(signalled?)))
        };
        let asked = signal.unwrap_or_else(|| Box::pin(terminated()));
        #[cfg(all(unix, feature = "restart"))]
        let end = {
            let (listeners, admin) = (&self.listeners, self.admin.as_ref());
            let successor =
                restart.and_then(|asked| Successor::new(asked, &config.server, listeners, admin));
            end_of_service(asked, successor)
        };
        #[cfg(not(all(unix, feature = "restart")))]
        let end = async {
            asked.await;
            End::Asked
        };
        #[cfg(feature = "admin")]
        let failed = |error: crate::BoxError| RuntimeError::Component {
            name: "admin",
            source: error,
        };
        #[cfg(feature = "admin")]
        let admin = match (self.admin, self.admin_addr) {
            (Some(listener), Some(address)) => {
                use tower_layer::Layer;
                admin::warn_of_strangers(address, &config);
                #[cfg(feature = "reload")]
                let running = admin::Running::new(&config, watcher);
                #[cfg(not(feature = "reload"))]
                let running = admin::Running::new(&config);
                let admin = admin::service(&components, running, log.clone(), address)
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
        #[cfg(feature = "admin")]
        let watch = {
            let mut runtimes = runtimes.clone();
            runtimes.push(Handle::current());
            Watch::start(&components, &config.server, admin, runtimes, tells_held)
                .map_err(|error| failed(error.into()))?
        };
        #[cfg(not(feature = "admin"))]
        background.spawn(components.runtime_metrics.clone().run());

        #[cfg(all(unix, feature = "restart"))]
        background.spawn(systemd::watchdog(runtimes));
        #[cfg(not(all(unix, feature = "restart")))]
        drop(runtimes);
        #[cfg(all(unix, feature = "restart"))]
        background.spawn(successor::tell_ready(components.readiness.clone()));
        // What stands outside of all has to see each request.
        let early = match around.sees_all() {
            true => Early::default(),
            false => Early::new(EarlyLimit {
                limit: around.preset.limit().clone(),
                metrics: components.metrics.clone(),
                ledgers: components.ledgers.clone(),
            }),
        };
        let refuse_early = |listener: Listener| listener.refuse_early(&early);
        let places = places(
            self.listeners.listening(),
            self.admin_addr,
            config.server.admin_tls,
        );
        let mut listeners = self.listeners;
        let sockets = listeners.sockets.into_iter();
        listeners.sockets = sockets.map(refuse_early).collect();
        let serving = start(&components.connections, listeners, around);
        #[cfg(all(unix, feature = "admin", feature = "restart"))]
        let close_admin = watch.close_admin(Duration::from_secs(1));
        // Nobody listens, and those that gave connections have ended.
        let over = CancellationToken::new();
        let ending = async {
            let end = tokio::select! {
                end = end => end,
                () = over.cancelled() => End::Over,
            };
            let delay = match end {
                End::Over => Duration::ZERO,
                End::Asked => {
                    #[cfg(all(unix, feature = "restart"))]
                    systemd::stopping(config.server.grace_period());
                    config.server.drain_delay
                }
                // The new process answers on both addresses: nobody has to notice anything, systemd neither.
                #[cfg(all(unix, feature = "restart"))]
                End::HandedOver => {
                    if let Some(ending) = &watched {
                        ending.watch();
                    }
                    #[cfg(feature = "admin")]
                    close_admin.await;
                    Duration::ZERO
                }
            };
            let open = at_work(&components.connections.stats());
            let most = format_duration(config.server.drain_timeout);
            components
                .runtime_metrics
                .tell(&format!("draining: {open}, at most {most}"));
            match delay.is_zero() {
                true => tracing::info!("draining: {open}, at most {most}"),
                false => tracing::info!(
                    "draining: {open}, at most {most}, after {} in which new ones are taken",
                    format_duration(delay)
                ),
            }
            components.readiness.set_ready(false);
            // What is left of the work needs few.
            #[cfg(feature = "workers")]
            components.workers.set_min_workers(1);
            tokio::time::sleep(delay).await;
            #[cfg(feature = "fleet")]
            fleet.end();
            let deadline = config.server.drain_timeout;
            let (drain, background_cut) = tokio::join!(stop(deadline), duties.end(deadline));
            RunReport {
                drain,
                background_cut,
            }
        };
        components.readiness.set_ready(true);
        components
            .runtime_metrics
            .tell(&format!("serving {places}"));
        machine::say(&components.connections);
        tracing::info!(
            "serving {places} (engine {name}); whoever stops this process has to give it {} before killing it",
            format_duration(config.server.grace_period())
        );
        let begun = Instant::now();

        let (mut serving, mut ending) = (serving, pin!(ending));
        let failed = |error| RuntimeError::Serve(Box::new(error));
        let report = tokio::select! {
            // A listener that fails ends the run now, not at the next signal.
            served = &mut serving => {
                served.map_err(failed)?;
                over.cancel();
                ending.await
            }
            report = &mut ending => {
                serving.await.map_err(failed)?;
                report
            }
        };
        #[cfg(feature = "workers")]
        components.workers.shutdown();
        #[cfg(feature = "admin")]
        watch.end(Duration::from_millis(100)).await;
        #[cfg(unix)]
        if let Some(ending) = &watched {
            ending.has_ended(!report.is_clean()).await;
        }
        #[cfg(feature = "otlp")]
        if let Some(otlp) = &otlp {
            super::otlp::end(otlp).await;
        }
        panics::flush();
        let lasted = Duration::from_secs(begun.elapsed().as_secs());
        tracing::info!(
            "stopped after {}: {} requests, {report}",
            format_duration(lasted),
            components.connections.stats().requests_total
        );
        logging::flush();
        Ok(report)
    }
}

/// What a drain is to wait for.
fn at_work(stats: &ConnectionStats) -> String {
    match stats.abandoned.running {
        0 => format!("{} connections", stats.open),
        running => format!(
            "{} connections and {running} requests without their clients",
            stats.open
        ),
    }
}

/// Where the service and its admin service are, as one would write it.
fn places<'a>(
    sockets: impl Iterator<Item = &'a Listener>,
    admin: Option<SocketAddr>,
    admin_tls: bool,
) -> String {
    let scheme = |tls| if tls { "https" } else { "http" };
    let of_socket = |listener: &Listener| {
        let tls = listener.speaks_tls();
        match (listener.local_addr(), listener.path()) {
            (Some(address), _) => format!("{}://{address}", scheme(tls)),
            (None, Some(path)) => format!("unix:{}", path.display()),
            (None, None) => "a Unix socket".to_owned(),
        }
    };
    let mut places: Vec<_> = sockets.map(of_socket).collect();
    places.dedup();
    if places.is_empty() {
        places.push("connections".to_owned());
    }
    if let Some(admin) = admin {
        places.push(format!("admin {}://{admin}", scheme(admin_tls)));
    }
    places.join(", ")
}

/// The kinds of profile that the configuration asks for.
#[cfg(all(feature = "admin", feature = "profiling"))]
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
    Over,
    #[cfg(all(unix, feature = "restart"))]
    HandedOver,
}

/// Waits until this process is to end. What it holds of the sockets is closed by then.
#[cfg(all(unix, feature = "restart"))]
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

/// There is a signal for that.
#[cfg(unix)]
fn terminated() -> std::future::Pending<()> {
    std::future::pending()
}

/// Resolves at Ctrl-C.
#[cfg(not(unix))]
async fn terminated() {
    // Without a handler for it there is nothing to wait for.
    let _ = tokio::signal::ctrl_c().await;
}
