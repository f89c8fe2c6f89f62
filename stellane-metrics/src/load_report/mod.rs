//! How loaded this replica is, told with each answer, so that balancers choose the one that has most room: ORCA, as gRPC's
//! `weighted_round_robin` and Envoy's `client_side_weighted_round_robin` read it.
//!
//! ```
//! # fn main() -> Result<(), stellane_metrics::BuildError> {
//! use stellane_metrics::{HttpMetrics, LoadReportLayer, LoadReports, MetricsLayer};
//!
//! let http = HttpMetrics::builder().build()?;
//! let in_flight = http.clone();
//! let reports = LoadReports::builder(&http)
//!     // How full the service is: 1 is full, more is too much. Here 64 at a time are what it does well with.
//!     .application_utilization(move || Some(in_flight.stats().requests_in_flight as f64 / 64.0))
//!     .build()?;
//! // Around the service: tower::ServiceBuilder::new().layer(load).layer(metrics).service(…)
//! let (load, metrics) = (LoadReportLayer::new(&reports), MetricsLayer::new(&http));
//! # let _ = (load, metrics);
//! # Ok(()) }
//! ```
//!
//! # What is told, and where
//!
//! | client | field | form |
//! |---|---|---|
//! | gRPC | `endpoint-load-metrics-bin`, in the trailers, or in the head of an answer that is nothing else | the message `OrcaLoadReport` |
//! | any other | `endpoint-load-metrics`, in the head | text, as Envoy reads it |
//!
//! A balancer's weight of a replica is `rps_fractional / (utilization + penalty * eps / rps_fractional)`: requests per second, those of
//! them that failed, and `application_utilization`, else `cpu_utilization`. The rates and
//! `application_utilization` are averages of about a second, the rates those of [`HttpMetrics`](crate::HttpMetrics). Nothing is told in the first second of traffic, in which they are noise.
//!
//! A report is made ten times a second at most, whatever the number of requests, when one comes; an answer clones it. So put the layer
//! outside of [`MetricsLayer`](crate::MetricsLayer): else each request would find itself in flight. gRPC-Web, and who asked by
//! HTTP for gRPC's trailers, are told nothing in trailers.
//!
//! # Out of band
//!
//! A client may ask for reports on a stream of their own, at an interval that it names (`enable_oob_load_report`), so that it hears of
//! a replica that it sends nothing to: `OpenRcaService` (feature `tokio`; of tonic's routers by `tonic-014`). Put it
//! outside of limits, deadlines and [`MetricsLayer`](crate::MetricsLayer), in whose sight the streams would be requests without an
//! end, and call `LoadReports::end_streams` when the service is to end.
//!
//! # What it tells strangers
//!
//! Nobody takes the field from an answer on its way out: Envoy removes nothing by itself, and its `response_headers_to_remove` leaves
//! trailers. Where clients are the public, have the edge remove both, as `examples/deploy/envoy.yaml` does, or put the layer on a
//! listener that only the balancer reaches.

mod body;
mod layer;
#[cfg(feature = "tokio")]
mod out_of_band;
mod report;
mod reports;

pub use body::LoadReportBody;
pub use layer::{LoadReportFuture, LoadReportLayer, LoadReportService};
#[cfg(feature = "tokio")]
pub use out_of_band::{OpenRcaBody, OpenRcaService};
pub use report::LoadReport;
pub use reports::{LoadReports, LoadReportsBuilder};
