use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    CoreMetrics, Engine, EngineConfig, EngineError, EngineMetrics, LocalHttpService, StopReport,
    cloner,
    local::OnCore,
    thread::{self, Core, JOIN, Job},
};
use crate::connection::{
    ConnectInfo, ConnectionManager, DetachedListener, HttpService, Listener, ServeError,
};

/// A thread with a runtime of its own for each core. See the [module docs](super).
///
/// Threads that serve end with [`stop`](Engine::stop), or when the engine is dropped.
///
/// ```
/// use stellane_core::{connection::ConnectionManager, engine::PerCoreEngine};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let connections = ConnectionManager::builder().build()?;
/// let engine = PerCoreEngine::builder().connections(&connections).build();
/// # drop(engine);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PerCoreEngine {
    connections: ConnectionManager,
    config: EngineConfig,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    New,
    Running(Vec<Core>),
    Stopped,
}

/// Builds a [`PerCoreEngine`].
#[derive(Debug)]
#[must_use]
pub struct PerCoreEngineBuilder<C> {
    connections: C,
    config: EngineConfig,
}

impl PerCoreEngine {
    /// A builder with the default settings.
    pub fn builder() -> PerCoreEngineBuilder<()> {
        PerCoreEngineBuilder {
            connections: (),
            config: EngineConfig::default(),
        }
    }
}

impl<C> PerCoreEngineBuilder<C> {
    /// What owns the connections of all cores.
    pub fn connections(
        self,
        connections: &ConnectionManager,
    ) -> PerCoreEngineBuilder<ConnectionManager> {
        PerCoreEngineBuilder {
            connections: connections.clone(),
            config: self.config,
        }
    }

    /// The settings; [`EngineConfig::kind`] has no meaning here. Default: [`EngineConfig::default`].
    pub fn config(mut self, config: EngineConfig) -> Self {
        self.config = config;
        self
    }

    /// [`EngineConfig::cores`].
    pub fn cores(mut self, cores: usize) -> Self {
        self.config.cores = cores;
        self
    }

    /// [`EngineConfig::pin`].
    pub fn pin(mut self, pin: bool) -> Self {
        self.config.pin = pin;
        self
    }
}

impl PerCoreEngineBuilder<ConnectionManager> {
    /// The engine; no thread is made before it starts.
    #[must_use]
    pub fn build(self) -> PerCoreEngine {
        PerCoreEngine {
            connections: self.connections,
            config: self.config,
            state: Mutex::new(State::New),
        }
    }
}

impl EngineConfig {
    /// How many cores an engine has that is not `shared`.
    #[must_use]
    pub fn threads(&self) -> usize {
        match self.cores {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => n,
        }
    }
}

impl PerCoreEngine {
    /// The tokio runtimes of the cores, once they have started: for what reads runtimes, such as
    /// `RuntimeMetrics::add_tokio`.
    #[must_use]
    pub fn runtimes(&self) -> Vec<tokio::runtime::Handle> {
        match &*self.lock() {
            State::Running(cores) => cores.iter().map(Core::runtime).collect(),
            State::New | State::Stopped => Vec::new(),
        }
    }

    /// As [`serve`](Engine::serve), for services that are not `Send`: `make` is called once on each core, and what
    /// it makes never leaves that core. Its responses, futures and bodies need not be `Send` either, and handlers
    /// may use `tokio::task::spawn_local`.
    ///
    /// ```
    /// use std::{cell::Cell, convert::Infallible, rc::Rc};
    ///
    /// use http::{Request, Response};
    /// use stellane_core::connection::Incoming;
    /// # use stellane_core::{connection::{ConnectionManager, Listener}, engine::{Engine, PerCoreEngine}};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let connections = ConnectionManager::builder().build()?;
    /// # let engine = PerCoreEngine::builder().connections(&connections).cores(1).build();
    /// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let serving = engine.serve_local(vec![listener.into()], || {
    ///     let count = Rc::new(Cell::new(0)); // of this core: no atomic, no lock
    ///     tower::service_fn(move |_: Request<Incoming>| {
    ///         count.set(count.get() + 1);
    ///         let count = Rc::clone(&count);
    ///         async move { Ok::<_, Infallible>(Response::new(count.get().to_string())) }
    ///     })
    /// });
    /// # let (served, _) = tokio::join!(serving, engine.stop(std::time::Duration::from_secs(1)));
    /// # served?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`serve`](Engine::serve).
    pub fn serve_local<S: LocalHttpService>(
        &self,
        listeners: Vec<Listener>,
        make: impl Fn() -> S + Clone + Send + 'static,
    ) -> impl Future<Output = Result<(), EngineError>> + Send + 'static {
        self.on_each_core(listeners, move |connections, listeners| async move {
            let service = OnCore::new(make());
            connections.serve_all(listeners, service).await
        })
    }

    fn on_each_core<C, F>(
        &self,
        listeners: Vec<Listener>,
        serve: C,
    ) -> impl Future<Output = Result<(), EngineError>> + Send + 'static + use<C, F>
    where
        C: FnOnce(ConnectionManager, Vec<Listener>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<(), ServeError>> + 'static,
    {
        let serving = self.begin(listeners, serve);
        async move {
            for done in serving? {
                match done.await {
                    Ok(served) => served.map_err(|error| EngineError::Serve(error.into()))?,
                    // The core ended it: the engine was dropped, or the service's maker panicked.
                    Err(_) => return Err(EngineError::Stopped),
                }
            }
            Ok(())
        }
    }

    /// Gives each core its listeners. What it answers with is dropped to end what it does.
    fn begin<F>(
        &self,
        listeners: Vec<Listener>,
        serve: impl FnOnce(ConnectionManager, Vec<Listener>) -> F + Clone + Send + 'static,
    ) -> Result<Vec<oneshot::Receiver<Result<(), ServeError>>>, EngineError>
    where
        F: Future<Output = Result<(), ServeError>> + 'static,
    {
        let mut state = self.lock();
        let cores = self.started(&mut state)?;
        let shares = share(listeners, cores.len()).map_err(EngineError::Start)?;
        let mut serving = Vec::with_capacity(cores.len());
        for (core, listeners) in cores.iter().zip(shares) {
            let (mut done, receiver) = oneshot::channel();
            let (connections, serve) = (self.connections.clone(), serve.clone());
            let job: Job = Box::new(move || {
                Box::pin(async move {
                    tokio::select! {
                        served = serve_share(connections, listeners, serve) => drop(done.send(served)),
                        () = done.closed() => {}
                    }
                })
            });
            core.run(job)?;
            serving.push(receiver);
        }
        Ok(serving)
    }

    fn started<'a>(&self, state: &'a mut State) -> Result<&'a mut Vec<Core>, EngineError> {
        if matches!(state, State::New) {
            let cpus = if self.config.pin {
                thread::cpus()
            } else {
                Vec::new()
            };
            let cores = (0..self.config.threads())
                .map(|i| {
                    let cpu = (!cpus.is_empty()).then(|| cpus[i % cpus.len()]);
                    Core::start(format!("stellane-core-{i}"), cpu)
                })
                .collect::<Result<_, _>>()
                .map_err(EngineError::Start)?;
            *state = State::Running(cores);
        }
        match state {
            State::Running(cores) => Ok(cores),
            State::New | State::Stopped => Err(EngineError::Stopped),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deals the listeners out. When there are fewer than cores, some are shared: whichever core is free accepts, and
/// gives what it has too many of to the core that has the fewest.
pub(super) fn share(
    listeners: Vec<Listener>,
    cores: usize,
) -> std::io::Result<Vec<Vec<DetachedListener>>> {
    let listeners = listeners
        .into_iter()
        .map(Listener::detach)
        .collect::<Result<Vec<_>, _>>()?;
    let mut shares: Vec<_> = (0..cores).map(|_| Vec::new()).collect();
    if listeners.is_empty() {
        return Ok(shares);
    }
    for i in listeners.len()..cores {
        shares[i].push(listeners[i % listeners.len()].try_clone()?);
    }
    for (i, listener) in listeners.into_iter().enumerate() {
        shares[i % cores].push(listener);
    }
    Ok(shares)
}

/// Serves its share of the listeners on the runtime that this is polled on.
pub(super) async fn serve_share<F>(
    connections: ConnectionManager,
    share: Vec<DetachedListener>,
    serve: impl FnOnce(ConnectionManager, Vec<Listener>) -> F,
) -> Result<(), ServeError>
where
    F: Future<Output = Result<(), ServeError>>,
{
    let attached = share.into_iter().map(DetachedListener::attach);
    let listeners = attached.collect::<Result<_, _>>()?;
    serve(connections, listeners).await
}

impl Engine for PerCoreEngine {
    fn name(&self) -> &'static str {
        "per_core"
    }

    fn start(&self) -> Result<(), EngineError> {
        self.started(&mut self.lock()).map(drop)
    }

    fn serve<S: HttpService>(
        &self,
        listeners: Vec<Listener>,
        service: S,
    ) -> impl Future<Output = Result<(), EngineError>> + Send + 'static {
        let clone = cloner(service);
        self.on_each_core(listeners, move |connections, listeners| async move {
            connections.serve_all(listeners, clone()).await
        })
    }

    fn serve_make<S: HttpService>(
        &self,
        listeners: Vec<Listener>,
        make: impl Fn(&ConnectInfo) -> S + Clone + Send + Sync + 'static,
    ) -> impl Future<Output = Result<(), EngineError>> + Send + 'static {
        self.on_each_core(listeners, move |connections, listeners| async move {
            connections.serve_all_with(listeners, make).await
        })
    }

    async fn stop(&self, deadline: Duration) -> StopReport {
        let report = self.connections.drain(deadline).await;
        let state = std::mem::replace(&mut *self.lock(), State::Stopped);
        if let State::Running(cores) = state {
            let ended: Vec<_> = cores.into_iter().map(Core::end).collect();
            let all = async {
                for core in ended {
                    let _ = core.await;
                }
            };
            // A handler that blocks its thread is not waited for.
            let _ = tokio::time::timeout(JOIN, all).await;
        }
        report.into()
    }

    fn metrics(&self) -> EngineMetrics {
        let cores: Vec<CoreMetrics> = match &*self.lock() {
            State::Running(cores) => cores.iter().map(Core::metrics).collect(),
            State::New | State::Stopped => Vec::new(),
        };
        EngineMetrics::of(&self.connections.stats(), cores)
    }
}
