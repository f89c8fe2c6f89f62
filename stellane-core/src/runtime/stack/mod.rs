//! The layers around the user's service.
//!
//! Each request goes through metrics, deadlines, the limit, pools, the checks of strict HTTP/1, the body limit and
//! [`FaultLayer`]. As many layers would move request and response as often, and count as many references: they are
//! one [service](service), with one future and one body, and what they keep for a request lies in one box that the
//! thread [uses again](ongoing). Requests that the limit does not let in at once are [rare](limited), and take the
//! layers themselves.

mod body;
mod future;
mod label;
mod limited;
mod ongoing;
mod service;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use stellane_autotune::AdaptiveLimitLayer;
use tower_service::Service;

use self::{ongoing::Parts, service::Preset};
use super::{Components, RequestBody, refusal::OnRefusal};
use crate::{BoxError, config::ServerConfig, connection::HttpService};

/// Outermost first: metrics see every answer, refusals too; a fault below the limit gives its place back.
pub(super) fn around<S, B>(
    service: S,
    components: &Components,
    server: &ServerConfig,
    limit: AdaptiveLimitLayer,
    on_refusal: OnRefusal,
) -> impl HttpService
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError> + Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let parts = Parts {
        routes_told: label::tell_early(&service),
        metrics: components.metrics,
        limit,
        pools: components.pools.clone(),
        faults: components.faults.clone(),
        rules: components.http1_rules.clone(),
        max_body_bytes: match usize::try_from(server.max_body_bytes) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(bytes) => bytes,
        },
        on_refusal,
    };
    #[cfg(feature = "profiling")]
    let service =
        tower_layer::Layer::layer(&components.slow_polls.layer(), label::Labelled(service));
    Preset::new(service, Arc::new(parts))
}
