use http::{Request, Response};
use tower_layer::Layer;

use super::{NoRoute, service::MetricsService};
use crate::HttpMetrics;

/// Measures every request that passes, in any tower stack.
///
/// Put it outside of compression (sizes are those on the wire) and outside of load shedding (refusals count).
/// No allocation per request once a route, method and status were seen; the one thing that threads share is the count of
/// who holds the table, changed when a request comes and when it goes.
///
/// The route template comes, in this order of precedence, from the response
/// ([`route_from_response`](Self::route_from_response)), from an inner layer that calls
/// [`label_route`](crate::label_route), or from the request ([`route_from_request`](Self::route_from_request)).
///
/// A request ends when its response body ends. One that is dropped before is counted once, with
/// `error_type="cancelled"` and the status 499 if it had none yet.
///
/// ```
/// use http::Request;
/// use stellane_metrics::{HttpMetrics, MetricsLayer};
///
/// # fn main() -> Result<(), stellane_metrics::BuildError> {
/// #[derive(Clone)]
/// struct Template(&'static str);
///
/// let http = HttpMetrics::builder().build()?;
/// let layer = MetricsLayer::new(&http).route_from_request(|request: &Request<String>| {
///     request.extensions().get::<Template>().map(|template| template.0)
/// });
/// # let _ = layer;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MetricsLayer<Q = NoRoute, R = NoRoute> {
    http: HttpMetrics,
    request_route: Q,
    response_route: R,
}

impl MetricsLayer {
    /// Writes to this table.
    pub fn new(http: &HttpMetrics) -> Self {
        Self {
            http: http.clone(),
            request_route: NoRoute,
            response_route: NoRoute,
        }
    }
}

impl<Q, R> MetricsLayer<Q, R> {
    /// Takes the route template from the request, before the inner service is called.
    #[must_use]
    pub fn route_from_request<B, F>(self, find: F) -> MetricsLayer<F, R>
    where
        F: for<'a> Fn(&'a Request<B>) -> Option<&'a str>,
    {
        self.with_request_route(find)
    }

    /// Takes the route template from the response: an extension, or its body.
    #[must_use]
    pub fn route_from_response<B, F>(self, find: F) -> MetricsLayer<Q, F>
    where
        F: for<'a> Fn(&'a Response<B>) -> Option<&'a str>,
    {
        self.with_response_route(find)
    }

    /// As [`route_from_request`](Self::route_from_request), with a type that knows requests of any body.
    #[must_use]
    pub fn with_request_route<F>(self, find: F) -> MetricsLayer<F, R> {
        MetricsLayer {
            http: self.http,
            request_route: find,
            response_route: self.response_route,
        }
    }

    /// As [`route_from_response`](Self::route_from_response), with a type that knows responses of any body.
    ///
    /// ```
    /// use http::Response;
    /// use stellane_metrics::{HttpMetrics, MetricsLayer, ResponseRoute};
    ///
    /// #[derive(Clone)]
    /// struct Template(&'static str);
    ///
    /// #[derive(Clone)]
    /// struct FromExtension;
    ///
    /// impl<B> ResponseRoute<B> for FromExtension {
    ///     fn route<'a>(&self, response: &'a Response<B>) -> Option<&'a str> {
    ///         response.extensions().get::<Template>().map(|template| template.0)
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), stellane_metrics::BuildError> {
    /// let layer = MetricsLayer::new(&HttpMetrics::builder().build()?).with_response_route(FromExtension);
    /// # let _ = layer;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_response_route<F>(self, find: F) -> MetricsLayer<Q, F> {
        MetricsLayer {
            http: self.http,
            request_route: self.request_route,
            response_route: find,
        }
    }

    /// Takes the route template from axum's `MatchedPath`, for use in `Router::layer` or `Router::route_layer`.
    ///
    /// Around a whole router the request carries none yet: put [`RouteLabelLayer::axum`](crate::RouteLabelLayer::axum) inside.
    #[cfg(feature = "axum")]
    #[must_use]
    pub fn route_from_axum(self) -> MetricsLayer<super::route::AxumRoute, R> {
        self.with_request_route(super::route::AxumRoute)
    }
}

impl<S, Q: Clone, R: Clone> Layer<S> for MetricsLayer<Q, R> {
    type Service = MetricsService<S, Q, R>;

    fn layer(&self, inner: S) -> Self::Service {
        MetricsService {
            inner,
            http: self.http.clone(),
            request_route: self.request_route.clone(),
            response_route: self.response_route.clone(),
        }
    }
}
