use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use super::{
    Job, JobError, WorkerPoolConfig, WorkerPoolError,
    threads::{Settings, Threads},
    wait::WaitTimes,
};

/// A pool of threads for CPU-heavy work; a cheap handle. The threads end when the last handle is dropped.
/// See the [module docs](super).
#[derive(Debug, Clone)]
pub struct WorkerPool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    threads: Arc<Threads>,
    counts: Arc<Counts>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.threads.close();
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) submitted: AtomicU64,
    pub(super) completed: AtomicU64,
    pub(super) panics: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) shed: AtomicU64,
    waits: WaitTimes,
}

/// Builds a [`WorkerPool`].
#[derive(Debug, Default)]
#[must_use]
pub struct WorkerPoolBuilder {
    config: WorkerPoolConfig,
}

impl WorkerPoolBuilder {
    /// The settings. Default: [`WorkerPoolConfig::default`].
    pub fn config(mut self, config: WorkerPoolConfig) -> Self {
        self.config = config;
        self
    }

    /// Starts `min_workers` threads.
    ///
    /// # Errors
    /// Every setting that is out of range, or that a thread could not be started.
    pub fn build(self) -> Result<WorkerPool, WorkerPoolError> {
        let config = self.config;
        config.validate().map_err(WorkerPoolError::Config)?;
        let threads = Threads::start(Settings {
            min: config.min_workers,
            max: config.max_workers,
            queue: config.queue_size,
            idle_timeout: config.idle_timeout,
        })
        .map_err(WorkerPoolError::Thread)?;
        Ok(WorkerPool {
            inner: Arc::new(Inner {
                threads,
                counts: Arc::default(),
            }),
        })
    }
}

impl WorkerPool {
    /// A builder with the default settings.
    pub fn builder() -> WorkerPoolBuilder {
        WorkerPoolBuilder::default()
    }

    /// Runs a future on the pool's threads. Called within a tokio runtime, the future has that runtime's
    /// timers and sockets. A full queue refuses it at once: the job then says [`JobError::Overloaded`].
    pub fn spawn<F>(&self, future: F) -> Job<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let counts = Arc::clone(&self.inner.counts);
        if !self.inner.threads.has_room() {
            return Job::refused(counts);
        }
        counts.submitted.fetch_add(1, Relaxed);
        let threads = Arc::clone(&self.inner.threads);
        let runtime = Handle::try_current().ok();
        let job = run(future, runtime, Arc::clone(&counts), Instant::now());
        let (runnable, task) = async_task::spawn(job, move |runnable| threads.push(runnable));
        runnable.schedule();
        Job::running(task, counts)
    }

    /// Runs a closure that blocks or computes.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Job<T> {
        self.spawn(async move { work() })
    }

    /// What the pool does and did.
    #[must_use]
    pub fn stats(&self) -> WorkerPoolStats {
        let counts = &self.inner.counts;
        let census = self.inner.threads.census();
        WorkerPoolStats {
            active: census.total - census.idle,
            idle: census.idle,
            queue_depth: census.queued,
            min_workers: census.settings.min,
            max_workers: census.settings.max,
            queue_size: census.settings.queue,
            submitted: counts.submitted.load(Relaxed),
            completed: counts.completed.load(Relaxed),
            panics: counts.panics.load(Relaxed),
            cancelled: counts.cancelled.load(Relaxed),
            shed: counts.shed.load(Relaxed),
            wait_p50: counts.waits.quantile(0.5),
            wait_p99: counts.waits.quantile(0.99),
        }
    }

    /// Changes [`WorkerPoolConfig::min_workers`]; at least 1.
    pub fn set_min_workers(&self, min: usize) {
        self.inner.threads.set(|settings| settings.min = min);
    }

    /// Changes [`WorkerPoolConfig::max_workers`]; at least `min_workers`.
    pub fn set_max_workers(&self, max: usize) {
        self.inner.threads.set(|settings| settings.max = max);
    }

    /// Changes [`WorkerPoolConfig::queue_size`].
    pub fn set_queue_size(&self, size: usize) {
        self.inner.threads.set(|settings| settings.queue = size);
    }

    /// Ends the pool: running jobs go on to their next `.await`, waiting ones are dropped and say
    /// [`JobError::Closed`].
    pub fn shutdown(&self) {
        self.inner.threads.close();
    }
}

/// One job: enters the submitter's runtime for each poll, and turns a panic into an error.
async fn run<F: Future>(
    future: F,
    runtime: Option<Handle>,
    counts: Arc<Counts>,
    submitted: Instant,
) -> Result<F::Output, JobError> {
    let mut future = pin!(future);
    let mut submitted = Some(submitted);
    let result = std::future::poll_fn(|cx| {
        if let Some(submitted) = submitted.take() {
            counts.waits.record(submitted.elapsed());
        }
        let _entered = runtime.as_ref().map(Handle::enter);
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Ok(Poll::Pending) => Poll::Pending,
            Err(payload) => Poll::Ready(Err(JobError::panicked(&*payload))),
        }
    })
    .await;
    match &result {
        Ok(_) => counts.completed.fetch_add(1, Relaxed),
        Err(_) => counts.panics.fetch_add(1, Relaxed),
    };
    result
}

/// What a [`WorkerPool`] does and did; counts are since it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WorkerPoolStats {
    /// Threads that run a job.
    pub active: usize,
    /// Threads that wait for one.
    pub idle: usize,
    /// Jobs that wait for a thread.
    pub queue_depth: usize,
    /// The setting in force.
    pub min_workers: usize,
    /// The setting in force.
    pub max_workers: usize,
    /// The setting in force.
    pub queue_size: usize,
    /// Jobs accepted.
    pub submitted: u64,
    /// Jobs that came to their end.
    pub completed: u64,
    /// Jobs that panicked.
    pub panics: u64,
    /// Jobs that were dropped before their end.
    pub cancelled: u64,
    /// Jobs refused because the queue was full.
    pub shed: u64,
    /// Median time a job waited for a thread, exact to a factor of two.
    pub wait_p50: Duration,
    /// 99th percentile of the same.
    pub wait_p99: Duration,
}
