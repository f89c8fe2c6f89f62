//! Where the time goes: profiles of a running service, off unless asked for.
//!
//! [`ProfileService`] answers on a loopback address only, at most one profile at a time:
//!
//! | path | what it is |
//! |---|---|
//! | `/debug/profile/cpu?seconds=10&frequency=99&format=svg` | stacks of running threads as a flame graph (`svg`), for pprof (`pprof`) or as lines (`folded`) |
//! | `/debug/profile/heap` | live memory by the stack that allocated it, for pprof: see [`HeapProfiler`] and [`ProfileServiceBuilder::heap`] |
//! | `/debug/profile/block` | polls that held a worker too long, by route: see [`SlowPollLayer`] |
//!
//! The preset offers them on its admin address as `dev.profile_cpu`, `dev.profile_mem` and
//! `dev.profile_block` say (or `STELLANE_PROFILE_CPU`, `_MEM`, `_BLOCK`); heap profiles want the program's
//! allocator, see `RuntimeBuilder::heap_profiler`. By hand, in front of any admin service:
//!
//! ```
//! use stellane_core::profiling::{ProfileLayer, ProfileService, SlowPolls};
//!
//! let slow_polls = SlowPolls::default();
//! let app = axum::Router::<()>::new().layer(slow_polls.layer());
//! let profiles = ProfileService::builder().cpu(true).block(slow_polls).build();
//! let profiles = profiles.listening_on("127.0.0.1:9090".parse()?);
//! let admin = tower::Layer::layer(&ProfileLayer::new(profiles), axum::Router::<()>::new());
//! # let _ = (app, admin);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! # Where handlers stand that block
//!
//! With `dev.profile_block` and `engine.kind = "handoff"` the stack of each handler that has lost its core is in the block
//! profile, the last one of each route, and in the line that the log has of it. Its thread gets a signal for it, the one of
//! CPU profiles, once or a few times: what it waits for in C and does not expect to be interrupted may then say `EINTR`.
//! While a CPU profile is taken there are no such stacks, nor on other engines: who watches those knows which route holds a
//! thread, and not which thread that is for the system.
//!
//! # CPU profiles
//!
//! A timer signal interrupts running threads and records their stacks. Symbols need a binary that is not
//! stripped; `debug = "line-tables-only"` in the Cargo profile adds lines. Samples inside libc and the
//! vDSO are left out, since unwinding them from a signal handler is not safe; `perf` and `samply`
//! need no such care and see more, so prefer them where they can be used.

mod block;
mod cpu;
mod heap;
#[cfg(feature = "preset")]
mod held;
mod layer;
mod service;
mod stacks;

#[cfg(feature = "preset")]
pub(crate) use self::held::{HeldStacks, Target};
pub use self::{
    block::{SlowPollFuture, SlowPollLayer, SlowPollService, SlowPolls, SlowRoute},
    heap::HeapProfiler,
    layer::{ProfileLayer, ProfileLayerFuture, ProfileLayerService},
    service::{ProfileFuture, ProfileService, ProfileServiceBuilder},
};
