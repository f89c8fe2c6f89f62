use std::{
    borrow::Cow,
    fmt, io,
    net::SocketAddr,
    pin::pin,
    process::{ExitCode, Termination},
    time::Duration,
};

use humantime_serde::re::humantime::format_duration;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "profiling")]
use super::builder::HeapSource;
#[cfg(unix)]
use super::signals::Ending;
use super::{
    App, Components, IntoListener, Runtime, RuntimeError,
    around::Served,
    background::Background,
    listeners::{Listeners, Redirects},
    machine, panics,
    refusal::EarlyLimit,
};
#[cfg(feature = "admin")]
use super::{admin, watch::Watch};
#[cfg(all(unix, feature = "restart"))]
use super::{
    builder::Signal,
    successor::{self, Successor},
    systemd,
};
#[cfg(feature = "tls")]
use crate::connection::TlsAcceptor;
#[cfg(all(unix, feature = "restart"))]
use crate::restart;
#[cfg(feature = "admin")]
use crate::strict_http1::{Http1Rules, StrictHttp1Layer};
#[cfg(feature = "profiling")]
use crate::{
    config::DevConfig,
    profiling::{ProfileLayer, ProfileService},
};
#[cfg(feature = "reload")]
use crate::{
    config::{ConfigErrors, ConfigWatcher, LiveTargets, Reload},
    logging::LogHandle,
};
use crate::{
    config::{ListenTls, RuntimeConfig, is_address},
    connection::{Early, ListenConfig, Listener},
    engine::{Engine, EngineKind, PerCoreEngine, SharedEngine, StopReport},
    logging,
};

/// A server that listens on its addresses; [`serve`](Self::serve) begins to answer.
#[derive(Debug)]
pub struct BoundRuntime<S> {
    runtime: Runtime<S>,
    listeners: Listeners,
    #[cfg_attr(
        not(any(feature = "admin", all(unix, feature = "restart"))),
        expect(dead_code, reason = "there is none")
    )]
    admin: Option<Listener>,
    /// Whose files are to be followed.
    #[cfg(feature = "tls")]
    acceptors: Vec<TlsAcceptor>,
    local_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunReport {
    /// The drain of the connections.
    pub drain: StopReport,
    /// The names of the [background work](super::RuntimeBuilder::background) that was cut at the deadline of the drain.
    pub background_cut: Vec<Cow<'static, str>>,
}

impl RunReport {
    /// Whether everything came to its end by itself, or was told goodbye.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.drain.aborted == 0 && self.drain.left == 0 && self.background_cut.is_empty()
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
        )?;
        match &self.background_cut[..] {
            [] => Ok(()),
            names => write!(f, "; background work cut: {}", names.join(", ")),
        }
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
    let options = options(&runtime.config);
    let mut listeners = Listener::inherited().map_err(|source| RuntimeError::Bind {
        key: "server.address",
        address: server.address.clone(),
        source,
    })?;
    #[cfg(all(unix, feature = "restart"))]
    let admin = successor::take_admin(&mut listeners);
    #[cfg(not(all(unix, feature = "restart")))]
    let admin = None;
    if !server.listen.is_empty() {
        #[cfg(feature = "tls")]
        let brought = runtime.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let brought = false;
        let doors = several(listeners, &runtime.config, brought, &options).await?;
        return bound(runtime, doors, admin).await;
    }
    #[cfg(all(unix, feature = "restart"))]
    {
        let (key, address) = ("server.address", &server.address);
        listeners = successor::where_configured(listeners, key, address, &options).await;
    }
    if listeners.is_empty() {
        listeners = listen("server.address", &server.address, &options).await?;
    }
    bound(runtime, Doors::of(listeners), admin).await
}

/// Sockets for all addresses.
#[derive(Default)]
struct Doors {
    /// They speak TLS if there is a certificate for all.
    listeners: Listeners,
    plain: Vec<Listener>,
    /// Of those with certificates of their own.
    #[cfg(feature = "tls")]
    acceptors: Vec<TlsAcceptor>,
}

impl Doors {
    fn of(listeners: impl Into<Listeners>) -> Self {
        Self {
            listeners: listeners.into(),
            ..Self::default()
        }
    }
}

/// Those that were handed over first. `brought` says whether the program brings TLS.
async fn several(
    mut handed: Vec<Listener>,
    config: &RuntimeConfig,
    #[cfg_attr(
        not(feature = "tls"),
        expect(unused_variables, reason = "there is none")
    )]
    brought: bool,
    options: &ListenConfig,
) -> Result<Doors, RuntimeError> {
    let mut doors = Doors::default();
    for one in &config.server.listen {
        let mut found = Vec::new();
        for listener in std::mem::take(&mut handed) {
            match listener.is_at(&one.address).await {
                true => found.push(listener),
                false => handed.push(listener),
            }
        }
        if found.is_empty() {
            found = listen("server.listen", &one.address, options).await?;
        }
        match one.tls {
            ListenTls::Off => doors.plain.append(&mut found),
            ListenTls::Redirect => doors.listeners.redirects.push(Redirects {
                sockets: found,
                port: Some(one.redirect_port).filter(|port| *port != 0),
            }),
            ListenTls::Auto | ListenTls::On => {
                #[cfg(feature = "tls")]
                if one.has_own_tls() {
                    let tls = super::tls::own(config, brought, one)?;
                    found = found.into_iter().map(|one| one.tls(&tls)).collect();
                    doors.acceptors.push(tls);
                }
                doors.listeners.sockets.append(&mut found);
            }
        }
    }
    #[cfg(all(unix, feature = "restart"))]
    if restart::is_successor() {
        // What the process before this one had, and the configuration no longer names.
        handed.clear();
    }
    doors.listeners.sockets.append(&mut handed);
    Ok(doors)
}

/// On listeners that somebody brought.
pub(super) async fn bind_on<S>(
    runtime: Runtime<S>,
    listener: impl IntoListener,
) -> Result<BoundRuntime<S>, RuntimeError> {
    let options = options(&runtime.config);
    let listeners = listener.into_listeners(&options).await?;
    if listeners.sockets.is_empty() && listeners.sources.is_empty() {
        return Err(RuntimeError::Bind {
            key: "listener",
            address: "[]".to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, "there is none"),
        });
    }
    bound(runtime, Doors::of(listeners), None).await
}

fn options(config: &RuntimeConfig) -> ListenConfig {
    let mut options = config.connection.listen.clone();
    if config.engine.kind == EngineKind::PerCore && options.sockets == 1 {
        // Each core accepts what the system deals it.
        options.sockets = config.engine.threads();
    }
    options
}

async fn bound<S>(
    runtime: Runtime<S>,
    doors: Doors,
    mut admin: Option<Listener>,
) -> Result<BoundRuntime<S>, RuntimeError> {
    let server = &runtime.config.server;
    let (mut listeners, mut plain) = (doors.listeners, doors.plain);
    #[cfg(feature = "tls")]
    let mut acceptors = doors.acceptors;
    #[cfg(feature = "tls")]
    let tls = super::tls::of_all(&runtime)?;
    #[cfg(feature = "tls")]
    acceptors.extend(tls.clone());
    #[cfg(feature = "tls")]
    if let Some(tls) = &tls {
        let with_tls = |listener: Listener| match listener.acceptor() {
            None => listener.tls(tls),
            Some(_) => listener,
        };
        listeners.sockets = listeners.sockets.into_iter().map(with_tls).collect();
    }
    #[cfg(feature = "tls")]
    let speaks_tls = |listener: &Listener| listener.acceptor().is_some();
    #[cfg(not(feature = "tls"))]
    let speaks_tls = |_: &Listener| false;
    #[cfg(feature = "tls")]
    let of_all = tls.is_some();
    #[cfg(not(feature = "tls"))]
    let of_all = false;
    let has_tls = listeners.sockets.iter().any(speaks_tls);
    let in_vain = server.listen.iter().find_map(|one| match one.tls {
        ListenTls::On if !of_all && !one.has_own_tls() => Some("`tls = \"on\"`"),
        ListenTls::Redirect if !has_tls => Some("`tls = \"redirect\"`"),
        _ => None,
    });
    if let Some(what) = in_vain {
        return Err(RuntimeError::Component {
            name: "server.listen",
            source: format!(
                "there is no certificate for {what}: expected `connection.tls.certificate` and `key`"
            )
            .into(),
        });
    }
    listeners.sockets.append(&mut plain);
    let one = ListenConfig {
        sockets: 1,
        ..options(&runtime.config)
    };
    let (address, or_another) = match cfg!(feature = "admin") {
        true => server.admin(),
        false => ("", false),
    };
    admin = match (address, admin) {
        ("", _) => None,
        (_, None) => listen_for_admin(address, or_another, &one).await?.pop(),
        // What the process before this one had instead of the default does as well for this one.
        #[cfg(all(unix, feature = "restart"))]
        (_, Some(admin))
            if or_another && admin.local_addr().is_some_and(|at| at.ip().is_loopback()) =>
        {
            Some(admin)
        }
        #[cfg(all(unix, feature = "restart"))]
        (_, Some(admin)) => {
            let key = "server.admin_address";
            let admin = successor::where_configured(vec![admin], key, address, &one);
            admin.await.pop()
        }
        #[cfg(not(all(unix, feature = "restart")))]
        (_, admin) => admin,
    };
    // A Unix socket has none.
    let local_addr = listeners
        .listening()
        .find_map(Listener::local_addr)
        .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
    let admin_addr = admin.as_ref().and_then(Listener::local_addr);
    if server.admin_tls && admin.is_some() {
        #[cfg(feature = "tls")]
        let with_tls = {
            let for_admin = super::tls::of_admin(&runtime)?;
            acceptors.extend(for_admin.clone());
            for_admin.and_then(|tls| Some(admin.take()?.tls(&tls)))
        };
        #[cfg(not(feature = "tls"))]
        let with_tls = None;
        admin = Some(with_tls.ok_or_else(|| RuntimeError::Component {
            name: "server.admin_tls",
            source: "there is no certificate: expected `connection.tls`".into(),
        })?);
    }
    Ok(BoundRuntime {
        runtime,
        listeners,
        admin,
        #[cfg(feature = "tls")]
        acceptors,
        local_addr,
        admin_addr,
    })
}

/// If nobody chose the address, who finds it in use, by a Prometheus or another service, gets another port.
async fn listen_for_admin(
    address: &str,
    or_another: bool,
    options: &ListenConfig,
) -> Result<Vec<Listener>, RuntimeError> {
    const KEY: &str = "server.admin_address";
    match listen(KEY, address, options).await {
        Err(RuntimeError::Bind { source, .. })
            if or_another && source.kind() == io::ErrorKind::AddrInUse => {}
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
async fn follow(watcher: Option<ConfigWatcher>, components: Components, log: Option<LogHandle>) {
    let Some(watcher) = watcher else {
        // Nothing to follow: SIGHUP keeps its usual meaning.
        #[cfg(all(unix, feature = "restart"))]
        systemd::nothing_to_reload(&components.readiness).await;
        return;
    };
    if let Err(error) = components.export_reloads(&watcher) {
        tracing::warn!(%error, "reloads are not counted in the metrics");
    }
    let targets = LiveTargets {
        log,
        connections: Some(components.connections),
        #[cfg(feature = "workers")]
        workers: Some(components.workers),
        pools: Some(components.pools),
        limit: Some(components.limit),
        #[cfg(feature = "tuner")]
        tuner: Some(components.tuner),
    };
    let outcome = move |outcome: &Result<Reload, ConfigErrors>| match outcome {
        Ok(reload) => {
            targets.apply(reload);
            tracing::info!("{reload}");
        }
        Err(errors) => {
            for problem in errors.problems() {
                tracing::warn!("the old configuration stays: {problem}");
            }
        }
    };
    #[cfg(all(unix, feature = "restart"))]
    let asked = {
        let readiness = components.readiness;
        move |asked| systemd::reloading(asked, &readiness)
    };
    #[cfg(not(all(unix, feature = "restart")))]
    let asked = |_| {};
    watcher.run_and_tell(outcome, asked).await;
}

pub(super) async fn listen(
    key: &'static str,
    address: &str,
    options: &ListenConfig,
) -> Result<Vec<Listener>, RuntimeError> {
    if !is_address(address) {
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
        self.listeners.sockets.push(listener.into());
    }

    /// The address of the service, with the port that the system chose if it was 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// All addresses of the service that are of TCP.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        let listening = self.listeners.listening();
        let mut addresses: Vec<_> = listening.filter_map(Listener::local_addr).collect();
        // Several sockets may listen on the same.
        addresses.dedup();
        addresses
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
        match self.runtime.bypass.clone() {
            Some(plain) => self.serve_watched(plain, Vec::new()).await,
            None => self.serve_watched(engine, Vec::new()).await,
        }
    }
}

impl<S: Served> BoundRuntime<S> {
    /// On the configured engine.
    pub(super) async fn serve_configured(self) -> Result<RunReport, RuntimeError> {
        if let Some(plain) = self.runtime.bypass.clone() {
            return self.serve_watched(plain, Vec::new()).await;
        }
        let connections = &self.components().connections;
        match self.runtime.config.engine.kind {
            EngineKind::Shared => {
                let engine = SharedEngine::new(connections);
                self.serve_watched(engine, Vec::new()).await
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
                let runtimes = engine.runtimes();
                for runtime in &runtimes {
                    runtime_metrics.add_tokio(runtime);
                    // It ends with the runtime.
                    runtime.spawn(local_signal.watch_tokio());
                }
                self.serve_watched(engine, runtimes).await
            }
        }
    }

    /// `runtimes` are those of the engine, to be watched.
    async fn serve_watched<E: Engine>(
        self,
        engine: E,
        runtimes: Vec<tokio::runtime::Handle>,
    ) -> Result<RunReport, RuntimeError> {
        panics::never_wait();
        let around = self.runtime.around();
        let Runtime {
            config,
            components,
            service,
            signal,
            duties,
            #[cfg(all(unix, feature = "restart"))]
            restart,
            #[cfg(unix)]
                ending: watched,
            #[cfg(any(feature = "admin", feature = "reload"))]
            log,
            #[cfg(feature = "profiling")]
            heap,
            ..
        } = self.runtime;
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
            runtimes.push(tokio::runtime::Handle::current());
            Watch::start(&components, &config.server, admin, runtimes)
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
        let serving = service.start(&engine, &components.connections, listeners, around);
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
            let (open, most) = (
                components.connections.stats().open,
                config.server.drain_timeout,
            );
            let most = format_duration(most);
            match delay.is_zero() {
                true => tracing::info!("draining: {open} connections, at most {most}"),
                false => tracing::info!(
                    "draining: {open} connections, at most {most}, after {} in which new ones are taken",
                    format_duration(delay)
                ),
            }
            components.readiness.set_ready(false);
            // What is left of the work needs few.
            #[cfg(feature = "workers")]
            components.workers.set_min_workers(1);
            tokio::time::sleep(delay).await;
            let deadline = config.server.drain_timeout;
            let (drain, background_cut) = tokio::join!(engine.stop(deadline), duties.end(deadline));
            RunReport {
                drain,
                background_cut,
            }
        };
        components.readiness.set_ready(true);
        machine::say(&components.connections);
        tracing::info!(
            "serving {places} (engine {}); whoever stops this process has to give it {} before killing it",
            engine.name(),
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

/// Where the service and its admin service are, as one would write it.
fn places<'a>(
    sockets: impl Iterator<Item = &'a Listener>,
    admin: Option<SocketAddr>,
    admin_tls: bool,
) -> String {
    let scheme = |tls| if tls { "https" } else { "http" };
    let of_socket = |listener: &Listener| {
        #[cfg(feature = "tls")]
        let tls = listener.acceptor().is_some();
        #[cfg(not(feature = "tls"))]
        let tls = false;
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
