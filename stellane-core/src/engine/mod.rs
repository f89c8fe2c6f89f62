//! [`Engine`]: what runs a service. The same service, on one runtime for all cores or on one for each.
//!
//! - [`SharedEngine`]: the tokio runtime it is started on; its workers steal work from each other. The right
//!   one when requests differ much in what they cost.
//! - [`PerCoreEngine`]: a thread with a runtime of its own for each core. A connection stays on the core that
//!   accepted it, and no task wakes another core. The right one for many short and even requests. Services
//!   that are not `Send` can be served too, made once for each core: see [`PerCoreEngine::serve_local`].
//! - [`HandoffEngine`]: a core that goes from thread to thread, so that a handler may block the one that it is on. The
//!   right one where handlers call what blocks, or nobody is sure that they do not.
//!
//! All serve through one [`ConnectionManager`](crate::connection::ConnectionManager): its limits, statistics
//! and drains cover all cores. An engine of your own implements [`Engine`] and shows that it keeps the contract
//! by passing the public suite, `engine::testing` (feature `engine-testing`).
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use http::{Request, Response};
//! use stellane_core::connection::Incoming;
//! use stellane_core::{
//!     connection::{ConnectionManager, ListenConfig, Listener},
//!     engine::{Engine, PerCoreEngine},
//! };
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let connections = ConnectionManager::builder().build()?;
//! let engine = PerCoreEngine::builder().connections(&connections).cores(2).build();
//! engine.start()?;
//! let hello = tower::service_fn(|_: Request<Incoming>| async {
//!     Ok::<_, Infallible>(Response::new("hello".to_owned()))
//! });
//!
//! let mut options = ListenConfig::default();
//! options.sockets = 2;
//! let listeners = Listener::bind_all("127.0.0.1:0", &options).await?;
//! let serving = engine.serve(listeners, hello);
//! let stopping = engine.stop(Duration::from_secs(10));
//! let (served, stopped) = tokio::join!(serving, stopping);
//! served?;
//! assert_eq!(stopped.aborted, 0);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod config;
mod error;
mod handoff;
mod local;
mod metrics;
mod per_core;
mod shared;
#[cfg(feature = "engine-testing")]
pub mod testing;
mod thread;
pub(crate) mod thread_state;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

#[cfg(feature = "preset")]
pub(crate) use self::handoff::{Observe, ObserveThread, Place, here, leave};
pub use self::{
    config::{EngineConfig, EngineKind},
    error::EngineError,
    handoff::{HandoffEngine, HandoffEngineBuilder, HandoffStats},
    local::LocalHttpService,
    metrics::{CoreMetrics, EngineMetrics, StopReport},
    per_core::{PerCoreEngine, PerCoreEngineBuilder},
    shared::SharedEngine,
};
pub use crate::config_error::ConfigError;
use crate::connection::{ConnectInfo, HttpService, Listener};

/// Makes clones of a service, or of what makes one, for several threads: neither needs to be `Sync`.
pub(crate) fn cloner<S: Clone + Send>(service: S) -> impl Fn() -> S + Clone + Send + Sync {
    let service = Arc::new(Mutex::new(service));
    move || {
        service
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Runs a service on listeners.
///
/// The contract, checked by `engine::testing`:
///
/// - [`start`](Self::start) may be called again; [`serve`](Self::serve) starts what was not started.
/// - [`serve`](Self::serve) answers on every listener and ends when the engine stops. Dropping its future closes
///   its listeners and connections.
/// - [`stop`](Self::stop) loses no request that a client has sent: accepting ends, what is in progress is
///   answered, what is not done at the deadline is aborted and counted. Once stopped, an engine stays so.
/// - A handler that panics costs its own connection at most.
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// The name, for logs and metrics.
    fn name(&self) -> &'static str;

    /// Brings up threads and runtimes. Does nothing the second time.
    ///
    /// # Errors
    /// A thread or a runtime could not be made, or the engine was stopped.
    fn start(&self) -> Result<(), EngineError>;

    /// Serves `service` on every listener until the engine stops. May be called several times.
    fn serve<S: HttpService>(
        &self,
        listeners: Vec<Listener>,
        service: S,
    ) -> impl Future<Output = Result<(), EngineError>> + Send + 'static;

    /// As [`serve`](Self::serve), with a service of its own for each connection: see
    /// [`ConnectionManager::serve_with`](crate::connection::ConnectionManager::serve_with). An engine that knows of no
    /// such thing says so by an error.
    fn serve_make<S: HttpService>(
        &self,
        listeners: Vec<Listener>,
        make: impl Fn(&ConnectInfo) -> S + Clone + Send + Sync + 'static,
    ) -> impl Future<Output = Result<(), EngineError>> + Send + 'static {
        drop((listeners, make));
        let error = format!(
            "the engine `{}` makes no service for each connection",
            self.name()
        );
        async { Err(EngineError::Serve(error.into())) }
    }

    /// Ends all connections without losing a request, every [`serve`](Self::serve) with them, and the engine's
    /// threads.
    fn stop(&self, deadline: Duration) -> impl Future<Output = StopReport> + Send;

    /// What the engine is doing and did.
    fn metrics(&self) -> EngineMetrics;
}
