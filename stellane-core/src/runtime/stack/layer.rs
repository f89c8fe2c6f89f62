use std::sync::Arc;

use stellane_autotune::AdaptiveLimitLayer;
use tower_layer::Layer;

use super::{in_flight::StackParts, label::tell_early, service::PresetService};
use crate::{
    config::ServerConfig,
    runtime::{
        Components,
        facts::Facts,
        refusal::OnRefusal,
        route_limits::{BodyLimits, OwnLimits},
    },
};

/// All that the [`Runtime`](crate::Runtime) puts around a service, as one layer for any stack of tower: made by
/// [`Components::layer`].
///
/// It is the fast form of [`Components::layers`], which are its specification.
///
/// It takes a service of `Request<RequestBody<B>>` and gives one of `Request<B>`, whatever the body `B` of the server
/// around it is. It stands for these layers, outermost first, and costs less: one future, one body and no allocation
/// for a request.
///
/// ```text
/// MetricsLayer ─▶ AdaptiveLimitLayer with OverloadLayer ─▶ PoolLayer ─▶ StrictHttp1Layer ─▶ CatchFaultsLayer ─▶ BodyLimitLayer
/// ```
///
/// Other layers stand on both sides of it. The body of its answers has an empty [`Default`], which is what tower-http's
/// layers of CORS, timeouts and authorization ask of what is inside of them. With `axum::serve`:
///
/// ```
/// use axum::{Router, extract::Request, routing::get};
/// use stellane_core::{Components, RuntimeConfig};
/// use tower::Layer;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let config = RuntimeConfig::default();
/// let components = Components::new(&config)?;
/// let app: Router = Router::new().route("/", get(async || "hello"));
/// let app = components.layer(&config.server).layer(app);
///
/// // It answers without a server too.
/// use tower::ServiceExt;
/// let answer = app.clone().oneshot(Request::new(axum::body::Body::empty())).await?;
/// assert_eq!(answer.status(), 200);
///
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let outside = Router::new().fallback_service(app);
/// let serving = axum::serve(listener, outside);
/// # drop(serving);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct PresetLayer {
    parts: Arc<StackParts>,
    #[cfg(feature = "profiling")]
    slow_polls: crate::profiling::SlowPolls,
}

impl PresetLayer {
    pub(in crate::runtime) fn new(
        components: &Components,
        server: &ServerConfig,
        limit: AdaptiveLimitLayer,
        own_limits: &OwnLimits,
        on_refusal: OnRefusal,
        wants_host: bool,
        facts: Option<Facts>,
    ) -> Self {
        let parts = StackParts {
            metrics: components.metrics.clone(),
            limit,
            pools: components.pools.clone(),
            faults: components.faults.clone(),
            rules: components.http1_rules.clone(),
            wants_host,
            facts,
            body_limits: BodyLimits::new(server.max_body_bytes, own_limits),
            on_refusal,
            memory: components.memory_if_on(),
            marks_requests: components.ledgers.mark_requests(),
            ledgers: components.ledgers.clone(),
            learned: components.held.learned().clone(),
        };
        Self {
            parts: Arc::new(parts),
            #[cfg(feature = "profiling")]
            slow_polls: components.slow_polls.clone(),
        }
    }
}

impl PresetLayer {
    pub(in crate::runtime) fn limit(&self) -> &AdaptiveLimitLayer {
        &self.parts.limit
    }
}

impl Components {
    /// All that the [`Runtime`](crate::Runtime) puts around a service, for any other server and any stack of tower. Of
    /// the configuration it takes `max_body_bytes`; `route_limits` are those that the components were made with. A request
    /// of HTTP/1.1 without a `Host` is let through: whether there has to be one is for the server around to say, and one
    /// that is made in a test has none. What the components do by themselves is [`run`](Self::run)'s.
    #[must_use]
    pub fn layer(&self, server: &ServerConfig) -> PresetLayer {
        let limit = self.limit_layer.clone().overload(&self.overload);
        // Out of a test a request has no host.
        PresetLayer::new(
            self,
            server,
            limit,
            &self.own_limits,
            OnRefusal::new(None, &self.faults),
            false,
            None,
        )
    }
}

impl<S: 'static> Layer<S> for PresetLayer {
    type Service = PresetService<S>;

    fn layer(&self, service: S) -> PresetService<S> {
        let routes_told = tell_early(&service);
        #[cfg(feature = "profiling")]
        let service = self
            .slow_polls
            .layer()
            .layer(super::label::Labelled(service));
        PresetService::new(service, Arc::clone(&self.parts), routes_told)
    }
}
