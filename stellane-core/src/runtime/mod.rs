//! [`Runtime`]: every component in one working server, the full-stack preset.
//!
//! ```text
//! socket ─▶ ConnectionManager ─▶ metrics ─▶ AdaptiveLimit ─▶ pools ─▶ body limit ─▶ FaultLayer ─▶ your service
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
//!     .shutdown_signal(async {}) // instead of SIGTERM and SIGINT
//!     .build()?;
//! runtime.serve("127.0.0.1:0").await?;
//! # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
//! ```

mod admin;
mod background;
mod body;
mod builder;
mod classes;
mod components;
mod error;
mod pressure;
mod ready_check;
mod refusal;
mod serve;
#[cfg(unix)]
mod signals;
mod stack;
#[cfg(unix)]
mod successor;
#[cfg(unix)]
mod systemd;
mod tuning;
mod watch;

pub use self::{
    body::RequestBody,
    builder::{Runtime, RuntimeBuilder},
    components::Components,
    error::RuntimeError,
    refusal::RefusalKind,
    serve::{BoundRuntime, RunReport},
};
/// What [`RuntimeBuilder::background`] gives to a task.
pub use tokio_util::sync::CancellationToken;
