#[cfg(any(feature = "tuner", feature = "workers"))]
use std::sync::Arc;
#[cfg(feature = "tuner")]
use std::sync::OnceLock;
#[cfg(feature = "profiling")]
use std::time::Duration;
use std::{
    borrow::Cow,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

#[cfg(feature = "tuner")]
use stellane_autotune::AutoTuner;
use stellane_autotune::{
    AdaptiveLimit, AdaptiveLimitLayer, Clock, LocalSignal,
    overload::{OverloadLayer, Pressure},
};
use stellane_metrics::{
    FacadePublisher, HttpMetrics, Machine, Prometheus, Readiness, RuntimeMetrics, RuntimeSnapshot,
};
use stellane_pool::Pools;
#[cfg(feature = "workers")]
use stellane_pool::{Carried, WorkerPool};
use stellane_router::Interner;
use tokio::task::JoinSet;

#[cfg(feature = "admin")]
use super::watch::Progress;
use super::{
    RuntimeError,
    background::Restarts,
    classes::{self, Classes},
    held::HeldThreads,
    ledger::{self, KeptRequest, Ledgers},
    machine, pressure,
    rate_limits::RateLimits,
    refusing,
    route_limits::OwnLimits,
    saturation::Saturation,
};
#[cfg(feature = "tuner")]
use super::{numbers, tuning};
use crate::{
    BoxError,
    catch_faults::Faults,
    config::RuntimeConfig,
    connection::{CloseReason, ConnectionManager},
    memory::MemoryBudget,
    strict_http1::Http1Rules,
};
#[cfg(feature = "profiling")]
use crate::{config::DevConfig, profiling::SlowPolls};

/// The components of a [`Runtime`](super::Runtime): cheap handles, all of them.
///
/// ```
/// use stellane_core::{Components, RuntimeConfig};
/// use tower::Layer;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let config = RuntimeConfig::default();
/// let components = Components::new(&config)?;
/// let app = components.layer(&config.server).layer(axum::Router::<()>::new()); // for a server of one's own
/// assert_eq!(components.faults.stats().panics, 0);
/// # let _ = app;
/// # Ok::<_, stellane_core::BoxError>(())
/// # })?;
/// # Ok::<_, stellane_core::BoxError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Components {
    /// Owns the connections.
    pub connections: ConnectionManager,
    /// Counts and times requests.
    pub metrics: HttpMetrics,
    /// Reads every component a few times a second.
    pub runtime_metrics: RuntimeMetrics,
    /// Renders all metrics; those too that the application records, if it is [installed](Prometheus::install).
    pub prometheus: Prometheus,
    /// The adaptive concurrency limit at the edge.
    pub limit: AdaptiveLimit,
    /// How long the tasks of the runtimes that serve wait for their turn: what tells the limit that the process itself
    /// is full, or is not.
    pub local_signal: LocalSignal,
    /// Ends requests at their deadlines.
    pub overload: OverloadLayer,
    /// How scarce memory and open files are, from 0 to 1, twice a second. Timeouts of requests shrink with it,
    /// and idle connections are closed.
    pub pressure: Pressure,
    /// Runs CPU-heavy work off the reactor.
    #[cfg(feature = "workers")]
    pub workers: WorkerPool,
    /// Buffers and header maps to use again.
    pub pools: Pools,
    /// Bounded string interner.
    pub interner: Interner,
    /// Turns the knobs of the other components.
    #[cfg(feature = "tuner")]
    pub tuner: AutoTuner,
    /// Counts what bodies hold; off unless there is a limit of memory, or `memory.budget` says otherwise.
    pub memory: MemoryBudget,
    /// Counts panics and errors of handlers.
    pub faults: Faults,
    /// Counts requests that were refused as ambiguous.
    pub http1_rules: Http1Rules,
    /// The block profile; its threshold is zero, which is off, without `dev.profile_block`.
    #[cfg(feature = "profiling")]
    pub slow_polls: SlowPolls,
    /// How much is asked of this process in terms of what it can do: for autoscalers and balancers.
    pub saturation: Saturation,
    /// What `/readyz` says; a service may hold it back with a latch until its own parts are there.
    pub readiness: Readiness,
    /// The limit with the classes and exemptions of its configuration.
    pub(super) limit_layer: AdaptiveLimitLayer,
    /// By the configuration.
    pub(super) own_limits: OwnLimits,
    /// By the configuration.
    pub(super) rate_limits: RateLimits,
    pub(super) ledgers: Ledgers,
    /// Handlers that hold a thread.
    pub(super) held: HeldThreads,
    /// Whether the runtimes that serve get anywhere.
    #[cfg(feature = "admin")]
    pub(super) progress: Progress,
    pub(super) restarts: Restarts,
    /// Through it the snapshot finds the tuner; held here only, see `with_purge_hook`.
    #[cfg(feature = "tuner")]
    _tuner_cell: Arc<OnceLock<AutoTuner>>,
}

impl Components {
    /// Makes every component from its section. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A section with a wrong value, or a component that can't start.
    pub fn new(config: &RuntimeConfig) -> Result<Self, RuntimeError> {
        Self::with_purge_hook(config, None)
    }

    pub(super) fn with_purge_hook(
        config: &RuntimeConfig,
        purge: Option<Box<dyn Fn() + Send + Sync>>,
    ) -> Result<Self, RuntimeError> {
        let tokio = tokio::runtime::Handle::try_current().map_err(|_| RuntimeError::NoTokio)?;
        let mut connection = config.connection.clone();
        // Or the end of a short drain would cut who has only not gone yet.
        let idle = connection.drain_idle.min(config.server.drain_timeout / 2);
        connection.drain_idle = idle;
        // Before anything counts on it.
        machine::raise_open_files(&connection);
        let mut connections = ConnectionManager::builder().config(connection);
        if let Some(purge) = purge {
            connections = connections.purge_hook(purge);
        }
        let budget = classes::drain_budget(&config.server.drain_classes);
        if let Some(budget) = budget.map_err(failed("server.drain_classes"))? {
            connections = connections.drain_budget(budget);
        }
        let metrics = HttpMetrics::builder()
            .config(config.metrics.clone())
            .build()
            .map_err(failed("metrics"))?;
        connections.wakes = ledger::wake_clock(&metrics);
        let connections = connections.build().map_err(failed("connection"))?;
        let local_signal = LocalSignal::new();
        let limit = AdaptiveLimit::builder()
            .config(config.limit.clone())
            .local_signal(&local_signal)
            .clock(Clock::counter())
            .build()
            .map_err(failed("limit"))?;
        let classes = Classes::new(&config.limit, &limit).map_err(failed("limit"))?;
        let limit_layer = classes.apply(AdaptiveLimitLayer::new(&limit));
        let pressure = pressure::pressure();
        let overload = OverloadLayer::builder()
            .config(config.overload.clone())
            .clock(Clock::counter())
            .limit(&limit)
            .pressure(&pressure)
            .build()
            .map_err(failed("overload"))?;
        let own_limits = OwnLimits::new(&config.server.route_limits);
        let own_limits = own_limits.map_err(failed("server.route_limits"))?;
        let overload = own_limits.apply(overload);
        let rate_limits = RateLimits::new(&config.rate_limit)?;
        #[cfg(feature = "workers")]
        let workers = WorkerPool::builder()
            .config(config.workers.clone())
            .carry(request_scope)
            .on_wait(|| ledger::name_wait(Some(ledger::WORKERS)))
            .build()
            .map_err(failed("workers"))?;
        let pools = Pools::builder()
            .config(config.pool.clone())
            .build()
            .map_err(failed("pool"))?;
        let interner = Interner::builder()
            .config(config.interner.clone())
            .build()
            .map_err(|errors| failed("interner")(join(&errors)))?;
        let mut memory = MemoryBudget::builder().config(config.memory.clone());
        if let Some(limit) = Machine::memory_limit() {
            memory = memory.limit(limit);
        }
        let memory = memory.build().map_err(failed("memory"))?;
        let faults = Faults::new();
        let http1_rules = Http1Rules::builder()
            .config(config.strict_http1.clone())
            .build()
            .map_err(failed("strict_http1"))?;
        let readiness = Readiness::new();
        readiness.set_ready(false);
        let held = HeldThreads::new(&config.metrics.unmatched_route, &metrics);
        let restarts = Restarts::default();
        let ledgers = Ledgers::new(config, &metrics);

        // The tuner reads the snapshot, and the snapshot counts the tuner's actions. The snapshot's way back
        // is weak: otherwise each would keep the other, and all the components with them, for ever.
        #[cfg(feature = "tuner")]
        let tuner_cell = Arc::new(OnceLock::<AutoTuner>::new());
        let runtime_metrics = RuntimeMetrics::builder()
            .config(config.metrics.clone())
            .http(&metrics)
            .tokio(&tokio)
            .source({
                let (connections, limit) = (connections.clone(), limit.clone());
                #[cfg(feature = "workers")]
                let workers = workers.clone();
                let overload = overload.clone();
                let (pools, interner) = (pools.clone(), interner.clone());
                let restarts = restarts.clone();
                let ledgers = ledgers.clone();
                let held = held.clone();
                let told = AtomicU64::new(0);
                #[cfg(feature = "tuner")]
                let tuner = Arc::downgrade(&tuner_cell);
                move |snapshot| {
                    read_connections(snapshot, &connections);
                    read_limit(snapshot, &limit);
                    tell_of_limit(&limit, &told);
                    let timed_out = overload.stats().timed_out;
                    let shed = &mut snapshot.shed_total;
                    shed.insert(Cow::Borrowed("timed_out"), timed_out);
                    #[cfg(feature = "workers")]
                    read_workers(snapshot, &workers);
                    ledgers.tick();
                    read_pools(snapshot, &pools);
                    read_interner(snapshot, &interner);
                    held.fill(snapshot);
                    restarts.fill(snapshot);
                    #[cfg(feature = "tuner")]
                    if let Some(tuner) = tuner.upgrade().as_deref().and_then(OnceLock::get) {
                        for (parameter, _, count) in tuner.stats().actions {
                            let total = &mut snapshot.tuning_actions_total;
                            *total.entry(parameter.into()).or_default() += count;
                        }
                    }
                }
            })
            .build()
            .map_err(failed("metrics"))?;
        let prometheus = stellane_metrics::prometheus()
            .http(&metrics)
            .runtime(&runtime_metrics)
            .readiness(&readiness)
            .build()
            .map_err(failed("metrics"))?;

        #[cfg(feature = "tuner")]
        let tuner = tuning::tuner(
            &config.tuner,
            &tuning::Parts {
                connections: &connections,
                limit: &limit,
                #[cfg(feature = "workers")]
                workers: &workers,
                pools: &pools,
                metrics: &runtime_metrics,
            },
        )
        .map_err(failed("tuner"))?;
        #[cfg(feature = "tuner")]
        {
            let _ = tuner_cell.set(tuner.clone());
            let cell = Arc::downgrade(&tuner_cell);
            numbers::of_tuner(&runtime_metrics, &cell).map_err(failed("metrics"))?;
        }
        let components = Self {
            connections,
            metrics,
            runtime_metrics,
            prometheus,
            limit,
            local_signal,
            saturation: Saturation::default(),
            overload,
            pressure,
            #[cfg(feature = "workers")]
            workers,
            pools,
            interner,
            #[cfg(feature = "tuner")]
            tuner,
            memory,
            faults,
            http1_rules,
            #[cfg(feature = "profiling")]
            slow_polls: slow_polls(&config.dev),
            readiness,
            limit_layer,
            own_limits,
            rate_limits,
            ledgers,
            held,
            #[cfg(feature = "admin")]
            progress: Progress::default(),
            restarts,
            #[cfg(feature = "tuner")]
            _tuner_cell: tuner_cell,
        };
        components.export_numbers().map_err(failed("metrics"))?;
        Ok(components)
    }

    /// Copies our numbers to the recorder of the `metrics` facade that the program has installed, such as one of StatsD's:
    /// `tokio::spawn(components.publisher().run(Duration::from_secs(5)))`. Not with
    /// [`Prometheus::install`], which renders all of them together already.
    #[must_use]
    pub fn publisher(&self) -> FacadePublisher {
        FacadePublisher::global()
            .http(&self.metrics)
            .runtime(&self.runtime_metrics)
    }

    /// The slowest requests of the last ten minutes, eight of each, and the first few of each minute that were refused, failed
    /// or were left by their clients: with where their time went. The slowest first, then the others, the latest first. Of
    /// requests under a [`PresetLayer`](super::PresetLayer); that costs each of them about a hundred instructions, and no
    /// allocation.
    #[must_use]
    pub fn kept_requests(&self) -> Vec<KeptRequest> {
        self.ledgers.kept.list()
    }

    /// What the components do beside requests: they measure themselves, tune each other, give memory back. To be spawned
    /// by who uses them without a [`Runtime`](super::Runtime), which does it itself. Never ends; what it does ends when
    /// it is dropped.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        self.spawn_background(&mut tasks);
        tasks.spawn(self.runtime_metrics.clone().run());
        if !self.local_signal.is_watched() {
            tasks.spawn(self.local_signal.watch_tokio());
        }
        while tasks.join_next().await.is_some() {}
        std::future::pending().await
    }

    pub(super) fn memory_if_on(&self) -> Option<MemoryBudget> {
        (self.memory.bytes() > 0).then(|| self.memory.clone())
    }

    /// What runs beside the connections; it ends when the set is dropped.
    pub(super) fn spawn_background(&self, tasks: &mut JoinSet<()>) {
        #[cfg(feature = "tuner")]
        {
            let tuner = self.tuner.clone();
            tasks.spawn(async move { tuner.run().await });
        }
        tasks.spawn(pressure::relieve(
            self.pressure.clone(),
            self.connections.clone(),
            self.memory.clone(),
            self.pools.clone(),
        ));
        tasks.spawn(refusing::tell(
            self.limit.clone(),
            self.runtime_metrics.clone(),
        ));
        #[cfg(feature = "workers")]
        let workers = {
            let workers = self.workers.clone();
            move || {
                let stats = workers.stats();
                stats.active as f64 / stats.max_workers.max(1) as f64
            }
        };
        #[cfg(not(feature = "workers"))]
        let workers = || 0.0;
        let (limit, metrics) = (self.limit.clone(), self.runtime_metrics.clone());
        tasks.spawn(self.saturation.clone().watch(limit, metrics, workers));
        tasks.spawn(self.clone().watch_beside());
        let pools = self.pools.clone();
        tasks.spawn(async move {
            let interval = pools.trim_interval();
            if interval.is_zero() {
                return;
            }
            loop {
                tokio::time::sleep(interval).await;
                pools.tick();
            }
        });
    }
}

/// Routes are named as the metrics name them: by our router itself, by axum through `RouteLabelLayer`.
#[cfg(feature = "profiling")]
fn slow_polls(config: &DevConfig) -> SlowPolls {
    let threshold = match config.profile_block {
        true => config.block_threshold,
        false => Duration::ZERO,
    };
    SlowPolls::with_route(threshold, |_| {
        stellane_metrics::current_route().map(|route| route.to_string())
    })
}

fn failed<E: Into<BoxError>>(name: &'static str) -> impl Fn(E) -> RuntimeError {
    move |error| RuntimeError::Component {
        name,
        source: error.into(),
    }
}

fn join(errors: &[impl ToString]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

fn read_interner(snapshot: &mut RuntimeSnapshot, interner: &Interner) {
    let stats = interner.stats();
    snapshot.interner_entries = stats.frozen + stats.entries;
    snapshot.interner_bytes = stats.bytes;
    snapshot.interner_bypassed = stats.bypassed;
}

fn read_connections(snapshot: &mut RuntimeSnapshot, connections: &ConnectionManager) {
    let stats = connections.stats();
    snapshot.connections_active = stats.active;
    snapshot.connections_idle = stats.idle;
    // One that has not sent a byte yet is held as one that is parked.
    snapshot.connections_parked = stats.parked + stats.new;
    snapshot.connections_upgraded = stats.upgraded;
    snapshot.connections_total = stats.accepted_total;
    for reason in CloseReason::ALL {
        let closed = &mut snapshot.connections_closed_total;
        closed.insert(Cow::Borrowed(reason.as_str()), stats.closed(*reason));
    }
}

fn read_limit(snapshot: &mut RuntimeSnapshot, limit: &AdaptiveLimit) {
    let stats = limit.stats();
    snapshot.limit = u64::from(stats.limit);
    snapshot.limit_state = limit.explain();
    snapshot.limit_in_flight = u64::from(stats.in_flight);
    snapshot.limit_waiting = u64::from(stats.waiting);
    for (reason, count) in [
        ("limit", stats.shed_limit),
        ("queue_full", stats.shed_queue_full),
        ("wait_timeout", stats.shed_wait_timeout),
        ("deadline", stats.shed_deadline),
        ("class_full", stats.shed_class_full),
    ] {
        snapshot.shed_total.insert(Cow::Borrowed(reason), count);
    }
}

/// Logs that the limit has become one, or none, with the reason: once for each change.
fn tell_of_limit(limit: &AdaptiveLimit, told: &AtomicU64) {
    let changes = limit.stats().changes;
    if told.swap(changes, Relaxed) != changes {
        tracing::info!(target: "stellane::limit", "{}", limit.explain());
    }
}

#[cfg(feature = "workers")]
fn read_workers(snapshot: &mut RuntimeSnapshot, workers: &WorkerPool) {
    let stats = workers.stats();
    snapshot.workers_active = stats.active as u64;
    snapshot.workers_idle = stats.idle as u64;
    snapshot.queue_depth = stats.queue_depth as u64;
    snapshot.queue_wait_p99 = stats.wait_p99;
    snapshot.jobs_stolen_total = stats.stolen;
    for (reason, count) in [
        ("workers_full", stats.shed_full),
        ("workers_waited", stats.shed_waited),
        ("workers_deadline", stats.shed_expired),
    ] {
        snapshot.shed_total.insert(Cow::Borrowed(reason), count);
    }
}

fn read_pools(snapshot: &mut RuntimeSnapshot, pools: &Pools) {
    let stats = pools.stats();
    snapshot.pool_hits = stats.hits;
    snapshot.pool_misses = stats.misses;
    snapshot.pool_retained_bytes = stats.retained_bytes as u64;
    snapshot.memory_trims = stats.trims;
    snapshot.trim_pause = stats.last_trim;
}

/// The request that is measured on this thread, for a worker that runs it.
#[cfg(feature = "workers")]
fn request_scope() -> Option<Carried> {
    let scope = Arc::new(stellane_metrics::RequestScope::current()?);
    let back = Arc::clone(&scope);
    Some(Carried::new(
        move |inside| scope.run(inside),
        move || back.hand_back(),
    ))
}
