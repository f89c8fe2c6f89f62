//! The router as a service.

use std::{
    convert::Infallible,
    fmt,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use axum_core::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

use crate::{
    compiled::Found,
    current::{Current, Seen},
    escape::is_canonical,
    future::RouteFuture,
    host,
    matcher::spans::Spans,
    methods,
    seldom::{Own, Seldom},
    stats::{Counts, RouterStats},
    types::{Body, Compiled, Matched, RouteId, RouteInfo, RouteTable},
};

/// A tower service that finds the handler of a request and calls it.
///
/// Cloning is one reference count, and clones are always ready. See the [crate docs](crate).
///
/// ```
/// use stellane_router::{Path, Router};
///
/// let router = Router::builder()
///     .get("/users/{id:u64}", async |Path(id): Path<u64>| format!("user {id}"))
///     .build()?;
/// println!("{}", router.explain("/users/7"));
/// # Ok::<_, stellane_router::BuildReport>(())
/// ```
pub struct Router {
    shared: Arc<Shared>,
    seen: Seen,
}

struct Shared {
    current: Current,
    on_match: OnceLock<fn(&str)>,
    counts: Counts,
}

impl Router {
    pub(crate) fn from_compiled(table: Arc<Compiled>) -> Self {
        Self {
            shared: Arc::new(Shared {
                current: Current::new(table),
                on_match: OnceLock::new(),
                counts: Counts::default(),
            }),
            seen: Seen::default(),
        }
    }

    /// The table that requests are matched against now.
    #[must_use]
    pub fn table(&self) -> RouteTable {
        RouteTable(self.shared.current.table())
    }

    /// All routes, in the order of their ids.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteInfo> {
        self.table().routes().collect()
    }

    /// Says which routes match a path and why one is preferred; see [`RouteTable::explain`].
    #[must_use]
    pub fn explain(&self, path: &str) -> String {
        self.table().explain(path)
    }

    /// Replaces the routes of this router and all its clones by those of another, while serving.
    ///
    /// Requests that have begun end with the handlers they began with. The old routes are dropped when every
    /// clone that has served them is gone or has been called again.
    pub fn replace(&self, with: &Self) {
        self.shared.current.replace(with.shared.current.table());
        self.shared.counts.swaps.add();
    }

    /// Has this router and all its clones tell the template of a request's route before its handler is called, on the
    /// thread that calls it. The first one that is given stays; false if this is another.
    ///
    /// The route is also [in the body](crate::Body::route) of the answer; this is for those who want to know what runs.
    pub fn on_match(&self, tell: fn(&str)) -> bool {
        self.shared.on_match.set(tell).is_ok()
    }

    /// The state of this router and all its clones.
    #[must_use]
    pub fn stats(&self) -> RouterStats {
        let table = self.table();
        let counts = &self.shared.counts;
        RouterStats {
            routes: table.len() as u64,
            table_bytes: table.bytes() as u64,
            swaps: counts.swaps.read(),
            bad_paths: counts.bad_paths.read(),
            not_found: counts.not_found.read(),
            fallbacks: counts.fallbacks.read(),
            not_allowed: counts.not_allowed.read(),
            not_implemented: counts.not_implemented.read(),
            redirects: counts.redirects.read(),
            options: counts.options.read(),
        }
    }

    #[inline]
    fn dispatch<B>(&mut self, request: Request<B>) -> RouteFuture
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let table = Arc::clone(self.seen.look(&self.shared.current));
        let counts = &self.shared.counts;
        let bit = table.methods.bit(request.method());
        let path = request.uri().path();
        let found = match table.look_up_exact(bit, path) {
            Some((endpoint, route)) => Found::Endpoint {
                endpoint,
                route,
                spans: Spans::EMPTY,
            },
            None => {
                let host = table
                    .needs_host()
                    .then(|| host::requested(request.uri(), request.headers()));
                match table.look_up(host.flatten(), bit, path) {
                    // Seldom: all that is left is in one place.
                    Found::Endpoint { spans, .. }
                        if !spans.are_plain(path.as_bytes()) && !is_canonical(path) =>
                    {
                        Found::Nothing
                    }
                    found => found,
                }
            }
        };
        match found {
            Found::Endpoint {
                endpoint,
                route,
                spans,
            } => {
                if let Some(tell) = self.shared.on_match.get() {
                    tell(&table.entry(RouteId(route)).template);
                }
                let matched = Matched {
                    table: &table,
                    id: RouteId(route),
                    spans,
                    source: None,
                };
                let (parts, body) = request.into_parts();
                let future = endpoint.call(parts, Body::new(body), matched);
                // SAFETY: what it borrows is in this `Arc`, where nothing moves; `Running` keeps that.
                let future = unsafe { future.forget_lifetime() };
                RouteFuture::running(future, table, RouteId(route), bit == methods::HEAD)
            }
            found => {
                let own = Own::of(found);
                let (parts, body) = request.into_parts();
                Seldom { table, counts, bit }.dispatch(own, parts, Body::new(body))
            }
        }
    }
}

impl<B> Service<Request<B>> for Router
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = RouteFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> RouteFuture {
        self.dispatch(request)
    }
}

impl Clone for Router {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            seen: Seen::default(),
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Router").field(&self.table()).finish()
    }
}
