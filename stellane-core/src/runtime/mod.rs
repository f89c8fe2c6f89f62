//! [`Runtime`]: every component in one working server, the full-stack preset.
//!
//! ```text
//! socket ─▶ ConnectionManager ─▶ metrics ─▶ AdaptiveLimit ─▶ pools ─▶ CatchFaultsLayer ─▶ body limit ─▶ your service
//!                  ▲                             ▲             ▲
//!                  └────────── knobs ── AutoTuner ── knobs ────┘
//! ```
//!
//! It takes any `Service<Request<RequestBody>>` that is `Clone`: an axum `Router`, a tonic `Routes`, a
//! `stellane_router::Router`, a `service_fn`.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http::{Request, Response};
//! use stellane_core::{RequestBody, Runtime, RuntimeConfig};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let mut config = RuntimeConfig::default();
//! # config.server.admin_address = "127.0.0.1:0".to_owned();
//! let hello = tower::service_fn(|_: Request<RequestBody>| async {
//!     Ok::<_, Infallible>(Response::new("hello".to_owned()))
//! });
//! let runtime = Runtime::builder()
//!     .config(config)
//!     .service(hello)
//! #   .shutdown_signal(async {})
//!     .build()?;
//! runtime.serve("127.0.0.1:0").await?;
//! # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
//! ```
//!
//! # Watched from outside
//!
//! A thread of its own, with a small runtime of its own, serves the admin address and watches the threads of the service.
//! `/healthz`, `/readyz`, `/metrics` and the live page answer also while handlers hold all of these, or the machine has more
//! to do than it can: then as late as the system lets a thread run that has just woken up. With 12 threads that compute on
//! two CPUs, and others that build, the median is some 10 ms and the worst of hundreds 150 to 200, of a thread in C that
//! does nothing but answer 8 and 300. Probes are to wait for a second. It tells which route a handler is of that [holds a thread](crate::config::ServerConfig::held_after)
//! while it does, and on demand `/healthz` says that the service
//! [gets nowhere](crate::config::ServerConfig::unhealthy_after).
//!
//! What the service depends on is given to [`RuntimeBuilder::ready_check`], what it does beside requests to
//! [`RuntimeBuilder::background`].
//!
//! # Panics
//!
//! A panic of a handler costs its own request. Where the program has no hook of its own for panics (`std::panic::set_hook`),
//! serving puts one in the place of std's, for the process and for good: who panics is logged once as an error of the target
//! `stellane::panic`, with thread, place and route, and a backtrace if `RUST_BACKTRACE` asks for it, or written to stderr if
//! there is no log. std's waits for stderr, so that one that nobody reads would hold the service; ours writes 100 records a
//! second at most, from a thread of its own, and counts what it leaves out. A hook that the program brings stays as it is.
//!
//! # Memory of idle connections
//!
//! Parked connections are small, but what they needed while they were busy comes back to the system only if the allocator
//! is asked to give it: that is what [`RuntimeBuilder::purge_hook`] is for. With
//! [`malloc_trim`](crate::connection::malloc_trim) for the system's allocator (glibc), or with mimalloc's `mi_collect`. A
//! program without a hook keeps for each connection about what the busiest moment took.
//!
#![doc = include_str!("moving_in.md")]

mod access_log;
#[cfg(feature = "admin")]
mod admin;
mod app;
mod around;
mod background;
mod beside;
mod bind;
mod body;
mod builder;
mod bypass;
mod classes;
mod components;
mod entry;
mod error;
mod facts;
#[cfg(feature = "fleet")]
mod fleet;
#[cfg(feature = "reload")]
mod follow;
mod held;
#[cfg(feature = "http-layers")]
mod http;
mod learned;
mod ledger;
mod listeners;
mod machine;
mod make;
mod numbers;
mod on_engine;
#[cfg(feature = "otlp")]
mod otlp;
mod panics;
mod pressure;
mod rate_limits;
mod ready_check;
mod redirect;
mod refusal;
mod refusing;
mod report;
mod route_limits;
#[expect(clippy::module_inception, reason = "it is the file of `Runtime`")]
mod runtime;
mod saturation;
mod serve;
#[cfg(unix)]
mod signals;
mod stack;
#[cfg(all(unix, feature = "restart"))]
mod successor;
#[cfg(all(unix, feature = "restart"))]
mod systemd;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tuner")]
mod tuning;
#[cfg(feature = "admin")]
mod watch;

#[cfg(feature = "http-layers")]
pub use self::http::{HttpBody, HttpInner, HttpInnerLayer, HttpLayers, HttpOuter, HttpOuterLayer};
#[cfg(feature = "axum-08")]
pub use self::{app::AxumService, listeners::axum_listener};
pub use self::{
    app::{App, BoxApp, BoxService, HyperService},
    bind::BoundRuntime,
    body::{RequestBody, RequestBodyError},
    builder::{HasService, RuntimeBuilder},
    components::Components,
    entry::{BoundServe, Serve, serve, serve_make},
    error::RuntimeError,
    ledger::{KeptAs, KeptRequest, WaitsFor, waits_for},
    listeners::{IntoListener, Listeners, connections},
    refusal::RefusalKind,
    report::RunReport,
    route_limits::RequestLimits,
    runtime::Runtime,
    saturation::Saturation,
    stack::{
        BodyLimitFuture, BodyLimitLayer, BodyLimitService, PresetBody, PresetFuture, PresetLayer,
        PresetLayers, PresetService,
    },
};
/// What [`RuntimeBuilder::background`] gives to a task.
pub use tokio_util::sync::CancellationToken;
