//! [`HandoffEngine`]: a handler may block its thread, and the others of its core go on.

#[cfg_attr(
    not(feature = "preset"),
    expect(dead_code, reason = "it is the preset that knows routes")
)]
mod apart;
mod core;
mod marks;
mod observe;
mod supervisor;
mod sync;
mod threads;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinSet};

#[cfg(not(feature = "preset"))]
use self::observe::Observe;
use self::threads::{Loop, Shared};
#[cfg(feature = "preset")]
pub(crate) use self::{
    apart::{Place, here, leave},
    observe::{Observe, ObserveThread},
};
use super::{
    Engine, EngineConfig, EngineError, EngineMetrics, StopReport, cloner,
    per_core::{serve_share, share},
    thread::JOIN,
};
use crate::connection::{ConnectInfo, ConnectionManager, HttpService, Listener, ServeError};

/// A queue of connections for each core, and threads of which each has one of the cores. A thread that is held by a
/// handler loses its core to another thread within milliseconds, and goes on with nothing but that handler. So a handler
/// may sleep by its thread, wait for a lock or a child process, compute, or call `Handle::block_on`, and the others of
/// its core go on.
///
/// # How
///
/// A thread notes the number of each poll of a connection: a store before it and a swap after it. A thread beside them
/// looks at these numbers; one that has stood for [`hand_off_after`](EngineConfig::hand_off_after) is taken out together
/// with its core, which a spare thread gets, or a new one. Sockets are waited for by the core's own tokio runtime, which
/// is not entered while a handler runs, and so goes to the other thread as well. Who was stuck ends its poll, and is a
/// spare thread then: for ten seconds, after one of which it gives its memory back by
/// [`purge_hook`](crate::connection::ConnectionManagerBuilder::purge_hook).
///
/// In the preset a route is learned by its method and name when a handler of it was seen to wait by its thread: then its
/// requests leave the core before they are polled, for a spare thread, so that nobody waits until that is noticed. After 64
/// polls that held no thread it is forgotten. That asks for names: `Router` has them, routes of
/// axum by `RouteLabelLayer::axum`. When [`max_blocked`](EngineConfig::max_blocked) handlers wait, requests of such routes
/// are refused with 503 and `Retry-After: 1`, and counted (`stellane_requests_shed_total`, reason `max_blocked`); all others
/// go on. A request that waits has left the limit; one that computes has not, and how many of those there are for each core
/// is what the limit hears of the machine.
///
/// In the preset each that holds its thread is told once in the log and counted in the metrics, with its route and how long it
/// lasted; with `dev.profile_block` also where it stands, as a stack in the line and in the block profile.
///
/// Handlers run within the context of the runtime on which the engine was started: there are their timers, their
/// `tokio::spawn` and the sockets that they open. They are in no task of tokio's, and so `Handle::block_on` is no mistake
/// in them.
///
/// # What it costs
///
/// A request costs about the CPU time that it does on [`SharedEngine`](super::SharedEngine), unless its handler waits for
/// sockets or timers of its own: those are of another runtime, and each wait is a change of threads. The example `blocking`
/// measured, on two CPUs, for an answer that is there at once 1.3, 1.0 and 1.0 of the shared engine with 1, 16 and 64
/// connections, and for a handler with two sockets and a timer 2.6, 1.5 and 1.3. So it is not the default. It can't be had for
/// less: sockets and timers that a handler waits for would have to be on the reactor of its core, and then what it spawns
/// would be too, and a spawned task that blocks would stop the core. Eight connections
/// that ask for what blocks for 50 ms again and again cost 176 us of CPU a request and hello beside them took 8 ms at the 99th
/// percentile; with names 139 us and 4 ms.
///
/// # What it does not do
///
/// - The first that blocks holds up the others of its core for [`hand_off_after`](EngineConfig::hand_off_after) and a
///   little, ten milliseconds, and those that block together with it for some two each. On a machine whose CPUs are taken
///   threads wait for a CPU, whoever runs them.
/// - What a handler spawns runs on the runtime that the engine was started on, and blocks that.
/// - Nothing can cancel what blocks: the client that leaves, the deadline and the drain are seen when its poll ends.
/// - Threads are bounded: beyond twice [`max_blocked`](EngineConfig::max_blocked) the next one that blocks holds its core.
/// - What it learns it learns of handlers: a body of an answer that blocks takes its core each time.
/// - Of a route that was never asked for nothing is known: its first requests count as those of the route whose template fits
///   their path. They are refused too while that one is full.
/// - A lock that a blocked handler holds holds up whoever wants it.
/// - Streams of an HTTP/2 connection wait for the first one among them that blocks, if it does so before it has waited for
///   anything: a connection polls new streams itself. For a minute after each that was seen to block, on whatever connection,
///   it does not: then every stream has a task of its own from the beginning, and none waits for another.
/// - Services that are not `Send` can't be served: they can't change threads. [`PerCoreEngine`](super::PerCoreEngine)
///   serves them.
///
/// Threads that serve end with [`stop`](Engine::stop), or when the engine is dropped; one that is blocked ends after that.
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use http::{Request, Response};
/// use stellane_core::connection::Incoming;
/// # use stellane_core::{connection::{ConnectionManager, Listener}, engine::{Engine, HandoffEngine}};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # let connections = ConnectionManager::builder().build()?;
/// let engine = HandoffEngine::builder().connections(&connections).build();
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let serving = engine.serve(vec![listener.into()], tower::service_fn(|_: Request<Incoming>| async {
///     std::thread::sleep(Duration::from_millis(50)); // holds up nobody else
///     Ok::<_, Infallible>(Response::new("done".to_owned()))
/// }));
/// # let (served, _) = tokio::join!(serving, engine.stop(Duration::from_secs(1)));
/// # served?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct HandoffEngine {
    config: EngineConfig,
    connections: ConnectionManager,
    observer: Option<Arc<dyn Observe>>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    New,
    Running(Arc<Shared>),
    Stopped,
}

/// Builds a [`HandoffEngine`].
#[derive(Debug)]
#[must_use]
pub struct HandoffEngineBuilder<C> {
    connections: C,
    config: EngineConfig,
    observer: Option<Arc<dyn Observe>>,
}

/// What a [`HandoffEngine`] is doing and did about handlers that block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandoffStats {
    /// Threads there are, without the one that watches them.
    pub threads: usize,
    /// Those of them that are held by a handler, and have no core.
    pub blocked: usize,
    /// How often a core went to another thread in the middle of a poll, since the engine started.
    pub handed_off_total: u64,
    /// How many polls kept their core, though they blocked, for lack of threads.
    pub refused_total: u64,
}

impl HandoffEngine {
    /// A builder with the default settings.
    pub fn builder() -> HandoffEngineBuilder<()> {
        HandoffEngineBuilder {
            connections: (),
            config: EngineConfig::default(),
            observer: None,
        }
    }

    /// What it is doing and did; nothing before it has started and after it was stopped.
    #[must_use]
    pub fn stats(&self) -> HandoffStats {
        let State::Running(shared) = &*self.lock() else {
            return HandoffStats::default();
        };
        let counts = *shared.counts.borrow();
        HandoffStats {
            threads: counts.threads,
            blocked: counts.blocked,
            handed_off_total: shared.handed_off.load(Relaxed),
            refused_total: shared.refused.load(Relaxed),
        }
    }

    /// The tokio runtimes that wait for the sockets of the cores, once they have started. Connections are no tasks of them.
    #[must_use]
    pub fn runtimes(&self) -> Vec<Handle> {
        match &*self.lock() {
            State::Running(shared) => shared
                .cores
                .iter()
                .map(|core| core.handle().clone())
                .collect(),
            State::New | State::Stopped => Vec::new(),
        }
    }

    #[cfg(feature = "preset")]
    pub(crate) fn cores(&self) -> Vec<CoreCounts> {
        match &*self.lock() {
            State::Running(shared) => shared.cores.iter().cloned().map(CoreCounts).collect(),
            State::New | State::Stopped => Vec::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn started(&self) -> Result<Arc<Shared>, EngineError> {
        let mut state = self.lock();
        if matches!(*state, State::New) {
            let main = Handle::try_current().map_err(|_| EngineError::NoRuntime)?;
            let shared = Shared::new(&self.config, &self.connections, self.observer.clone(), main);
            let shared = Arc::new(shared.map_err(EngineError::Start)?);
            if let Err(error) = start_threads(&shared) {
                shared.end();
                return Err(EngineError::Start(error));
            }
            *state = State::Running(shared);
        }
        match &*state {
            State::Running(shared) => Ok(Arc::clone(shared)),
            State::New | State::Stopped => Err(EngineError::Stopped),
        }
    }

    fn on_each_core<C, F>(
        &self,
        listeners: Vec<Listener>,
        serve: C,
    ) -> impl Future<Output = Result<(), EngineError>> + Send + 'static + use<C, F>
    where
        C: FnOnce(ConnectionManager, Vec<Listener>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<(), ServeError>> + Send + 'static,
    {
        let serving = self.begin(listeners, serve);
        async move {
            let mut loops = serving?;
            while let Some(ended) = loops.join_next().await {
                match ended {
                    Ok(served) => served.map_err(|error| EngineError::Serve(error.into()))?,
                    // The core ended it: the engine was dropped, or the service's maker panicked.
                    Err(_) => return Err(EngineError::Stopped),
                }
            }
            Ok(())
        }
    }

    /// Gives each core its listeners.
    fn begin<C, F>(
        &self,
        listeners: Vec<Listener>,
        serve: C,
    ) -> Result<JoinSet<Result<(), ServeError>>, EngineError>
    where
        C: FnOnce(ConnectionManager, Vec<Listener>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<(), ServeError>> + Send + 'static,
    {
        let shared = self.started()?;
        let shares = share(listeners, shared.cores.len()).map_err(EngineError::Start)?;
        let mut loops = JoinSet::new();
        for (core, listeners) in shared.cores.iter().zip(shares) {
            let (connections, serve) = (self.connections.clone(), serve.clone());
            let counted = Loop::begin(&shared);
            let serving = async move {
                let _counted = counted;
                serve_share(connections, listeners, serve).await
            };
            loops.spawn_on(serving, core.handle());
        }
        Ok(loops)
    }
}

/// What a core counts of itself, for who shows it and for the limit.
#[cfg(feature = "preset")]
#[derive(Debug, Clone)]
pub(crate) struct CoreCounts(Arc<core::Core>);

#[cfg(feature = "preset")]
impl CoreCounts {
    /// The runtime that waits for its sockets.
    pub(crate) fn runtime(&self) -> &Handle {
        self.0.handle()
    }

    pub(crate) fn worked(&self) -> Duration {
        self.0.worked()
    }

    pub(crate) fn tasks(&self) -> usize {
        self.0.metrics().tasks
    }

    pub(crate) fn queued(&self) -> usize {
        self.0.queued()
    }
}

impl<C> HandoffEngineBuilder<C> {
    /// What owns the connections of all cores.
    pub fn connections(
        self,
        connections: &ConnectionManager,
    ) -> HandoffEngineBuilder<ConnectionManager> {
        HandoffEngineBuilder {
            connections: connections.clone(),
            config: self.config,
            observer: self.observer,
        }
    }

    /// The settings; [`EngineConfig::kind`] and [`EngineConfig::pin`] have no meaning here. Default:
    /// [`EngineConfig::default`].
    pub fn config(mut self, config: EngineConfig) -> Self {
        self.config = config;
        self
    }

    /// [`EngineConfig::cores`].
    pub fn cores(mut self, cores: usize) -> Self {
        self.config.cores = cores;
        self
    }

    /// [`EngineConfig::max_blocked`].
    pub fn max_blocked(mut self, most: usize) -> Self {
        self.config.max_blocked = most;
        self
    }

    #[cfg(feature = "preset")]
    pub(crate) fn observer(mut self, observer: Arc<dyn Observe>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// [`EngineConfig::hand_off_after`].
    pub fn hand_off_after(mut self, after: Duration) -> Self {
        self.config.hand_off_after = after;
        self
    }
}

impl HandoffEngineBuilder<ConnectionManager> {
    /// The engine; no thread is made before it starts.
    #[must_use]
    pub fn build(self) -> HandoffEngine {
        HandoffEngine {
            config: self.config,
            connections: self.connections,
            observer: self.observer,
            state: Mutex::new(State::New),
        }
    }
}

fn start_threads(shared: &Arc<Shared>) -> std::io::Result<()> {
    let workers = shared.cores.iter().map(|core| shared.give_core(core));
    let workers = workers.collect::<Result<_, _>>()?;
    let watched = Arc::clone(shared);
    let supervisor = thread::Builder::new()
        .name("stellane-watch".to_owned())
        .spawn(move || supervisor::supervise(&watched, workers))?;
    let _ = shared.supervisor.set(supervisor.thread().clone());
    Ok(())
}

impl Engine for HandoffEngine {
    fn name(&self) -> &'static str {
        "handoff"
    }

    fn start(&self) -> Result<(), EngineError> {
        self.started().map(drop)
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
        if let State::Running(shared) = state {
            // Their connections have ended; they are about to notice, for which they need their threads.
            let mut loops = shared.loops.subscribe();
            let ended = loops.wait_for(|loops| *loops == 0);
            let _ = tokio::time::timeout(JOIN, ended).await;
            shared.end();
            // A handler that blocks its thread is not waited for.
            let mut counts = shared.counts.subscribe();
            let ended = counts.wait_for(|counts| counts.threads == counts.blocked);
            let _ = tokio::time::timeout(JOIN, ended).await;
        }
        report.into()
    }

    fn metrics(&self) -> EngineMetrics {
        let cores = match &*self.lock() {
            State::Running(shared) => shared.cores.iter().map(|core| core.metrics()).collect(),
            State::New | State::Stopped => Vec::new(),
        };
        EngineMetrics::of(&self.connections.stats(), cores)
    }
}

impl Drop for HandoffEngine {
    fn drop(&mut self) {
        if let State::Running(shared) = &*self.lock() {
            shared.end();
        }
    }
}
