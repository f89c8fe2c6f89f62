//! Object, buffer and worker pools for tower services.
//!
//! # Which part do I want?
//!
//! | I have | I take |
//! |---|---|
//! | a route that computes for long | [`WorkerPoolLayer`] around it (feature `worker`) |
//! | a function that computes, or a job that blocks | [`WorkerPool::spawn_blocking`] |
//! | work of several kinds, of which none may starve another | a [`Class`] for each |
//! | values that are dear to make | [`Pool`] |
//! | byte buffers of all sizes | [`BufPool`] |
//! | handlers that want both | [`Pools`], by [`PoolLayer`] (feature `http`) |
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `worker` | [`worker`]: [`WorkerPool`], [`WorkerPoolLayer`] |
//! | `http` | [`PoolLayer`], [`PooledBody`], recyclers for header maps and extensions |
//! | `axum` | extractors, for axum and everything else on axum-core |
//! | `serde` | config structs can be read and written |
//! | `sim` | the simulator of worker pools |
//!
//! # Object and buffer pools
//!
//! Reuse that is measured, bounded, and cannot carry a byte from one request to the next:
//!
//! - [`Pool`] keeps values of any [`Recycle`] type. [`Pool::take`] gives a [`Pooled`] guard, and dropping
//!   the guard returns the value: after a normal return, a cancelled future or an early `?` alike.
//!   Idle values live in per-thread magazines with a shared exchange between them.
//! - [`BufPool`] keeps buffers of 4 KiB to 1 MiB. [`PooledBuf::freeze`] gives [`bytes::Bytes`] whose
//!   memory comes back to the pool, without one allocation in the steady state.
//! - [`Budget`] bounds the bytes that all pools sharing it may keep idle.
//! - [`Pools`] bundles what a server needs under one budget, and is what handlers see.
#![cfg_attr(
    feature = "http",
    doc = "- [`PoolLayer`] puts the [`Pools`] in reach of the handlers of any tower stack."
)]
//!
//! ```
//! use stellane_pool::{Pool, PoolConfig, Pools};
//!
//! // One kind of object …
//! let pool = Pool::builder(|| Vec::<u8>::with_capacity(1024)).build()?;
//! let mut scratch = pool.take();
//! scratch.extend_from_slice(b"dirty");
//! drop(scratch);
//! assert!(pool.take().is_empty(), "cleared on its way back");
//!
//! // … or everything a server needs.
//! let pools = Pools::builder().config(PoolConfig::enabled()).build()?;
//! let mut buffer = pools.buf().get(1000);
//! buffer.extend_from_slice(b"hello");
//! let bytes = buffer.freeze();
//! assert_eq!(bytes, "hello");
//! # Ok::<(), stellane_pool::BuildError>(())
//! ```
//!
//! Buffers and maps are reused only when [`PoolConfig::enabled`](field@PoolConfig::enabled) says so, because with
//! a good allocator it saves no CPU time end to end; `FIGURES.md` in the package has the measurements.
//!
//! An idle value leaves after two [ticks](Pools::tick): somebody has to tick, for example a task that
//! sleeps for [`PoolConfig::trim_interval`] between calls. Stellane's runtime does.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod budget;
mod buf;
mod config_error;
#[cfg(feature = "http")]
pub mod embed;
mod error;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "http")]
mod layer;
mod object;
mod pools;
mod recycle;
mod sync;
#[cfg(feature = "worker")]
pub mod worker;

#[cfg(feature = "worker")]
pub use self::worker::{
    Carried, Class, Discipline, Job, JobError, OnDrop, Scale, WorkerPool, WorkerPoolConfig,
    WorkerPoolLayer, WorkerPoolStats,
};
pub use self::{
    budget::Budget,
    buf::{BufPool, PooledBuf},
    config_error::ConfigError,
    error::BuildError,
    object::{Drops, Pool, PoolBuilder, PoolStats, Pooled, Trimmed},
    pools::{PoolConfig, Pools, PoolsBuilder, PoolsStats},
    recycle::{DropReason, Fate, Recycle, RecycleCx},
};
#[cfg(feature = "http")]
pub use self::{
    http::{CollectError, PooledBody},
    layer::{PoolFuture, PoolLayer, PoolService},
};
