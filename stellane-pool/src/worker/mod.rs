//! [`WorkerPool`]: threads of their own for CPU-heavy work, so that it never stalls the reactor.
//!
//! Futures are polled on the pool's threads with the submitting tokio runtime entered, so timers and
//! sockets work inside. The queue is bounded; who comes too late is told at once. Dropping a [`Job`]
//! cancels it: what has not begun never does.
//!
//! ```
//! use stellane_pool::WorkerPool;
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let workers = WorkerPool::builder().build()?;
//! let sum = workers.spawn_blocking(|| (1..=1_000_000_u64).sum::<u64>()).await?;
//! assert_eq!(sum, 500_000_500_000);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! # How jobs reach a worker
//!
//! The new jobs of a thread go to one queue, or to another that is much shorter. Those are not bound to a worker, which
//! takes from the one whose oldest has waited longest, and from its own where they differ by less than 100 µs: a job
//! never waits behind a long one while another worker is free. The
//! [`Discipline`] orders each, [`Class`]es share them by weight, and [deadlines](JobBuilder::deadline) bound the
//! wait. Very short jobs are taken by the handful. A job that a worker wakes or submits stays with that worker,
//! where others without work steal it.
//!
//! Who finds nothing looks again for about half a microsecond, lets others run a few times and sleeps. The caller of
//! a very short job that is about to run looks for the result in up to three turns of its reactor before it has
//! itself woken, as long as that pays.
//!
//! [`WorkerPoolLayer`] moves a route onto the pool, always or [once it is slow](WorkerPoolLayer::threshold).

mod admit;
mod body;
mod carried;
mod class;
mod clock;
mod config;
mod context;
mod error;
mod future;
mod histogram;
mod idle;
mod job;
mod layer;
mod origin;
mod placement;
mod pool;
mod queue;
pub mod scale;
mod serve;
mod service;
mod shared;
#[cfg(feature = "sim")]
pub mod sim;
mod spin_wait;
mod stats;
mod supervisor;
mod threads;
mod wake_batch;

pub use self::{
    body::WorkerPoolBody,
    carried::Carried,
    class::{Class, ClassStats},
    config::{Discipline, OnDrop, Scale, WorkerPoolConfig},
    error::WorkerPoolError,
    future::WorkerPoolFuture,
    histogram::Histogram,
    job::{Job, JobError},
    layer::WorkerPoolLayer,
    placement::{Moved, Placed},
    pool::{JobBuilder, WorkerPool, WorkerPoolBuilder},
    service::WorkerPoolService,
    stats::WorkerPoolStats,
    supervisor::BlockedWorker,
};

/// What a pool calls.
struct Hooks {
    on_blocked: Box<dyn Fn(&BlockedWorker) + Send + Sync>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            on_blocked: Box::new(|_| {}),
        }
    }
}
