use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{
    BlockedWorker, Class, ClassStats, Histogram, Hooks, Job, OnDrop, Scale, WorkerPoolConfig,
    WorkerPoolError, WorkerPoolStats,
    admit::Options,
    carried::{Carried, Carry},
    clock::{Clock, nanos},
    queue::Rules,
    scale::{LoadRule, QueueRule, ScalePolicy},
    shared::{Limits, Phase, Shared},
    stats::Recent,
    supervisor::{Supervisor, available_cpus},
    threads::ThreadSettings,
};

/// A pool of threads for CPU-heavy work; a cheap handle. The threads end when the last handle is dropped.
/// See the [module docs](super).
///
/// ```
/// use stellane_pool::WorkerPool;
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let workers = WorkerPool::builder().build()?;
/// assert_eq!(workers.spawn_blocking(|| 6 * 7).await?, 42);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct WorkerPool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    on_drop: OnDrop,
    carry: Carry,
    recent: Mutex<Recent>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.end(match self.on_drop {
            OnDrop::Abort => Phase::Closed,
            OnDrop::Drain => Phase::Draining,
        });
    }
}

/// Builds a [`WorkerPool`].
#[derive(Default)]
#[must_use]
pub struct WorkerPoolBuilder {
    config: WorkerPoolConfig,
    policy: Option<Box<dyn ScalePolicy>>,
    hooks: Hooks,
    carry: Carry,
    on_wait: Option<fn()>,
}

impl WorkerPoolBuilder {
    /// The settings. Default: [`WorkerPoolConfig::default`].
    pub fn config(mut self, config: WorkerPoolConfig) -> Self {
        self.config = config;
        self
    }

    /// How many workers there are. Default: as [`WorkerPoolConfig::scale`] says.
    pub fn scale_policy(mut self, policy: impl ScalePolicy) -> Self {
        self.policy = Some(Box::new(policy));
        self
    }

    /// Called once for every poll that has taken longer than [`WorkerPoolConfig::blocked_after`], from the
    /// thread that watches the workers: it must not block. Default: nothing.
    pub fn on_blocked(mut self, hook: impl Fn(&BlockedWorker) + Send + Sync + 'static) -> Self {
        self.hooks.on_blocked = Box::new(hook);
        self
    }

    /// What the calls of every [`WorkerPoolLayer`](super::WorkerPoolLayer) on this pool take along to the worker: `carry` is
    /// called where the call is made. [`Pools::current`](crate::Pools::current) goes along by itself. Default: nothing.
    ///
    /// With `stellane-metrics`, so that a router behind the layer can name the route, and a handler ask for it:
    ///
    /// ```
    /// # mod stellane_metrics {
    /// #     pub struct RequestScope;
    /// #     impl RequestScope {
    /// #         pub fn current() -> Option<Self> { Some(Self) }
    /// #         pub fn run(&self, inside: &mut dyn FnMut()) { inside() }
    /// #         pub fn hand_back(&self) {}
    /// #     }
    /// # }
    /// use std::sync::Arc;
    ///
    /// use stellane_metrics::RequestScope;
    /// use stellane_pool::{Carried, WorkerPool};
    ///
    /// let workers = WorkerPool::builder()
    ///     .carry(|| {
    ///         let scope = Arc::new(RequestScope::current()?);
    ///         let back = Arc::clone(&scope);
    ///         Some(Carried::new(move |inside| scope.run(inside), move || back.hand_back()))
    ///     })
    ///     .build()?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn carry(mut self, carry: impl Fn() -> Option<Carried> + Send + Sync + 'static) -> Self {
        self.carry = Carry::new(carry);
        self
    }

    /// Called on the thread of whoever polls a [`Job`](super::Job) that is not done yet: for who tells what a request waits
    /// for. Default: nothing.
    pub fn on_wait(mut self, hook: fn()) -> Self {
        self.on_wait = Some(hook);
        self
    }

    /// The pool. Its threads, `min_workers` (see there) and one that watches them, start with its first job; where none
    /// can be started, jobs are refused as by a full queue until one can.
    ///
    /// # Errors
    /// Every setting that is out of range.
    pub fn build(self) -> Result<WorkerPool, WorkerPoolError> {
        let shards = available_cpus().next_power_of_two().min(8);
        let settings = ThreadSettings {
            idle_timeout: self.config.idle_timeout,
            nice: self.config.nice,
        };
        let (pool, supervisor) = self.assemble(Clock::system(), shards, None)?;
        pool.inner.shared.starter.arm(supervisor, settings);
        Ok(pool)
    }

    /// A pool without threads.
    pub(super) fn assemble(
        self,
        clock: Clock,
        shards: usize,
        cpus: Option<usize>,
    ) -> Result<(WorkerPool, Supervisor), WorkerPoolError> {
        let config = self.config;
        config.validate().map_err(WorkerPoolError::Config)?;
        let rules = Rules {
            discipline: config.discipline,
            target: nanos(config.queue_target),
            interval: nanos(config.queue_interval),
        };
        let min = match (&self.policy, config.scale) {
            // Not more than the policy would add: two that compute on one CPU hold up everything else.
            (None, Scale::Load) => config.min_workers.min(cpus.unwrap_or_else(available_cpus)),
            _ => config.min_workers,
        };
        let limits = Limits {
            min: AtomicUsize::new(min),
            max: AtomicUsize::new(config.max_workers),
            queue: AtomicUsize::new(config.queue_size),
            target: AtomicUsize::new(min),
            workers: AtomicUsize::new(0),
        };
        let full_wait = nanos(config.full_wait);
        let mut shared = Shared::new(clock, shards, rules, full_wait, limits);
        shared.on_wait = self.on_wait;
        let shared = Arc::new(shared);
        let policy = self.policy.unwrap_or_else(|| match config.scale {
            Scale::Load => Box::new(LoadRule::default()),
            Scale::Queue => Box::new(QueueRule),
        });
        let blocked_after = nanos(config.blocked_after);
        let supervisor =
            Supervisor::new(Arc::clone(&shared), policy, self.hooks, blocked_after, cpus);
        let inner = Inner {
            shared,
            on_drop: config.on_drop,
            carry: self.carry,
            recent: Mutex::default(),
        };
        let pool = WorkerPool {
            inner: Arc::new(inner),
        };
        Ok((pool, supervisor))
    }
}

impl std::fmt::Debug for WorkerPoolBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerPoolBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl WorkerPool {
    #[cfg(feature = "sim")]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(super) fn carried(&self) -> Option<Carried> {
        self.inner.carry.take()
    }

    /// A builder with the default settings.
    pub fn builder() -> WorkerPoolBuilder {
        WorkerPoolBuilder::default()
    }

    /// Runs a future on the pool's threads. Called within a tokio runtime, the future has that runtime's
    /// timers and sockets. A full queue refuses it at once: the job then says
    /// [`JobError::Overloaded`](super::JobError::Overloaded). Called by one of the pool's own jobs, it is
    /// part of work that was admitted, and never refused.
    pub fn spawn<F>(&self, future: F) -> Job<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.inner.shared.submit(future, Options::default())
    }

    /// Runs a closure that blocks or computes.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Job<T> {
        self.spawn(async move { work() })
    }

    /// A job with a class or a deadline.
    pub fn job(&self) -> JobBuilder<'_> {
        JobBuilder {
            shared: &self.inner.shared,
            options: Options::default(),
        }
    }

    /// The class of that name; made on first use, with that weight (at least 1), and kept for the pool's
    /// life. The name is what a blocked worker is reported with: take the route's. After 63 of them, all
    /// others are the default one.
    #[must_use]
    pub fn class(&self, name: &str, weight: u32) -> Class {
        self.inner.shared.classes.add(name, weight)
    }

    /// What the pool does and did.
    #[must_use]
    pub fn stats(&self) -> WorkerPoolStats {
        let (wait, run) = self.histograms();
        let mut recent = self
            .inner
            .recent
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = self.inner.shared.clock.now();
        let (wait, run) = recent.since_lately(now, wait, run);
        WorkerPoolStats::read(&self.inner.shared, &wait, &run)
    }

    /// The classes, the default one first.
    #[must_use]
    pub fn class_stats(&self) -> Vec<ClassStats> {
        self.inner.shared.classes.stats()
    }

    /// How long jobs waited for a worker, and how long they ran, since the pool was built.
    #[must_use]
    pub fn histograms(&self) -> (Histogram, Histogram) {
        let (mut wait, mut run) = (Histogram::default(), Histogram::default());
        for slot in self.inner.shared.slots().iter() {
            wait.add(&slot.wait);
            run.add(&slot.run);
        }
        (wait, run)
    }

    /// Changes [`WorkerPoolConfig::min_workers`]; at least 1, and more than there are CPUs if so asked.
    pub fn set_min_workers(&self, min: usize) {
        let limits = &self.inner.shared.limits;
        limits.min.store(min.max(1), Relaxed);
        limits.max.fetch_max(min.max(1), Relaxed);
        self.settings_changed();
    }

    /// Changes [`WorkerPoolConfig::max_workers`]; at least `min_workers`.
    pub fn set_max_workers(&self, max: usize) {
        let limits = &self.inner.shared.limits;
        limits.max.store(max.max(limits.min.load(Relaxed)), Relaxed);
        self.settings_changed();
    }

    /// Changes [`WorkerPoolConfig::queue_size`].
    pub fn set_queue_size(&self, size: usize) {
        self.inner.shared.limits.queue.store(size, Relaxed);
    }

    fn settings_changed(&self) {
        self.inner.shared.idle.notify_all();
        self.inner.shared.supervisor.tell(true);
    }

    /// Ends the pool: running jobs go on to their next `.await`, waiting ones are dropped and say
    /// [`JobError::Closed`](super::JobError::Closed).
    pub fn shutdown(&self) {
        self.inner.shared.end(Phase::Closed);
    }

    /// Ends the pool when all accepted jobs have come to their end; further ones say
    /// [`JobError::Closed`](super::JobError::Closed).
    pub fn drain(&self) {
        self.inner.shared.end(Phase::Draining);
    }
}

/// A job to be: see [`WorkerPool::job`].
///
/// ```
/// use std::time::Duration;
/// use stellane_pool::{JobError, WorkerPool};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let workers = WorkerPool::builder().build()?;
/// let thumbnails = workers.class("/thumbnails/{id}", 1);
/// let job = workers.job().class(thumbnails).timeout(Duration::from_secs(2));
/// assert_eq!(job.spawn_blocking(|| 1 + 1).await, Ok(2));
/// let late = workers.job().timeout(Duration::ZERO).spawn_blocking(|| unreachable!());
/// assert_eq!(late.await, Err::<(), _>(JobError::Expired));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "a job begins with `spawn` or `spawn_blocking`"]
pub struct JobBuilder<'a> {
    shared: &'a Arc<Shared>,
    options: Options,
}

impl JobBuilder<'_> {
    /// Whose share of the workers it takes. Default: the default class.
    pub const fn class(mut self, class: Class) -> Self {
        self.options.class = class.0;
        self
    }

    /// When it is too late to begin. Default: never.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.options.deadline = self.shared.clock.at(deadline);
        self
    }

    /// How long from now it may begin. Default: without end.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.deadline = self.shared.clock.now().saturating_add(nanos(timeout));
        self
    }

    /// As [`WorkerPool::spawn`].
    pub fn spawn<F>(self, future: F) -> Job<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.shared.submit(future, self.options)
    }

    /// As [`WorkerPool::spawn_blocking`].
    pub fn spawn_blocking<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Job<T> {
        self.spawn(async move { work() })
    }
}
