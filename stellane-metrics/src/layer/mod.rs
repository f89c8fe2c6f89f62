//! [`MetricsLayer`]: one place sees every request start, end, be cancelled and fail.

mod body;
mod future;
#[expect(
    clippy::module_inception,
    reason = "one middleware is one folder: layer.rs, service.rs, future.rs"
)]
mod layer;
mod request_body;
mod route;
pub(crate) mod scope;
mod service;

pub use body::MetricsBody;
pub use future::MetricsFuture;
pub use layer::MetricsLayer;
pub use request_body::{RequestBytesBody, RequestBytesLayer, RequestBytesService};
#[cfg(feature = "axum")]
pub use route::AxumRoute;
pub use route::{NoRoute, RequestRoute, ResponseRoute, RouteLabelLayer, RouteLabelService};
pub use scope::{Entered, RequestScope, current_route, is_labelled, label_route};
pub use service::MetricsService;
