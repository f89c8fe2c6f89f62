//! A pool without threads and with a clock of its own, to test scaling and queues to the nanosecond.
//!
//! Jobs run on the calling thread when virtual time allows: each virtual worker takes a job, runs its poll,
//! and is busy for as long as the poll said with [`take`]. Everything else is the real pool's code.
//!
//! ```
//! use std::time::Duration;
//! use stellane_pool::{WorkerPoolConfig, worker::sim::{self, VirtualPool}};
//!
//! let mut config = WorkerPoolConfig::default();
//! config.min_workers = 1;
//! let mut virt = VirtualPool::new(&config, 1)?;
//! let pool = virt.pool().clone();
//! let _first = pool.spawn_blocking(|| sim::take(Duration::from_millis(20)));
//! let _second = pool.spawn_blocking(|| sim::take(Duration::from_millis(20)));
//! virt.advance(Duration::from_millis(10));
//! assert_eq!((pool.stats().active, pool.stats().queue_depth), (1, 1));
//! virt.advance(Duration::from_millis(30));
//! assert_eq!(pool.stats().completed, 2);
//! # Ok::<_, stellane_pool::worker::WorkerPoolError>(())
//! ```

use std::{
    cell::Cell,
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use tokio::runtime::Handle;

use super::{
    WorkerPool, WorkerPoolBuilder, WorkerPoolConfig, WorkerPoolError,
    clock::{Clock, nanos},
    context::WorkerContext,
    shared::Shared,
    supervisor::Supervisor,
};

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// The poll that calls it takes so much virtual time (in addition to what it has taken already). Nothing on
/// a real worker.
pub fn take(time: Duration) {
    TAKEN.set(TAKEN.get() + nanos(time));
}

/// A [`WorkerPool`] whose workers and time are virtual. One queue, so that every run is the same.
pub struct VirtualPool {
    pool: WorkerPool,
    shared: Arc<Shared>,
    supervisor: Supervisor,
    clock: Arc<AtomicU64>,
    workers: Vec<Worker>,
    idle_timeout: u64,
    next_look: u64,
}

struct Worker {
    local: Rc<WorkerContext>,
    /// When its poll ends; before, it is idle since then.
    until: u64,
    busy: bool,
}

impl VirtualPool {
    /// With the default builder.
    ///
    /// # Errors
    /// Settings that are out of range.
    pub fn new(config: &WorkerPoolConfig, cpus: usize) -> Result<Self, WorkerPoolError> {
        Self::build(WorkerPool::builder().config(config.clone()), config, cpus)
    }

    /// With a policy or hooks of one's own; `config` is the one the builder has.
    ///
    /// # Errors
    /// Settings that are out of range.
    pub fn build(
        builder: WorkerPoolBuilder,
        config: &WorkerPoolConfig,
        cpus: usize,
    ) -> Result<Self, WorkerPoolError> {
        let (clock, nanos_now) = Clock::simulated();
        let (pool, supervisor) = builder.assemble(clock, 1, Some(cpus))?;
        let mut virt = Self {
            shared: Arc::clone(pool.shared()),
            pool,
            supervisor,
            clock: nanos_now,
            workers: Vec::new(),
            idle_timeout: nanos(config.idle_timeout),
            next_look: 0,
        };
        let min = virt.shared.limits.min.load(Relaxed);
        virt.add_workers(min);
        Ok(virt)
    }

    /// The pool, for its handles, stats and settings.
    #[must_use]
    pub fn pool(&self) -> &WorkerPool {
        &self.pool
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.load(Relaxed))
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Lets time pass: polls end, jobs begin, the supervisor looks and scales every 10 ms.
    pub fn advance(&mut self, by: Duration) {
        let end = self.clock.load(Relaxed) + nanos(by);
        loop {
            self.settle();
            let now = self.clock.load(Relaxed);
            let polls = self.workers.iter().filter(|worker| worker.busy);
            let event = polls.map(|worker| worker.until).min().unwrap_or(u64::MAX);
            let event = event.min(self.next_look).max(now);
            if event > end {
                self.clock.store(end, Relaxed);
                return;
            }
            self.clock.store(event, Relaxed);
            if self.next_look <= event {
                self.next_look = event + nanos(Supervisor::INTERVAL);
                let more = self.supervisor.look(event);
                self.add_workers(more);
            }
        }
    }

    /// Ends what has ended and begins what can begin, now.
    fn settle(&mut self) {
        let now = self.clock.load(Relaxed);
        for worker in &mut self.workers {
            if worker.busy && worker.until <= now {
                worker.busy = false;
                worker.local.slot.polling_since.store(0, Relaxed);
            }
        }
        for at in 0..self.workers.len() {
            while !self.workers[at].busy && self.run_one(at, now) {}
        }
        let limits = &self.shared.limits;
        let (target, timeout) = (limits.target.load(Relaxed), self.idle_timeout);
        while self.workers.len() > target {
            let expired = |worker: &Worker| !worker.busy && now >= worker.until + timeout;
            let Some(at) = self.workers.iter().position(expired) else {
                break;
            };
            self.workers.remove(at).local.give_back();
            limits.workers.fetch_sub(1, SeqCst);
        }
    }

    fn run_one(&mut self, at: usize, now: u64) -> bool {
        let worker = &mut self.workers[at];
        let (shared, local) = (&self.shared, &worker.local);
        local.now.set(now);
        let Some(task) = shared.next(local) else {
            return false;
        };
        local.found();
        TAKEN.set(0);
        let runtime = task.metadata().origin.runtime.clone();
        let _entered = runtime.as_ref().map(Handle::enter);
        // The poll's time is charged in advance; its end is when the clock gets there.
        local.enter(|| shared.run(local, task));
        let taken = TAKEN.replace(0);
        worker.until = now + taken;
        worker.busy = taken > 0;
        if worker.busy {
            local.slot.polling_since.store(now, Relaxed);
        }
        true
    }

    fn add_workers(&mut self, n: usize) {
        for _ in 0..n {
            if let Some(local) = self.shared.claim_slot() {
                self.shared.limits.workers.fetch_add(1, SeqCst);
                self.workers.push(Worker {
                    local: Rc::new(local),
                    until: self.clock.load(Relaxed),
                    busy: false,
                });
            }
        }
    }
}

/// What the poll that has just returned took in virtual time.
pub(super) fn taken() -> u64 {
    TAKEN.get()
}

impl fmt::Debug for VirtualPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualPool")
            .field("now", &self.now())
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}
