//! Request metrics, runtime metrics and an admin service for tower.
//!
//! - [`MetricsLayer`] measures the requests of any tower stack under OpenTelemetry's names, without allocating and
//!   without sharing a cache line between threads.
//! - [`RuntimeMetrics`] reads every component a few times a second: rates, percentiles, process, container, tokio.
//! - [`prometheus()`] renders both, and whatever the application records through the `metrics` facade, if it
//!   [asks for that](Prometheus::install).
//! - [`LoadReportLayer`] tells balancers of gRPC and Envoy, with each answer, how loaded this replica is.
//! - [`Admin`] serves it all: probes, text, JSON and a live page.
//!
//! ```
//! # #[cfg(all(feature = "admin", feature = "prometheus"))]
//! # fn main() -> Result<(), stellane_metrics::BuildError> {
//! use stellane_metrics::{
//!     Admin, HttpMetrics, MetricsLayer, Readiness, RuntimeMetrics, prometheus,
//! };
//!
//! let http = HttpMetrics::builder().build()?;
//! let layer = MetricsLayer::new(&http); // around your service
//! let runtime = RuntimeMetrics::builder().http(&http).build()?;
//! // Inside of a tokio runtime: tokio::spawn(runtime.clone().run());
//! let prometheus = prometheus().http(&http).runtime(&runtime).build()?;
//! let readiness = Readiness::new();
//! let admin = Admin::builder()
//!     .prometheus(prometheus)
//!     .runtime(runtime)
//!     .readiness(readiness.clone())
//!     .bound_to(([127, 0, 0, 1], 9090).into())
//!     .build()?;
//! # let _ = (layer, admin);
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "admin", feature = "prometheus")))]
//! # fn main() {}
//! ```
//!
//! # What it costs
//!
//! The bench `metrics_layer` of `examples/compare` prints nanoseconds and allocations per request beside `axum-prometheus` and
//! the bare macros of the facade, `metrics_layer_instructions` beside it the instructions. `grafana/` has a dashboard
//! and alert rules.
//!
//! # Tests that need more than cargo
//!
//! `cargo test -p stellane-metrics --test scrape -- --ignored` needs `prometheus`.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `admin` | yes | [`Admin`] |
//! | `prometheus` | yes | [`prometheus()`] |
//! | `serde` | yes | `Serialize` for configurations and snapshots |
//! | `tokio` | yes | `RuntimeMetrics::run`, metrics of the tokio runtime |
//! | `facade` | through `prometheus` | publishing to any recorder of the `metrics` facade |
//! | `tonic-014` | no | `OpenRcaService` for tonic's routers |
//! | `axum` | no | routes from `MatchedPath` |
//! | `tracing` | no | spans, `traceparent`, the slow-request log, the log-level handle |
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

#[cfg(feature = "admin")]
mod admin;
mod catalogue;
mod config;
pub mod embed;
#[cfg(feature = "facade")]
mod facade;
mod layer;
pub mod load_report;
#[cfg(feature = "prometheus")]
mod negotiate;
mod packed;
#[cfg(feature = "prometheus")]
mod prometheus;
mod readiness;
mod requests;
mod runtime;
mod sink;
mod text;
#[cfg(feature = "tracing")]
mod trace;

#[cfg(feature = "admin")]
pub use admin::{Admin, AdminBody, AdminBuilder, AdminService};
pub use catalogue::{Kind, Metric, catalogue};
pub use config::{BuildError, ConfigError, DurationBuckets, MetricsConfig};
#[cfg(feature = "facade")]
pub use facade::FacadePublisher;
#[cfg(feature = "axum")]
pub use layer::AxumRoute;
pub use layer::{
    MetricsBody, MetricsFuture, MetricsLayer, MetricsService, NoRoute, RequestBytesBody,
    RequestBytesLayer, RequestBytesService, RequestRoute, RequestScope, ResponseRoute,
    RouteLabelLayer, RouteLabelService, current_route, label_route,
};
pub use load_report::{
    LoadReport, LoadReportBody, LoadReportFuture, LoadReportLayer, LoadReportService, LoadReports,
    LoadReportsBuilder,
};
#[cfg(feature = "tokio")]
pub use load_report::{OpenRcaBody, OpenRcaService};
/// The facade this crate publishes to: use this one, so that both are the same version.
#[cfg(feature = "facade")]
pub use metrics;
#[cfg(feature = "prometheus")]
pub use prometheus::{Prometheus, PrometheusBuilder, TextBody, prometheus};
pub use readiness::{Dependency, DependencyHandle, DependencyStatus, Latch, Readiness};
pub use requests::{
    Exemplar, HttpMetrics, HttpMetricsBuilder, HttpStats, RouteHistory, RouteStats, RunningPoll,
};
pub use runtime::{
    Acceleration, Advice, ExecutorStats, Machine, RuntimeEvent, RuntimeHistory, RuntimeMetrics,
    RuntimeMetricsBuilder, RuntimeSnapshot, Threshold, Values,
};
#[cfg(feature = "tracing")]
pub use trace::{LogLevel, TraceBody, TraceContext, TraceFuture, TraceLayer, TraceService};
