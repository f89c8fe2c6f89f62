//! The layers of a scope, and what becomes of it when it is flattened.

use std::{convert::Infallible, sync::Arc};

use axum_core::{BoxError, response::IntoResponse};
use bytes::Bytes;
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    builder::{RouterBuilder, Wrap},
    compiled::Definition,
    endpoint::{OwnEndpoint, Route, ScopeService, ServiceEndpoint, TakesAxumBody},
    types::{Body, Endpoint},
};

impl<S: Send + Sync + 'static> RouterBuilder<S> {
    /// Wraps all routes and the fallback of this scope, those added later too, and what the router answers by
    /// itself to paths of the scope: 405 and `OPTIONS`. So a CORS layer answers preflights.
    ///
    /// As in a `ServiceBuilder`, the first layer added is the outermost. What belongs to no scope (404,
    /// redirects) is outside: to wrap that, put the layer around the router.
    ///
    /// ```
    /// use stellane_router::Router;
    /// use tower::util::MapResponseLayer;
    ///
    /// let router = Router::builder()
    ///     .get("/users", async || "users")
    ///     .layer(MapResponseLayer::new(|response: http::Response<stellane_router::Body>| response))
    ///     .build()?;
    /// # Ok::<(), stellane_router::BuildReport>(())
    /// ```
    pub fn layer<L>(self, layer: L) -> Self
    where
        L: Layer<Route> + Send + Sync + 'static,
        L::Service: ScopeService,
    {
        self.wrap(false, move |route| layer.layer(route).into_route(false))
    }

    /// Like [`layer`](Self::layer), around the routes only: neither the fallback nor 405 and `OPTIONS` of the
    /// router itself. For authorisation, which should not make a 401 of a 404.
    pub fn route_layer<L>(self, layer: L) -> Self
    where
        L: Layer<Route> + Send + Sync + 'static,
        L::Service: ScopeService,
    {
        self.wrap(true, move |route| layer.layer(route).into_route(false))
    }

    /// Like [`layer`](Self::layer), for one whose service can fail, and what the error is answered with.
    ///
    /// ```
    /// use http::StatusCode;
    /// use stellane_router::Router;
    /// use tower::limit::ConcurrencyLimitLayer;
    /// use tower::load_shed::LoadShedLayer;
    /// use tower::layer::util::Stack;
    ///
    /// let limit = Stack::new(ConcurrencyLimitLayer::new(100), LoadShedLayer::new());
    /// let router = Router::builder()
    ///     .get("/users", async || "users")
    ///     .try_layer(limit, |_error| StatusCode::SERVICE_UNAVAILABLE)
    ///     .build()?;
    /// # Ok::<(), stellane_router::BuildReport>(())
    /// ```
    pub fn try_layer<L, B, R>(
        self,
        layer: L,
        on_error: impl Fn(<L::Service as Service<Request<Body>>>::Error) -> R
        + Clone
        + Send
        + Sync
        + 'static,
    ) -> Self
    where
        L: Layer<Route> + Send + Sync + 'static,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
        R: IntoResponse,
    {
        self.wrap(false, move |route| {
            let on_error = on_error.clone();
            let on_error = move |error| on_error(error).into_response().map(Body::new);
            let endpoint = ServiceEndpoint::new(layer.layer(route), on_error, false);
            Route::to(Arc::new(endpoint))
        })
    }

    /// Like [`layer`](Self::layer), for one whose service takes axum's body: `axum::middleware::from_fn` and
    /// its like.
    ///
    /// ```
    /// use axum::{extract::Request, middleware::{Next, from_fn}, response::Response};
    /// use stellane_router::Router;
    ///
    /// async fn log(request: Request, next: Next) -> Response {
    ///     println!("{}", request.uri());
    ///     next.run(request).await
    /// }
    ///
    /// let router = Router::builder()
    ///     .get("/users", async || "users")
    ///     .axum_layer(from_fn(log))
    ///     .build()?;
    /// # Ok::<(), stellane_router::BuildReport>(())
    /// ```
    pub fn axum_layer<L, B>(self, layer: L) -> Self
    where
        L: Layer<Route> + Send + Sync + 'static,
        L::Service: Service<Request<axum_core::body::Body>, Response = Response<B>>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as Service<Request<axum_core::body::Body>>>::Error: Into<Infallible>,
        <L::Service as Service<Request<axum_core::body::Body>>>::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.wrap(false, move |route| {
            TakesAxumBody(layer.layer(route)).into_route(false)
        })
    }
}

impl<S> RouterBuilder<S> {
    fn wrap(
        mut self,
        routes_only: bool,
        layer: impl Fn(Route) -> Route + Send + Sync + 'static,
    ) -> Self {
        self.wraps.push(Wrap {
            routes_only,
            layer: Box::new(layer),
        });
        self
    }

    /// The routes and fallbacks of another scope, and what is wrong with them.
    pub(crate) fn take<S2>(
        &mut self,
        mut scope: RouterBuilder<S2>,
    ) -> (Vec<Definition>, Vec<Definition>) {
        self.problems.append(&mut scope.problems);
        scope.flatten()
    }

    /// The routes and fallbacks of this scope, its layers around them.
    pub(crate) fn flatten(self) -> (Vec<Definition>, Vec<Definition>) {
        let Self {
            mut routes,
            mut fallbacks,
            not_allowed,
            wraps,
            slash,
            ..
        } = self;
        // The first layer is the outermost.
        let wrapped = |endpoint: Arc<dyn Endpoint>, route: bool| {
            let wraps = wraps.iter().rev().filter(|wrap| route || !wrap.routes_only);
            wraps
                .fold(Route::to(endpoint), |route, wrap| (wrap.layer)(route))
                .endpoint()
        };
        let around_own = wraps.iter().any(|wrap| !wrap.routes_only);
        for route in &mut routes {
            route.slash = route.slash.or(slash);
            route.not_allowed = route.not_allowed.take().or_else(|| not_allowed.clone());
            route.endpoint = route
                .endpoint
                .take()
                .map(|endpoint| wrapped(endpoint, true));
            if around_own {
                let own = route.own.take().unwrap_or_else(|| Arc::new(OwnEndpoint));
                route.own = Some(wrapped(own, false));
            }
        }
        for fallback in &mut fallbacks {
            fallback.endpoint = fallback
                .endpoint
                .take()
                .map(|endpoint| wrapped(endpoint, false));
        }
        (routes, fallbacks)
    }
}
