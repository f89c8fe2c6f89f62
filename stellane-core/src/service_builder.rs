//! Every layer as a method of tower's `ServiceBuilder`.

#[cfg(feature = "metrics")]
use http::Request;
use tower::ServiceBuilder;
use tower_layer::Stack;

/// Every layer of Stellane as a method of tower's [`ServiceBuilder`]. No name is one of tower's or of
/// `tower_http::ServiceBuilderExt`: all three can be used in one chain.
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response};
/// use stellane_core::{StellaneBuilderExt, autotune::AdaptiveLimit, catch_faults::Faults, metrics::HttpMetrics};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_http::ServiceBuilderExt;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let (metrics, limit, faults) =
///     (HttpMetrics::builder().build()?, AdaptiveLimit::builder().build()?, Faults::new());
/// let service = ServiceBuilder::new()
///     .propagate_x_request_id() // tower-http's,
///     .http_metrics(&metrics) // ours,
///     .adaptive_limit(&limit)
///     .catch_faults(&faults)
///     .map_request(|request| request) // and tower's
///     .service(service_fn(async |_: Request<_>| {
///         Ok::<_, Infallible>(Response::new("hello".to_owned()))
///     }));
/// let response = service.oneshot(Request::new(String::new())).await?;
/// assert_eq!(response.status(), 200);
/// assert_eq!(limit.stats().successes, 1);
/// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
/// # })?;
/// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub trait StellaneBuilderExt<L>: sealed::Builder<L> + Sized {
    /// [`AdaptiveLimitLayer`](stellane_autotune::AdaptiveLimitLayer): no more requests at a time than the service does
    /// well with.
    #[cfg(feature = "autotune")]
    fn adaptive_limit(
        self,
        limit: &stellane_autotune::AdaptiveLimit,
    ) -> ServiceBuilder<Stack<stellane_autotune::AdaptiveLimitLayer, L>> {
        self.add(stellane_autotune::AdaptiveLimitLayer::new(limit))
    }

    /// [`OverloadLayer`](stellane_autotune::OverloadLayer): the deadlines that requests bring along.
    #[cfg(feature = "autotune")]
    fn deadlines(
        self,
        overload: &stellane_autotune::OverloadLayer,
    ) -> ServiceBuilder<Stack<stellane_autotune::OverloadLayer, L>> {
        self.add(overload.clone())
    }

    /// [`RateLimitLayer`](stellane_autotune::RateLimitLayer): how often each key may ask.
    #[cfg(feature = "autotune")]
    fn limit_rate(
        self,
        layer: &stellane_autotune::RateLimitLayer,
    ) -> ServiceBuilder<Stack<stellane_autotune::RateLimitLayer, L>> {
        self.add(layer.clone())
    }

    /// [`AutoTuneLayer`](stellane_autotune::AutoTuneLayer): a tuner of the stack further in.
    #[cfg(feature = "autotune")]
    fn auto_tune(
        self,
        layer: &stellane_autotune::AutoTuneLayer,
    ) -> ServiceBuilder<Stack<stellane_autotune::AutoTuneLayer, L>> {
        self.add(layer.clone())
    }

    /// [`MetricsLayer`](stellane_metrics::MetricsLayer): every request measured.
    #[cfg(feature = "metrics")]
    fn http_metrics(
        self,
        metrics: &stellane_metrics::HttpMetrics,
    ) -> ServiceBuilder<Stack<stellane_metrics::MetricsLayer, L>> {
        self.add(stellane_metrics::MetricsLayer::new(metrics))
    }

    /// [`LoadReportLayer`](stellane_metrics::LoadReportLayer): balancers are told how loaded this replica is.
    #[cfg(feature = "metrics")]
    fn report_load(
        self,
        reports: &stellane_metrics::LoadReports,
    ) -> ServiceBuilder<Stack<stellane_metrics::LoadReportLayer, L>> {
        self.add(stellane_metrics::LoadReportLayer::new(reports))
    }

    /// [`RouteLabelLayer`](stellane_metrics::RouteLabelLayer): tells the metrics further out the route, which `find`
    /// finds in the request.
    #[cfg(feature = "metrics")]
    fn label_route<B, F>(
        self,
        find: F,
    ) -> ServiceBuilder<Stack<stellane_metrics::RouteLabelLayer<F>, L>>
    where
        F: for<'a> Fn(&'a Request<B>) -> Option<&'a str>,
    {
        self.add(stellane_metrics::RouteLabelLayer::new(find))
    }

    /// [`PoolLayer`](stellane_pool::PoolLayer): pools within reach of handlers that use them.
    #[cfg(feature = "pool")]
    fn pools(
        self,
        pools: &stellane_pool::Pools,
    ) -> ServiceBuilder<Stack<stellane_pool::PoolLayer, L>> {
        self.add(stellane_pool::PoolLayer::new(pools))
    }

    /// [`WorkerPoolLayer`](stellane_pool::WorkerPoolLayer): what is further in runs on threads of its own.
    #[cfg(feature = "workers")]
    fn on_workers(
        self,
        workers: &stellane_pool::WorkerPool,
    ) -> ServiceBuilder<Stack<stellane_pool::WorkerPoolLayer, L>> {
        self.add(stellane_pool::WorkerPoolLayer::new(workers))
    }

    /// [`InternLayer`](stellane_router::InternLayer): headers, tenants or claims, interned.
    #[cfg(feature = "router")]
    fn intern(
        self,
        layer: &stellane_router::InternLayer,
    ) -> ServiceBuilder<Stack<stellane_router::InternLayer, L>> {
        self.add(layer.clone())
    }

    /// [`RouteLayer`](stellane_router::RouteLayer): the route of each request, for whatever is further in.
    #[cfg(feature = "router")]
    fn match_routes(
        self,
        layer: &stellane_router::RouteLayer,
    ) -> ServiceBuilder<Stack<stellane_router::RouteLayer, L>> {
        self.add(layer.clone())
    }

    /// [`CatchFaultsLayer`](crate::catch_faults::CatchFaultsLayer): panics and errors become responses.
    #[cfg(feature = "layers")]
    fn catch_faults(
        self,
        faults: &crate::catch_faults::Faults,
    ) -> ServiceBuilder<Stack<crate::catch_faults::CatchFaultsLayer, L>> {
        self.add(crate::catch_faults::CatchFaultsLayer::new(faults))
    }

    /// [`StrictHttp1Layer`](crate::strict_http1::StrictHttp1Layer): ambiguous requests are refused.
    #[cfg(feature = "layers")]
    fn strict_http1(
        self,
        rules: &crate::strict_http1::Http1Rules,
    ) -> ServiceBuilder<Stack<crate::strict_http1::StrictHttp1Layer, L>> {
        self.add(crate::strict_http1::StrictHttp1Layer::new(rules))
    }

    /// [`PreparedLayer`](crate::prepared::PreparedLayer): what is prepared is answered from memory.
    #[cfg(feature = "engine-selector")]
    fn prepared(
        self,
        prepared: &crate::prepared::Prepared,
    ) -> ServiceBuilder<Stack<crate::prepared::PreparedLayer, L>> {
        self.add(crate::prepared::PreparedLayer::new(prepared))
    }

    /// [`EngineSelectorLayer`](crate::engine_selector::EngineSelectorLayer): chosen routes go to an accelerated service.
    #[cfg(feature = "engine-selector")]
    fn accelerate<A>(
        self,
        selector: &crate::engine_selector::EngineSelector,
        accelerated: A,
    ) -> ServiceBuilder<Stack<crate::engine_selector::EngineSelectorLayer<A>, L>> {
        self.add(crate::engine_selector::EngineSelectorLayer::new(
            selector,
            accelerated,
        ))
    }

    /// [`AccessLogLayer`](crate::access_log::AccessLogLayer): a line for each request.
    #[cfg(all(feature = "layers", feature = "logging"))]
    fn access_log(
        self,
        layer: &crate::access_log::AccessLogLayer,
    ) -> ServiceBuilder<Stack<crate::access_log::AccessLogLayer, L>> {
        self.add(layer.clone())
    }

    /// [`OnDisconnectLayer`](crate::OnDisconnectLayer): what becomes of a handler whose client has left.
    #[cfg(feature = "on-disconnect")]
    fn on_disconnect(
        self,
        layer: &crate::OnDisconnectLayer,
    ) -> ServiceBuilder<Stack<crate::OnDisconnectLayer, L>> {
        self.add(layer.clone())
    }

    /// [`LiveReloadLayer`](crate::hot_reload::LiveReloadLayer): open pages reload when the service restarts.
    #[cfg(feature = "hot-reload")]
    fn live_reload(self) -> ServiceBuilder<Stack<crate::hot_reload::LiveReloadLayer, L>> {
        self.add(crate::hot_reload::LiveReloadLayer::new())
    }
}

impl<L> StellaneBuilderExt<L> for ServiceBuilder<L> {}

mod sealed {
    use super::{ServiceBuilder, Stack};

    pub trait Builder<L> {
        fn add<T>(self, layer: T) -> ServiceBuilder<Stack<T, L>>;
    }

    impl<L> Builder<L> for ServiceBuilder<L> {
        fn add<T>(self, layer: T) -> ServiceBuilder<Stack<T, L>> {
            self.layer(layer)
        }
    }
}
