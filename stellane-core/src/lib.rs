//! The production runtime for axum, tonic and hyper: connection manager, engines, configuration and
//! the full-stack preset of Stellane.

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "connection")]
pub mod connection;
#[cfg(feature = "fault")]
pub mod fault;
#[cfg(feature = "hot-reload")]
pub mod hot_reload;
#[cfg(feature = "logging")]
pub mod logging;

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
