//! The router as a service.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use axum_core::BoxError;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, HeaderValue, LOCATION};
use http::request::Parts;
use http::uri::{Parts as UriParts, PathAndQuery};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body as _;
use tower_service::Service;

use crate::block::{Slot, SlotFuture};
use crate::body::Body;
use crate::builder::RouterBuilder;
use crate::compiled::{Compiled, Found};
use crate::endpoint::{Answer, Matched};
use crate::escape::{self, Escapes};
use crate::host;
use crate::matcher::tree::Spans;
use crate::methods;
use crate::reply;
use crate::stats::{Counts, RouterStats};
use crate::table::{RouteId, RouteInfo, RouteTable, SlashPolicy};

/// A tower service that finds the handler of a request and calls it.
///
/// Cloning is one reference count, and clones are always ready. See the [crate docs](crate).
pub struct Router {
    shared: Arc<Shared>,
    /// The table that this clone used last, and its version. Asking for the version is cheaper than for
    /// the table, and a clone that is never called keeps no table from being dropped.
    seen: Option<(u64, Arc<Compiled>)>,
}

struct Shared {
    table: ArcSwap<Compiled>,
    /// Counts the tables before this one.
    version: AtomicU64,
    counts: Counts,
}

impl Router {
    /// Begins a router without state.
    pub fn builder() -> RouterBuilder {
        RouterBuilder::new()
    }

    pub(crate) fn from_compiled(table: Arc<Compiled>) -> Self {
        Self {
            shared: Arc::new(Shared {
                table: ArcSwap::new(table),
                version: AtomicU64::new(0),
                counts: Counts::default(),
            }),
            seen: None,
        }
    }

    /// The table that requests are matched against now.
    #[must_use]
    pub fn table(&self) -> RouteTable {
        RouteTable(self.shared.table.load_full())
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
        self.shared.table.store(with.shared.table.load_full());
        self.shared.version.fetch_add(1, Ordering::Release);
        self.shared.counts.swaps.add();
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

    /// The current table.
    #[inline]
    fn current(&mut self) -> Arc<Compiled> {
        // Before the table: that of a later version is only asked for once more.
        let version = self.shared.version.load(Ordering::Acquire);
        match &self.seen {
            Some((seen, table)) if *seen == version => Arc::clone(table),
            _ => self.look_again(version),
        }
    }

    #[cold]
    fn look_again(&mut self, version: u64) -> Arc<Compiled> {
        let table = self.shared.table.load_full();
        self.seen = Some((version, Arc::clone(&table)));
        table
    }

    /// For a path that is not in canonical form.
    #[cold]
    fn dispatch_normalised<B>(&mut self, mut request: Request<B>) -> RouteFuture
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match normalised(request.uri()) {
            Some(uri) => *request.uri_mut() = uri,
            None => return bad_path(&self.shared.counts),
        }
        self.dispatch(request)
    }

    #[inline]
    fn dispatch<B>(&mut self, request: Request<B>) -> RouteFuture
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let table = self.current();
        let counts = &self.shared.counts;
        let bit = table.methods.bit(request.method());
        let path = request.uri().path();
        let found = match table.look_up_exact(bit, path) {
            Some((endpoint, route)) => Found::Endpoint {
                endpoint,
                route,
                spans: Spans::EMPTY,
            },
            None => match escape::inspect(path.as_bytes()) {
                Escapes::Canonical => {
                    let host = table
                        .needs_host()
                        .then(|| host::requested(request.uri(), request.headers()));
                    table.look_up(host.flatten(), bit, path)
                }
                Escapes::Normalise => return self.dispatch_normalised(request),
                Escapes::Malformed => return bad_path(counts),
            },
        };
        match found {
            Found::Endpoint {
                endpoint,
                route,
                spans,
            } => {
                let head = bit == methods::HEAD;
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
                RouteFuture::running(future, RouteTable(table), RouteId(route), head)
            }
            Found::Options { allow, route } => {
                counts.options.add();
                let response = with_header(StatusCode::NO_CONTENT, (ALLOW, allow));
                RouteFuture::ready_at(response, &table, RouteId(route))
            }
            Found::NotAllowed { allow, route } => {
                let (status, count) = match table.methods.is_known(bit) {
                    true => (StatusCode::METHOD_NOT_ALLOWED, &counts.not_allowed),
                    false => (StatusCode::NOT_IMPLEMENTED, &counts.not_implemented),
                };
                count.add();
                RouteFuture::ready_at(with_header(status, (ALLOW, allow)), &table, RouteId(route))
            }
            Found::Nothing => {
                let (parts, body) = request.into_parts();
                not_found(table, counts, parts, Body::new(body), bit)
            }
        }
    }
}

/// Nothing matched: the other side of a slash, a fallback, or 404.
#[cold]
fn not_found(
    table: Arc<Compiled>,
    counts: &Counts,
    mut parts: Parts,
    body: Body,
    bit: u32,
) -> RouteFuture {
    let head = bit == methods::HEAD;
    let path = parts.uri.path();
    if path == "*" && bit == methods::OPTIONS {
        counts.options.add();
        let response = with_header(StatusCode::NO_CONTENT, (ALLOW, table.allow_all.clone()));
        return RouteFuture::ready(response);
    }
    let host = host::requested(&parts.uri, &parts.headers);
    if table.lenient && path.len() > 1 {
        let other = match path.strip_suffix('/') {
            Some(shorter) => shorter.to_owned(),
            None => format!("{path}/"),
        };
        if let Found::Endpoint {
            endpoint,
            route,
            spans,
        } = table.look_up(host, bit, &other)
            && let policy @ (SlashPolicy::Redirect | SlashPolicy::Ignore) =
                table.entry(RouteId(route)).slash
        {
            let Some(uri) = with_path(&parts.uri, &other) else {
                return RouteFuture::ready(reply::status(StatusCode::URI_TOO_LONG));
            };
            if policy == SlashPolicy::Redirect {
                counts.redirects.add();
                return RouteFuture::ready_at(redirect(&uri), &table, RouteId(route));
            }
            parts.uri = uri;
            let matched = Matched {
                table: &table,
                id: RouteId(route),
                spans,
                source: None,
            };
            let future = endpoint.call(parts, body, matched);
            // SAFETY: what it borrows is in this `Arc`, where nothing moves; `Running` keeps that.
            let future = unsafe { future.forget_lifetime() };
            return RouteFuture::running(future, RouteTable(table), RouteId(route), head);
        }
    }
    if let Some(endpoint) = table.fallback(host, path) {
        counts.fallbacks.add();
        let (id, spans) = (RouteId::NONE, Spans::EMPTY);
        let future = endpoint.call(
            parts,
            body,
            Matched {
                table: &table,
                id,
                spans,
                source: None,
            },
        );
        // SAFETY: as above.
        let future = unsafe { future.forget_lifetime() };
        return RouteFuture::running(future, RouteTable(table), id, head);
    }
    let (status, count) = match table.methods.is_known(bit) {
        true => (StatusCode::NOT_FOUND, &counts.not_found),
        false => (StatusCode::NOT_IMPLEMENTED, &counts.not_implemented),
    };
    count.add();
    RouteFuture::ready(reply::status(status))
}

#[cold]
fn bad_path(counts: &Counts) -> RouteFuture {
    counts.bad_paths.add();
    RouteFuture::ready(reply::status(StatusCode::BAD_REQUEST))
}

fn redirect(uri: &Uri) -> Response<Body> {
    // Never `//host`, which a browser reads as another site.
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let target = format!("/{}", target.trim_start_matches('/'));
    match HeaderValue::try_from(target) {
        Ok(target) => with_header(StatusCode::PERMANENT_REDIRECT, (LOCATION, target)),
        Err(_) => reply::status(StatusCode::NOT_FOUND),
    }
}

fn with_header(
    status: StatusCode,
    (name, value): (http::HeaderName, HeaderValue),
) -> Response<Body> {
    let mut response = reply::status(status);
    response.headers_mut().insert(name, value);
    response
}

/// The URI with its path in canonical form.
#[cold]
fn normalised(uri: &Uri) -> Option<Uri> {
    let path = escape::normalise(uri.path().as_bytes())?;
    with_path(uri, std::str::from_utf8(&path).ok()?)
}

/// The same URI with another path; `None` if that is too long.
fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts: UriParts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query.parse().ok()?);
    Uri::from_parts(parts).ok()
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
            seen: None,
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Router").field(&self.table()).finish()
    }
}

/// The future of a [`Router`].
#[derive(Debug)]
pub struct RouteFuture(State);

enum State {
    /// No handler was called. In a slot, so that the other state is small.
    Ready(Slot<Response<Body>>),
    Running(Running),
    Done,
}

struct Running {
    /// Borrows from the table, so it comes first: it is dropped first.
    future: SlotFuture<'static, Answer>,
    table: RouteTable,
    route: RouteId,
    head: bool,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Ready",
            Self::Running(_) => "Running",
            Self::Done => "Done",
        })
    }
}

impl RouteFuture {
    fn ready(response: Response<Body>) -> Self {
        Self(State::Ready(Slot::new(response)))
    }

    fn ready_at(mut response: Response<Body>, table: &Arc<Compiled>, id: RouteId) -> Self {
        let table = RouteTable(Arc::clone(table));
        response.body_mut().set_route(RouteInfo { table, id });
        Self::ready(response)
    }

    const fn running(
        future: SlotFuture<'static, Answer>,
        table: RouteTable,
        route: RouteId,
        head: bool,
    ) -> Self {
        Self(State::Running(Running {
            future,
            table,
            route,
            head,
        }))
    }
}

impl Future for RouteFuture {
    type Output = Result<Response<Body>, Infallible>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Running(_) => self.0.poll_running(cx),
            _ => self.0.take_ready(),
        }
    }
}

impl State {
    #[inline]
    fn poll_running(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        // One variable, returned at the end: it stands where the caller wants it, and is never moved.
        let mut answer = match self {
            Self::Running(running) => Pin::new(&mut running.future).poll(cx),
            _ => Poll::Pending,
        };
        if let Poll::Ready(Ok(response)) = &mut answer
            && let Self::Running(running) = mem::replace(self, Self::Done)
        {
            running.finish(response);
        }
        answer
    }

    #[cold]
    fn take_ready(&mut self) -> Poll<Answer> {
        match mem::replace(self, Self::Done) {
            Self::Ready(response) => Poll::Ready(Ok(response.into_inner())),
            _ => panic!("polled after completion"),
        }
    }
}

impl Running {
    #[inline]
    fn finish(self, response: &mut Response<Body>) {
        let Self {
            future,
            table,
            route,
            head,
        } = self;
        drop(future);
        if head {
            without_body(response);
        }
        if route != RouteId::NONE {
            // Moved here: all cores share the count.
            response
                .body_mut()
                .set_route(RouteInfo { table, id: route });
        }
    }
}

/// What `HEAD` gets: the headers of the response, its length among them.
fn without_body(response: &mut Response<Body>) {
    let body = mem::take(response.body_mut());
    if let (Some(len), false) = (
        body.size_hint().exact(),
        response.headers().contains_key(CONTENT_LENGTH),
    ) {
        response.headers_mut().insert(CONTENT_LENGTH, len.into());
    }
}
