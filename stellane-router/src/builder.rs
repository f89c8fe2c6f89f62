//! Declaring routes.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use axum_core::BoxError;
use bytes::Bytes;
use http::{Method, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::body::Body;
use crate::compiled::{Compiled, Definition};
use crate::config::RouterConfig;
use crate::endpoint::{Endpoint, Route, ServiceEndpoint};
use crate::handler::{Handler, HandlerEndpoint};
use crate::report::BuildReport;
use crate::router::Router;
use crate::table::SlashPolicy;

/// Collects routes; the order in which they are added means nothing.
///
/// A builder is also a scope: [`nest`](Self::nest), [`merge`](Self::merge) and [`host`](Self::host)
/// take another builder with layers and a fallback of its own. All is flattened when built, so
/// nesting costs a request nothing.
#[must_use = "a builder does nothing until it is built"]
pub struct RouterBuilder<S = ()> {
    state: Arc<S>,
    routes: Vec<Definition>,
    fallbacks: Vec<Definition>,
    layers: Vec<Box<dyn Fn(Route) -> Route + Send + Sync>>,
    slash: Option<SlashPolicy>,
}

impl RouterBuilder {
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::new(()),
            routes: Vec::new(),
            fallbacks: Vec::new(),
            layers: Vec::new(),
            slash: None,
        }
    }
}

macro_rules! methods {
    ($($name:ident $method:ident)*) => {$(
        #[doc = concat!("Adds a handler for `", stringify!($method), "`.")]
        pub fn $name<M: 'static>(self, path: &str, handler: impl Handler<M, S>) -> Self {
            self.on(Method::$method, path, handler)
        }
    )*};
}

impl<S: Send + Sync + 'static> RouterBuilder<S> {
    methods! { get GET post POST put PUT patch PATCH delete DELETE head HEAD options OPTIONS trace TRACE }

    /// Adds a handler for a method, also one that is not standard.
    pub fn on<M: 'static>(self, method: Method, path: &str, handler: impl Handler<M, S>) -> Self {
        self.add(Some(method), path, |state| {
            Arc::new(HandlerEndpoint::new(handler, state))
        })
    }

    /// Adds a handler for all methods that have none of their own at this path.
    pub fn any<M: 'static>(self, path: &str, handler: impl Handler<M, S>) -> Self {
        self.add(None, path, |state| {
            Arc::new(HandlerEndpoint::new(handler, state))
        })
    }

    /// Adds a tower service for a method; it is cloned for every request.
    ///
    /// It finds the match in the body of its request: [`Body::route_match`].
    pub fn route<T, B>(self, method: Method, path: &str, service: T) -> Self
    where
        T: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        T::Error: Into<Infallible>,
        T::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.add(Some(method), path, |_| Arc::new(ServiceEndpoint(service)))
    }

    /// Adds a tower service for all methods that have nothing of their own at this path.
    pub fn any_service<T, B>(self, path: &str, service: T) -> Self
    where
        T: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        T::Error: Into<Infallible>,
        T::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.add(None, path, |_| Arc::new(ServiceEndpoint(service)))
    }

    /// Answers what no route of this scope matches, instead of 404; an inner scope's is preferred.
    ///
    /// A path that exists with other methods gets its 405 all the same.
    pub fn fallback<M: 'static>(mut self, handler: impl Handler<M, S>) -> Self {
        let endpoint: Arc<dyn Endpoint> =
            Arc::new(HandlerEndpoint::new(handler, Arc::clone(&self.state)));
        self.fallbacks
            .retain(|f| !f.template.is_empty() || f.host.is_some());
        self.fallbacks
            .push(Definition::new(String::new(), None, Some(endpoint)));
        self
    }

    /// Adds all routes of another scope below a prefix; its `/` becomes the prefix itself.
    ///
    /// Handlers see the whole path and template.
    ///
    /// ```
    /// use stellane_router::Router;
    ///
    /// let api = Router::builder().get("/", async || "index").get("/users", async || "users");
    /// let router = Router::builder().nest("/api", api).build()?;
    /// let templates: Vec<_> = router.routes().iter().map(|r| r.template().to_owned()).collect();
    /// assert_eq!(templates, ["/api", "/api/users"]);
    /// # Ok::<(), stellane_router::BuildReport>(())
    /// ```
    pub fn nest<S2: Send + Sync + 'static>(
        mut self,
        prefix: &str,
        scope: RouterBuilder<S2>,
    ) -> Self {
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let (routes, fallbacks) = scope.flatten();
        self.routes.extend(routes.into_iter().map(|mut route| {
            // Left alone, it is refused when built: a path begins with `/`.
            if !route.template.starts_with('/') {
                return route;
            }
            let below = if route.template == "/" {
                ""
            } else {
                &route.template
            };
            route.template = match format!("{prefix}{below}") {
                path if path.is_empty() => "/".to_owned(),
                path => path,
            };
            route
        }));
        self.fallbacks
            .extend(fallbacks.into_iter().map(|mut fallback| {
                fallback.template.insert_str(0, prefix);
                fallback
            }));
        self
    }

    /// Adds all routes of another scope, so that its layers apply to them and to nothing else.
    pub fn merge<S2: Send + Sync + 'static>(self, scope: RouterBuilder<S2>) -> Self {
        self.nest("", scope)
    }

    /// Adds all routes of another scope for one host, or all below `*.example`.
    ///
    /// A path the host's routes do not have is looked for among the routes without host.
    pub fn host<S2: Send + Sync + 'static>(mut self, host: &str, scope: RouterBuilder<S2>) -> Self {
        let (routes, fallbacks) = scope.flatten();
        let bound = |mut definition: Definition| {
            definition.host.get_or_insert_with(|| host.to_owned());
            definition
        };
        self.routes.extend(routes.into_iter().map(bound));
        self.fallbacks.extend(fallbacks.into_iter().map(bound));
        self
    }

    /// Wraps all routes and the fallback of this scope, those added later too.
    ///
    /// As in a `ServiceBuilder`, the first layer added is the outermost. What the router answers by
    /// itself (404, 405, `OPTIONS`, redirects) is outside: to wrap that, put the layer around the
    /// router.
    pub fn layer<L, B>(mut self, layer: L) -> Self
    where
        L: Layer<Route> + Send + Sync + 'static,
        L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request<Body>>>::Error: Into<Infallible>,
        <L::Service as Service<Request<Body>>>::Future: Send,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.layers.push(Box::new(move |route| {
            Route(Arc::new(ServiceEndpoint(layer.layer(route))))
        }));
        self
    }

    /// The state of the handlers added from here on; `FromRequestParts<S>` gets it by reference.
    ///
    /// ```
    /// use axum::extract::State;
    /// use stellane_router::Router;
    ///
    /// let router = Router::builder()
    ///     .with_state("the database")
    ///     .get("/", async |State(db): State<&'static str>| db)
    ///     .build()?;
    /// # Ok::<(), stellane_router::BuildReport>(())
    /// ```
    pub fn with_state<S2>(self, state: S2) -> RouterBuilder<S2> {
        RouterBuilder {
            state: Arc::new(state),
            routes: self.routes,
            fallbacks: self.fallbacks,
            layers: self.layers,
            slash: self.slash,
        }
    }

    /// What a path with one slash too many or too few at its end gets, in this scope and in those
    /// inside it that have no policy of their own; [`SlashPolicy::Strict`] by default.
    ///
    /// ```
    /// use stellane_router::{Router, SlashPolicy};
    ///
    /// let pages = Router::builder().slash(SlashPolicy::Redirect).get("/about", async || "about");
    /// let api = Router::builder().get("/users", async || "users");
    /// let router = Router::builder().merge(pages).nest("/api", api).build()?;
    /// // `/about/` is redirected to `/about`, `/api/users/` is not found.
    /// # Ok::<(), stellane_router::BuildReport>(())
    /// ```
    pub const fn slash(mut self, policy: SlashPolicy) -> Self {
        self.slash = Some(policy);
        self
    }

    /// Sets all that a [`RouterConfig`] holds.
    pub const fn config(self, config: &RouterConfig) -> Self {
        self.slash(config.slash)
    }

    /// Compiles the routes.
    ///
    /// # Errors
    ///
    /// Everything wrong with them at once: templates that cannot be read, conflicts with a path
    /// that proves each, routes that can never answer.
    pub fn build(self) -> Result<Router, BuildReport> {
        let (routes, fallbacks) = self.flatten();
        Compiled::build(routes, fallbacks).map(Router::from_compiled)
    }

    fn add(
        mut self,
        method: Option<Method>,
        path: &str,
        endpoint: impl FnOnce(Arc<S>) -> Arc<dyn Endpoint>,
    ) -> Self {
        let endpoint = endpoint(Arc::clone(&self.state));
        self.routes
            .push(Definition::new(path.to_owned(), method, Some(endpoint)));
        self
    }

    /// The routes and fallbacks of this scope, its layers around them.
    fn flatten(self) -> (Vec<Definition>, Vec<Definition>) {
        let Self {
            mut routes,
            mut fallbacks,
            layers,
            slash,
            state: _,
        } = self;
        for definition in routes.iter_mut().chain(&mut fallbacks) {
            definition.slash = definition.slash.or(slash);
            let Some(endpoint) = definition.endpoint.take() else {
                continue;
            };
            let route = layers
                .iter()
                .rev()
                .fold(Route(endpoint), |route, layer| layer(route));
            definition.endpoint = Some(route.0);
        }
        (routes, fallbacks)
    }
}

impl<S> fmt::Debug for RouterBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes = self.routes.iter().map(|r| (&r.method, &r.template));
        f.debug_list().entries(routes).finish()
    }
}
