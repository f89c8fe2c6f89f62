//! [`RuntimeMetrics`]: one collector reads every component a few times a second.

mod added;
mod export;
mod files;
mod groups;
mod history;
mod process;
mod snapshot;

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::{Duration, Instant},
};

pub use added::Values;
pub use history::{RuntimeEvent, RuntimeHistory};
pub use process::Machine;
#[cfg(feature = "serde")]
pub(crate) use snapshot::seconds;
pub use snapshot::{Acceleration, Advice, RuntimeSnapshot, Threshold};

use crate::{
    BuildError, HttpMetrics, Metric, MetricsConfig, RouteHistory,
    requests::{
        Clock,
        histogram::{CELLS, Totals, middle_of},
    },
};

type Source = Box<dyn Fn(&mut RuntimeSnapshot) + Send + Sync>;

/// Everything known about a server, as one [`RuntimeSnapshot`]: a cheap handle.
///
/// Components plug in as closures that copy their counters into the snapshot; nothing of it is on the path of a request.
///
/// ```
/// use stellane_metrics::RuntimeMetrics;
///
/// # fn main() -> Result<(), stellane_metrics::BuildError> {
/// let runtime = RuntimeMetrics::builder()
///     .source(|snapshot| {
///         snapshot.workers_active = 3;
///         snapshot.workers_idle = 1;
///     })
///     .build()?;
/// assert_eq!(runtime.snapshot().workers_active, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RuntimeMetrics {
    inner: Arc<Inner>,
}

struct Inner {
    config: MetricsConfig,
    http: Option<HttpMetrics>,
    sources: Vec<Source>,
    machine: Machine,
    executors: Mutex<Vec<Executor>>,
    clock: Clock,
    state: Mutex<State>,
    latest: Mutex<Arc<RuntimeSnapshot>>,
    /// So that a page that is opened now can show what just happened.
    history: Mutex<history::History>,
    added: added::Added,
}

/// Asked at every tick.
type Executor = Box<dyn Fn() -> ExecutorStats + Send + Sync>;

/// What runs tasks, at this moment; see [`RuntimeMetrics::add_executor`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecutorStats {
    /// How many threads poll tasks.
    pub workers: u64,
    /// Tasks alive.
    pub tasks: u64,
    /// Tasks that wait for their turn in a queue that all workers share.
    pub queued: u64,
    /// For how long the workers have worked since they began, all added up.
    pub busy: Duration,
}

/// What the collector remembers between ticks.
struct State {
    /// One per tick, over the window.
    ticks: VecDeque<Tick>,
    /// The window's sum, kept up to date as ticks come and go.
    window_full: Totals,
    window_head: Totals,
    last_full: Totals,
    last_head: Totals,
}

struct Tick {
    at: Duration,
    requests: u64,
    failed: u64,
    shed: u64,
    connections: u64,
    cpu: Duration,
    busy: Duration,
    full: Totals,
    head: Totals,
}

impl RuntimeMetrics {
    /// Starts with nothing but the process.
    pub fn builder() -> RuntimeMetricsBuilder {
        RuntimeMetricsBuilder::default()
    }

    /// What the last tick saw. Ticks itself when nobody did for an interval, so it is never older than that.
    pub fn snapshot(&self) -> Arc<RuntimeSnapshot> {
        let now = (self.inner.clock)();
        let latest = self.latest();
        let due = latest.uptime + self.inner.config.interval;
        // Twice, so as not to race with a collector that is about to tick.
        if latest.uptime == Duration::ZERO || now >= due + self.inner.config.interval {
            return self.collect();
        }
        latest
    }

    /// Reads everything now, unless another thread is at it. `run` does it at the configured interval.
    pub fn collect(&self) -> Arc<RuntimeSnapshot> {
        let inner = &*self.inner;
        let mut state = match inner.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            // Somebody is collecting: another thread, or a source that asks for the snapshot it is part of.
            Err(TryLockError::WouldBlock) => return self.latest(),
        };
        let now = (inner.clock)();
        let mut snapshot = RuntimeSnapshot {
            uptime: now,
            ..RuntimeSnapshot::default()
        };
        inner.machine.fill(&mut snapshot);
        let busy = self.fill_executors(&mut snapshot);
        self.fill_http(&mut snapshot);
        for source in &inner.sources {
            source(&mut snapshot);
        }
        state.advance(inner, now, busy, &mut snapshot);
        let routes = || {
            inner
                .http
                .as_ref()
                .map(HttpMetrics::routes)
                .unwrap_or_default()
        };
        snapshot.judge(inner.machine.memory, inner.machine.cpus, routes);
        let snapshot = Arc::new(snapshot);
        *inner.latest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&snapshot);
        self.past().observe(&snapshot, inner.http.as_ref());
        snapshot
    }

    /// What happened in the last ten minutes, a point a second.
    pub fn history(&self) -> RuntimeHistory {
        self.past().since(Duration::ZERO)
    }

    /// The same, as far as it is later than this [`RuntimeSnapshot::uptime`].
    pub fn history_since(&self, uptime: Duration) -> RuntimeHistory {
        self.past().since(uptime)
    }

    /// The same of a route, if it is one of the 50 with most load.
    pub fn route_history(&self, route: &str) -> Option<RouteHistory> {
        self.past().routes().route(route)
    }

    /// What each route has done since the start, and what the busiest do now.
    #[cfg(feature = "admin")]
    pub(crate) fn routes_json(&self) -> serde_json::Value {
        let Some(http) = self.http() else {
            return serde_json::Value::Array(Vec::new());
        };
        let (all, buckets) = (http.routes(), http.config().duration_buckets.bounds());
        let past = self.past();
        let now = past
            .routes()
            .now(buckets.first().copied().unwrap_or_default());
        let now: std::collections::HashMap<_, _> = now.collect();
        let route = |stats: &crate::RouteStats| {
            let mut route = serde_json::to_value(stats).unwrap_or_default();
            route["now"] = serde_json::to_value(now.get(&*stats.route)).unwrap_or_default();
            route
        };
        all.iter().map(route).collect()
    }

    /// Adds a line to the [events](RuntimeHistory::events) that the live page shows; what is longer than 200 bytes is cut.
    ///
    /// What the snapshots tell is there by itself: that the limit begins or ceases to limit, that requests are refused,
    /// that a handler holds a thread, that a background task was started again.
    pub fn tell(&self, text: &str) {
        self.past().tell((self.inner.clock)(), text);
    }

    fn past(&self) -> MutexGuard<'_, history::History> {
        self.inner
            .history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects at the configured interval, for ever. Spawn it once.
    #[cfg(feature = "tokio")]
    pub async fn run(self) {
        let mut interval = tokio::time::interval(self.inner.config.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            interval.tick().await;
            self.collect();
        }
    }

    /// The snapshot in the Prometheus text format.
    ///
    /// `prometheus()` renders it together with everything else.
    pub fn render(&self) -> String {
        let mut text = crate::text::TextSink::default();
        self.export(&mut text);
        text.into_string()
    }

    /// Exports a number of a component, beside those of the [`catalogue`](crate::catalogue()): with each scrape `read` is
    /// asked what it is then. It must not block. What it holds is held for as long as these metrics are.
    ///
    /// ```
    /// use stellane_metrics::{Metric, RuntimeMetrics};
    ///
    /// # fn main() -> Result<(), stellane_metrics::BuildError> {
    /// let runtime = RuntimeMetrics::builder().build()?;
    /// let queue = Metric::gauge("outbox_messages", "Messages that are not sent yet.");
    /// runtime.add(queue, |values| values.set(3.0))?;
    /// assert!(runtime.render().ends_with("outbox_messages 3\n"));
    /// assert!(runtime.add(queue, |values| values.set(4.0)).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`BuildError::MetricTwice`] when the name is exported already, [`BuildError::MetricName`] when it is none.
    pub fn add(
        &self,
        metric: Metric,
        read: impl Fn(&mut Values<'_>) + Send + Sync + 'static,
    ) -> Result<(), BuildError> {
        self.inner.added.add(metric, Box::new(read))
    }

    /// Whether something was added by this name.
    #[cfg(feature = "prometheus")]
    pub(crate) fn has(&self, name: &str) -> bool {
        self.inner.added.contains(name)
    }

    /// What was added.
    #[cfg(feature = "prometheus")]
    pub(crate) fn added(&self) -> Vec<Metric> {
        self.inner.added.metrics()
    }

    /// How often the collector reads.
    pub fn interval(&self) -> Duration {
        self.inner.config.interval
    }

    /// The request metrics it reads.
    pub fn http(&self) -> Option<HttpMetrics> {
        self.inner.http.clone()
    }

    fn latest(&self) -> Arc<RuntimeSnapshot> {
        Arc::clone(
            &self
                .inner
                .latest
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn fill_http(&self, snapshot: &mut RuntimeSnapshot) {
        let Some(http) = &self.inner.http else { return };
        let stats = http.stats();
        snapshot.requests_total = stats.requests_total;
        snapshot.requests_in_flight = stats.requests_in_flight;
        snapshot.requests_cancelled_total = stats.requests_cancelled_total;
        snapshot.requests_failed_total = stats.requests_failed_total;
    }

    /// Returns how long the workers were busy, all added up.
    fn fill_executors(&self, snapshot: &mut RuntimeSnapshot) -> Duration {
        let mut busy = Duration::ZERO;
        for executor in self.executors().iter() {
            let stats = executor();
            snapshot.tokio_workers += stats.workers;
            snapshot.tokio_alive_tasks += stats.tasks;
            snapshot.tokio_queue_depth += stats.queued;
            busy += stats.busy;
        }
        busy
    }

    fn executors(&self) -> MutexGuard<'_, Vec<Executor>> {
        let executors = self.inner.executors.lock();
        executors.unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads another tokio runtime as well, for a server with one for each core: their workers, tasks and busy time
    /// are added up.
    #[cfg(feature = "tokio")]
    pub fn add_tokio(&self, handle: &tokio::runtime::Handle) {
        let handle = handle.clone();
        self.executors().push(Box::new(move || of_tokio(&handle)));
    }

    /// The same for what runs tasks and is not tokio's: asked at every tick, it must not block.
    pub fn add_executor(&self, read: impl Fn() -> ExecutorStats + Send + Sync + 'static) {
        self.executors().push(Box::new(read));
    }
}

#[cfg(feature = "tokio")]
fn of_tokio(runtime: &tokio::runtime::Handle) -> ExecutorStats {
    let metrics = runtime.metrics();
    let workers = metrics.num_workers();
    #[cfg(target_has_atomic = "64")]
    let busy = (0..workers).map(|worker| metrics.worker_total_busy_duration(worker));
    #[cfg(not(target_has_atomic = "64"))]
    let busy = std::iter::empty::<Duration>();
    ExecutorStats {
        workers: workers as u64,
        tasks: metrics.num_alive_tasks() as u64,
        queued: metrics.global_queue_depth() as u64,
        busy: busy.sum(),
    }
}

impl State {
    fn new() -> Self {
        Self {
            ticks: VecDeque::new(),
            window_full: Totals::new(),
            window_head: Totals::new(),
            last_full: Totals::new(),
            last_head: Totals::new(),
        }
    }

    /// Moves the window on and computes what depends on it.
    fn advance(
        &mut self,
        inner: &Inner,
        now: Duration,
        busy: Duration,
        snapshot: &mut RuntimeSnapshot,
    ) {
        let (full, head) = inner
            .http
            .as_ref()
            .map_or_else(|| (Totals::new(), Totals::new()), |h| h.durations());
        let tick = Tick {
            at: now,
            requests: snapshot.requests_total,
            failed: snapshot.requests_failed_total,
            shed: snapshot.shed_total.values().sum(),
            connections: snapshot.connections_total,
            cpu: snapshot.cpu_time,
            busy,
            full: full.since(&self.last_full),
            head: head.since(&self.last_head),
        };
        self.last_full = full;
        self.last_head = head;
        self.window_full.add(&tick.full);
        self.window_head.add(&tick.head);
        snapshot.latency_heat = heat(&tick.full);
        self.ticks.push_back(tick);
        // The oldest tick is where the window begins: rates count from it, its own requests lie before.
        while self.ticks.len() > 2
            && self
                .ticks
                .get(1)
                .is_some_and(|second| now.saturating_sub(second.at) >= inner.config.window)
        {
            if let Some(gone) = self.ticks.pop_front() {
                self.window_full.remove(&gone.full);
                self.window_head.remove(&gone.head);
            }
        }

        if let (Some(first), Some(last)) = (self.ticks.front(), self.ticks.back()) {
            let elapsed = last.at.saturating_sub(first.at).as_secs_f64();
            if elapsed > 0.0 {
                let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / elapsed;
                snapshot.requests_per_second = rate(first.requests, last.requests);
                // Counted a moment later than all of them.
                let failed = rate(first.failed, last.failed);
                snapshot.requests_failed_per_second = failed.min(snapshot.requests_per_second);
                snapshot.shed_per_second = rate(first.shed, last.shed);
                snapshot.connections_per_second = rate(first.connections, last.connections);
                let share =
                    |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() / elapsed;
                snapshot.cpu_usage = share(first.cpu, last.cpu);
                snapshot.tokio_busy_ratio =
                    share(first.busy, last.busy) / snapshot.tokio_workers.max(1) as f64;
            }
        }
        snapshot.latency_avg = self.window_full.mean();
        snapshot.latency_p50 = self.window_full.quantile(0.5);
        snapshot.latency_p90 = self.window_full.quantile(0.9);
        snapshot.latency_p99 = self.window_full.quantile(0.99);
        snapshot.latency_p999 = self.window_full.quantile(0.999);
        snapshot.latency_head_p50 = self.window_head.quantile(0.5);
        snapshot.latency_head_p99 = self.window_head.quantile(0.99);
    }
}

/// Rows of the heat map: below 64 µs, 128 µs, ... and all that is longer than about 17 s.
const HEAT_ROWS: usize = 20;

fn heat(tick: &Totals) -> Vec<u64> {
    let mut rows = vec![0; HEAT_ROWS];
    for cell in 0..CELLS {
        let n = tick.cells[cell];
        if n > 0 {
            let factor = middle_of(cell) / 64_000;
            let row = (u64::BITS - factor.leading_zeros()) as usize;
            rows[row.min(HEAT_ROWS - 1)] += n;
        }
    }
    rows
}

impl fmt::Debug for RuntimeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeMetrics")
            .field("latest", &self.latest())
            .finish_non_exhaustive()
    }
}

/// Builds [`RuntimeMetrics`].
#[must_use = "a builder does nothing until `build` is called"]
#[derive(Default)]
pub struct RuntimeMetricsBuilder {
    config: Option<MetricsConfig>,
    http: Option<HttpMetrics>,
    sources: Vec<Source>,
    executors: Vec<Executor>,
    clock: Option<Clock>,
}

impl RuntimeMetricsBuilder {
    /// Sets interval and window. Default: the configuration of the request metrics, else the defaults.
    pub fn config(mut self, config: MetricsConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// Reads these request metrics.
    pub fn http(mut self, http: &HttpMetrics) -> Self {
        self.http = Some(http.clone());
        self
    }

    /// Adds a component: the closure copies its counters into the snapshot, at every tick. It must not block.
    pub fn source(mut self, source: impl Fn(&mut RuntimeSnapshot) + Send + Sync + 'static) -> Self {
        self.sources.push(Box::new(source));
        self
    }

    /// Asks the allocator how many bytes it has handed out, instead of the kernel how much memory is anonymous.
    pub fn allocator(self, allocated: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.source(move |snapshot| snapshot.heap_size = allocated())
    }

    /// Reads the metrics of this tokio runtime.
    #[cfg(feature = "tokio")]
    pub fn tokio(mut self, handle: &tokio::runtime::Handle) -> Self {
        let handle = handle.clone();
        self.executors = vec![Box::new(move || of_tokio(&handle))];
        self
    }

    /// Measures time with this function, which must never go back, instead of the monotonic clock.
    pub fn clock(mut self, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Builds the collector and takes the first snapshot.
    ///
    /// # Errors
    ///
    /// [`BuildError::Config`] when a field of the configuration is out of range.
    pub fn build(self) -> Result<RuntimeMetrics, BuildError> {
        let config = self.config.unwrap_or_else(|| {
            let of_http = |http: &HttpMetrics| http.config().clone();
            self.http.as_ref().map(of_http).unwrap_or_default()
        });
        config.validate().map_err(BuildError::Config)?;
        let clock = self.clock.unwrap_or_else(|| {
            let start = Instant::now();
            Arc::new(move || start.elapsed())
        });
        let inner = Inner {
            config,
            http: self.http,
            sources: self.sources,
            machine: Machine::read(),
            executors: Mutex::new(self.executors),
            clock,
            state: Mutex::new(State::new()),
            latest: Mutex::default(),
            history: Mutex::default(),
            added: added::Added::default(),
        };
        let runtime = RuntimeMetrics {
            inner: Arc::new(inner),
        };
        runtime.collect();
        Ok(runtime)
    }
}

impl fmt::Debug for RuntimeMetricsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeMetricsBuilder")
            .field("config", &self.config)
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}
