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

mod body;
mod config;
mod error;
mod future;
mod job;
mod layer;
mod pool;
mod service;
mod threads;
mod wait;

pub use self::{
    body::WorkerBody,
    config::WorkerPoolConfig,
    error::WorkerPoolError,
    future::WorkerFuture,
    job::{Job, JobError},
    layer::WorkerPoolLayer,
    pool::{WorkerPool, WorkerPoolBuilder, WorkerPoolStats},
    service::WorkerPoolService,
};
