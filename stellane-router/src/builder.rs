//! Declaring routes.

use std::{fmt, sync::Arc};

use http::Method;

#[cfg(feature = "axum-08")]
use crate::handler::{WithAxums, may_be_foreign};
use crate::{
    compiled::Definition,
    config::RouterConfig,
    endpoint::{Route, ScopeService},
    foreign::{ForeignExtractor, Reads, foreign},
    handler::{Handler, HandlerEndpoint},
    methods::IntoMethods,
    report::{BuildReport, Problem},
    router::Router,
    types::{Compiled, Endpoint, SlashPolicy},
};

/// Collects routes; the order in which they are added means nothing.
///
/// A builder is also a scope: [`nest`](Self::nest), [`merge`](Self::merge) and [`host`](Self::host)
/// take another builder with layers and a fallback of its own. All is flattened when built, so
/// nesting costs a request nothing.
#[must_use = "a builder does nothing until it is built"]
pub struct RouterBuilder<S = ()> {
    state: Arc<S>,
    pub(crate) routes: Vec<Definition>,
    pub(crate) fallbacks: Vec<Definition>,
    pub(crate) not_allowed: Option<Arc<dyn Endpoint>>,
    pub(crate) wraps: Vec<Wrap>,
    pub(crate) slash: Option<SlashPolicy>,
    /// How many routes the last call added.
    added: usize,
    pub(crate) problems: Vec<Problem>,
}

/// A layer of a scope.
pub(crate) struct Wrap {
    /// Around neither the fallback nor the answers of the router itself.
    pub(crate) routes_only: bool,
    pub(crate) layer: Box<dyn Fn(Route) -> Route + Send + Sync>,
}

impl Router {
    /// Begins a router without state.
    pub fn builder() -> RouterBuilder {
        RouterBuilder::new()
    }
}

impl RouterBuilder {
    fn new() -> Self {
        Self {
            state: Arc::new(()),
            routes: Vec::new(),
            fallbacks: Vec::new(),
            not_allowed: None,
            wraps: Vec::new(),
            slash: None,
            added: 0,
            problems: Vec::new(),
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

    /// Adds a handler for a method, also one that is not standard, or for several at once.
    ///
    /// ```
    /// use http::Method;
    /// use stellane_router::Router;
    ///
    /// let router = Router::builder()
    ///     .on([Method::PUT, Method::PATCH], "/users/{id}", async || "changed")
    ///     .on(Method::from_bytes(b"PURGE")?, "/cache", async || "purged")
    ///     .build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on<M: 'static>(
        self,
        methods: impl IntoMethods,
        path: &str,
        handler: impl Handler<M, S>,
    ) -> Self {
        let methods = methods.into_methods().into_iter().map(Some);
        let (this, endpoint, foreign) = self.handler(path, handler);
        this.add(methods, path, &endpoint, &foreign)
    }

    /// Adds a handler for all methods that have none of their own at this path.
    pub fn any<M: 'static>(self, path: &str, handler: impl Handler<M, S>) -> Self {
        let (this, endpoint, foreign) = self.handler(path, handler);
        this.add([None], path, &endpoint, &foreign)
    }

    /// Adds a tower service for a method or several; it is cloned for every request.
    ///
    /// It finds the match in the body of its request: [`Body::route_match`](crate::Body::route_match).
    pub fn route(self, methods: impl IntoMethods, path: &str, service: impl ScopeService) -> Self {
        let methods = methods.into_methods().into_iter().map(Some);
        self.add(methods, path, &service.into_route(false).endpoint(), &[])
    }

    /// Adds a tower service for all methods that have nothing of their own at this path.
    ///
    /// The service sees the whole path; see [`nest_service`](Self::nest_service).
    pub fn any_service(self, path: &str, service: impl ScopeService) -> Self {
        self.add([None], path, &service.into_route(false).endpoint(), &[])
    }

    /// Adds a tower service for a prefix and all paths below it, whatever the method: a `ServeDir`, a router of
    /// axum.
    ///
    /// The service sees only what follows the prefix, `/` at least. Routes of this router below the prefix
    /// are preferred.
    ///
    /// ```
    /// use http::{Request, Response};
    /// use stellane_router::{Body, Router};
    /// use tower::service_fn;
    ///
    /// let files = service_fn(async |request: Request<Body>| {
    ///     Ok::<_, std::convert::Infallible>(Response::new(format!("file {}", request.uri().path())))
    /// });
    /// // `/static/css/a.css` is `/css/a.css` for the service.
    /// let router = Router::builder().nest_service("/static", files).build()?;
    /// # Ok::<(), stellane_router::BuildReport>(())
    /// ```
    pub fn nest_service(self, prefix: &str, service: impl ScopeService) -> Self {
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        // A name that the prefix does not have.
        let mut name = "rest".to_owned();
        while prefix.contains(&name) {
            name.push('_');
        }
        let endpoint = service.into_route(true).endpoint();
        let template = format!("{prefix}/{{*{name}}}");
        let below = self.add([None], &template, &endpoint, &[]);
        match prefix {
            "" => below,
            prefix => below.add([None], prefix, &endpoint, &[]),
        }
    }

    /// Answers what no route of this scope matches, instead of 404; an inner scope's is preferred.
    ///
    /// It sees the parameters of the prefixes it is nested under. A path that exists with other methods gets
    /// its 405 all the same: see [`method_not_allowed_fallback`](Self::method_not_allowed_fallback).
    pub fn fallback<M: 'static>(self, handler: impl Handler<M, S>) -> Self {
        let (mut this, endpoint, _) = self.handler("", handler);
        this.fallbacks
            .retain(|f| !f.template.is_empty() || f.host.is_some());
        this.fallbacks
            .push(Definition::new(String::new(), None, endpoint));
        this
    }

    /// Answers instead of the 405 of paths that this scope has with other methods; an inner scope's is
    /// preferred. `Allow` is added to a 405 that has none.
    ///
    /// ```
    /// use http::StatusCode;
    /// use stellane_router::Router;
    ///
    /// let router = Router::builder()
    ///     .get("/users", async || "users")
    ///     .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, "not like that"))
    ///     .build()?;
    /// # Ok::<(), stellane_router::BuildReport>(())
    /// ```
    pub fn method_not_allowed_fallback<M: 'static>(self, handler: impl Handler<M, S>) -> Self {
        let (mut this, endpoint, _) = self.handler("", handler);
        this.not_allowed = Some(endpoint);
        this
    }

    /// Gives the route added last a name, for [`RouteTable::url`](crate::RouteTable::url).
    ///
    /// ```
    /// use stellane_router::Router;
    ///
    /// let users = Router::builder().get("/{id}", async || "").name("user");
    /// let router = Router::builder().nest("/users", users).build()?;
    /// assert_eq!(router.table().url("user", (7,))?, "/users/7");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn name(mut self, name: &str) -> Self {
        if self.added == 0 {
            let reason = "it follows no route: name a route right after it is added";
            self.problems.push(Problem::Name {
                name: name.to_owned(),
                reason,
            });
        }
        let from = self.routes.len() - self.added;
        for route in &mut self.routes[from..] {
            route.name = Some(name.into());
        }
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
        let (routes, fallbacks) = self.take(scope);
        self.added = 0;
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
        let (routes, fallbacks) = self.take(scope);
        let bound = |mut definition: Definition| {
            definition.host.get_or_insert_with(|| host.to_owned());
            definition
        };
        self.added = 0;
        self.routes.extend(routes.into_iter().map(bound));
        self.fallbacks.extend(fallbacks.into_iter().map(bound));
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
            not_allowed: self.not_allowed,
            wraps: self.wraps,
            slash: self.slash,
            added: self.added,
            problems: self.problems,
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
    pub fn build(mut self) -> Result<Router, BuildReport> {
        let problems = std::mem::take(&mut self.problems);
        let (routes, fallbacks) = self.flatten();
        Compiled::build(routes, fallbacks, problems).map(Router::from_compiled)
    }

    /// The endpoint, and what it takes of axum that may work: see [`Definition::foreign`].
    fn handler<M: 'static, H: Handler<M, S>>(
        mut self,
        path: &str,
        handler: H,
    ) -> (Self, Arc<dyn Endpoint>, Vec<ForeignExtractor>) {
        let is_known = |e: &ForeignExtractor| cfg!(feature = "axum-08") && e.reads != Reads::Prefix;
        let (known, unknown): (Vec<_>, Vec<_>) =
            foreign(&H::arguments()).into_iter().partition(is_known);
        let problem = |extractor: ForeignExtractor| extractor.problem(path, extractor.instead);
        self.problems.extend(unknown.into_iter().map(problem));
        let endpoint = HandlerEndpoint::new(handler, Arc::clone(&self.state));
        #[cfg(feature = "axum-08")]
        if may_be_foreign(&H::arguments()) {
            return (self, Arc::new(WithAxums(endpoint)), known);
        }
        (self, Arc::new(endpoint), known)
    }

    fn add(
        mut self,
        methods: impl IntoIterator<Item = Option<Method>>,
        path: &str,
        endpoint: &Arc<dyn Endpoint>,
        foreign: &[ForeignExtractor],
    ) -> Self {
        let before = self.routes.len();
        let route = |method| Definition {
            foreign: foreign.to_vec(),
            ..Definition::new(path.to_owned(), method, Arc::clone(endpoint))
        };
        self.routes.extend(methods.into_iter().map(route));
        self.added = self.routes.len() - before;
        self
    }
}

impl<S> fmt::Debug for RouterBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routes = self.routes.iter().map(|r| (&r.method, &r.template));
        f.debug_list().entries(routes).finish()
    }
}
