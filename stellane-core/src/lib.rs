//! The production runtime for axum, tonic and hyper: connection manager, configuration and the
//! full-stack preset of Stellane.

#[cfg(feature = "config")]
pub mod config;
#[cfg(any(
    feature = "connection",
    feature = "engine-selector",
    feature = "layers"
))]
mod config_error;
#[cfg(feature = "connection")]
pub mod connection;
#[cfg(any(feature = "reload", feature = "tls"))]
mod detached;
#[cfg(feature = "engine")]
pub mod engine;
#[cfg(feature = "engine-selector")]
pub mod engine_selector;
#[cfg(feature = "layers")]
pub mod fault;
#[cfg(feature = "hot-reload")]
pub mod hot_reload;
#[cfg(feature = "logging")]
pub mod logging;
#[cfg(feature = "engine-selector")]
pub mod prepared;
#[cfg(feature = "profiling")]
pub mod profiling;
#[cfg(all(unix, feature = "restart"))]
pub mod restart;
#[cfg(feature = "preset")]
pub mod runtime;
#[cfg(feature = "service-builder")]
mod service_builder;
#[cfg(feature = "layers")]
pub mod strict_http1;
#[cfg(any(feature = "connection", feature = "layers"))]
mod transfer_coding;

#[cfg(feature = "config")]
#[doc(inline)]
pub use config::RuntimeConfig;
#[cfg(feature = "connection")]
#[doc(inline)]
pub use connection::drain_token;
#[cfg(feature = "axum-08")]
#[doc(inline)]
pub use runtime::axum_listener;
#[cfg(feature = "preset")]
#[doc(inline)]
pub use runtime::{
    App, BoxApp, Components, HyperService, IntoListener, PresetLayer, RefusalKind, RequestBody,
    RequestBodyError, Runtime, RuntimeError, connections, serve, serve_make,
};
#[cfg(feature = "service-builder")]
#[doc(inline)]
pub use service_builder::StellaneBuilderExt;
/// The crates of the components, as this version of the preset uses them.
#[cfg(feature = "autotune")]
pub use stellane_autotune as autotune;
#[cfg(feature = "metrics")]
pub use stellane_metrics as metrics;
#[cfg(feature = "pool")]
pub use stellane_pool as pool;
#[cfg(feature = "router")]
pub use stellane_router as router;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Compiles the snippets of the README.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../../README.md")]
struct Readme;
