//! The router as a service.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use axum_core::BoxError;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, HeaderValue, LOCATION};
use http::uri::{Parts as UriParts, PathAndQuery};
use http::{Request, Response, StatusCode, Uri};
use http_body::Body as _;
use tower_service::Service;

use crate::block::SlotFuture;
use crate::body::Body;
use crate::builder::RouterBuilder;
use crate::endpoint::{Endpoint, Matched};
use crate::escape::{self, Escapes};
use crate::host;
use crate::matcher::tree::Spans;
use crate::methods;
use crate::reply;
use crate::table::{Compiled, Found, RouteId, RouteInfo, RouteTable, SlashPolicy};

/// A tower service that finds the handler of a request and calls it.
///
/// Cloning is one reference count, and clones are always ready. See the [crate docs](crate).
#[derive(Clone)]
pub struct Router {
    table: Arc<ArcSwap<Compiled>>,
}

impl Router {
    /// Begins a router without state.
    pub fn builder() -> RouterBuilder {
        RouterBuilder::new()
    }

    pub(crate) fn from_compiled(table: Arc<Compiled>) -> Self {
        Self {
            table: Arc::new(ArcSwap::new(table)),
        }
    }

    /// The table that requests are matched against now.
    #[must_use]
    pub fn table(&self) -> RouteTable {
        RouteTable(self.table.load_full())
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
    /// Requests that have begun end with the handlers they began with.
    pub fn replace(&self, with: &Self) {
        self.table.store(with.table.load_full());
    }

    fn dispatch<B>(&self, request: Request<B>) -> RouteFuture
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let table = self.table.load_full();
        let request = match canonical(request) {
            Ok(request) => request.map(Body::new),
            Err(()) => return RouteFuture::ready(reply::status(StatusCode::BAD_REQUEST)),
        };
        let bit = table.methods.bit(request.method());
        let host = table
            .needs_host()
            .then(|| host::requested(request.uri(), request.headers()));
        match table.look_up(host.flatten(), bit, request.uri().path()) {
            Found::Endpoint {
                endpoint,
                route,
                spans,
            } => {
                let head = bit == methods::HEAD;
                RouteFuture::call(&table, endpoint, request, RouteId(route), spans, head)
            }
            Found::Options { allow, route } => {
                let response = with_header(StatusCode::NO_CONTENT, (ALLOW, allow));
                RouteFuture::ready_at(response, &table, RouteId(route))
            }
            Found::NotAllowed { allow, route } => {
                let status = match table.methods.is_known(bit) {
                    true => StatusCode::METHOD_NOT_ALLOWED,
                    false => StatusCode::NOT_IMPLEMENTED,
                };
                RouteFuture::ready_at(with_header(status, (ALLOW, allow)), &table, RouteId(route))
            }
            Found::Nothing => not_found(&table, request, bit),
        }
    }
}

/// Nothing matched: the other side of a slash, a fallback, or 404.
#[cold]
fn not_found(table: &Arc<Compiled>, request: Request<Body>, bit: u32) -> RouteFuture {
    let head = bit == methods::HEAD;
    let path = request.uri().path();
    if path == "*" && bit == methods::OPTIONS {
        let response = with_header(StatusCode::NO_CONTENT, (ALLOW, table.allow_all.clone()));
        return RouteFuture::ready(response);
    }
    let host = host::requested(request.uri(), request.headers());
    if table.slash != SlashPolicy::Strict && path.len() > 1 {
        let other = match path.strip_suffix('/') {
            Some(shorter) => shorter.to_owned(),
            None => format!("{path}/"),
        };
        if let Found::Endpoint {
            endpoint,
            route,
            spans,
        } = table.look_up(host, bit, &other)
        {
            let Some(uri) = with_path(request.uri(), &other) else {
                return RouteFuture::ready(reply::status(StatusCode::URI_TOO_LONG));
            };
            if table.slash == SlashPolicy::Redirect {
                return RouteFuture::ready_at(redirect(&uri), table, RouteId(route));
            }
            let (mut parts, body) = request.into_parts();
            parts.uri = uri;
            let request = Request::from_parts(parts, body);
            return RouteFuture::call(table, endpoint, request, RouteId(route), spans, head);
        }
    }
    if let Some(endpoint) = table.fallback(host, path) {
        return RouteFuture::fall_back(table, endpoint, request, head);
    }
    let status = match table.methods.is_known(bit) {
        true => StatusCode::NOT_FOUND,
        false => StatusCode::NOT_IMPLEMENTED,
    };
    RouteFuture::ready(reply::status(status))
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

/// The request with its path in canonical form; `Err` if the path cannot be one.
#[inline]
fn canonical<B>(mut request: Request<B>) -> Result<Request<B>, ()> {
    let path = request.uri().path();
    match escape::inspect(path.as_bytes()) {
        Escapes::Canonical => Ok(request),
        Escapes::Malformed => Err(()),
        Escapes::Normalise => {
            let path = escape::normalise(path.as_bytes()).unwrap_or_default();
            let path = std::str::from_utf8(&path).map_err(|_| ())?;
            *request.uri_mut() = with_path(request.uri(), path).ok_or(())?;
            Ok(request)
        }
    }
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

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Router").field(&self.table()).finish()
    }
}

/// The future of a [`Router`].
#[derive(Debug)]
pub struct RouteFuture(State);

enum State {
    /// No handler was called.
    Ready(Option<Response<Body>>),
    /// The future borrows from the table, so it comes first: it is dropped first.
    Running {
        future: SlotFuture<'static, Response<Body>>,
        table: RouteTable,
        /// `None` for a fallback.
        route: Option<RouteId>,
        head: bool,
    },
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Ready",
            Self::Running { .. } => "Running",
        })
    }
}

impl RouteFuture {
    const fn ready(response: Response<Body>) -> Self {
        Self(State::Ready(Some(response)))
    }

    fn ready_at(mut response: Response<Body>, table: &Arc<Compiled>, id: RouteId) -> Self {
        let table = RouteTable(Arc::clone(table));
        response.body_mut().set_route(RouteInfo { table, id });
        Self::ready(response)
    }

    #[inline]
    fn call(
        table: &Arc<Compiled>,
        endpoint: &dyn Endpoint,
        request: Request<Body>,
        id: RouteId,
        spans: Spans,
        head: bool,
    ) -> Self {
        Self::run(table, endpoint, request, Some(id), spans, head)
    }

    fn fall_back(
        table: &Arc<Compiled>,
        endpoint: &dyn Endpoint,
        request: Request<Body>,
        head: bool,
    ) -> Self {
        Self::run(table, endpoint, request, None, Spans::EMPTY, head)
    }

    #[inline]
    fn run(
        table: &Arc<Compiled>,
        endpoint: &dyn Endpoint,
        request: Request<Body>,
        route: Option<RouteId>,
        spans: Spans,
        head: bool,
    ) -> Self {
        let id = route.unwrap_or(RouteId::NONE);
        let future = endpoint.call(
            request,
            Matched {
                table,
                id,
                spans,
                source: None,
            },
        );
        // SAFETY: the future borrows the endpoint and the table. Both are inside the `Arc`, where
        // nothing moves or changes them, and the state keeps the `Arc` until the future is gone.
        let future = unsafe { future.forget_lifetime() };
        Self(State::Running {
            future,
            table: RouteTable(Arc::clone(table)),
            route,
            head,
        })
    }
}

impl Future for RouteFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Running { future, .. } = &mut self.0 {
            let Poll::Ready(response) = Pin::new(future).poll(cx) else {
                return Poll::Pending;
            };
            let state = std::mem::replace(&mut self.0, State::Ready(None));
            return Poll::Ready(Ok(state.finish(response)));
        }
        let State::Ready(response) = &mut self.0 else {
            return Poll::Pending;
        };
        Poll::Ready(Ok(response.take().expect("polled after completion")))
    }
}

impl State {
    fn finish(self, mut response: Response<Body>) -> Response<Body> {
        let Self::Running {
            future,
            table,
            route,
            head,
        } = self
        else {
            return response;
        };
        drop(future);
        if head {
            without_body(&mut response);
        }
        if let Some(id) = route {
            // Moved here: all cores share the count.
            response.body_mut().set_route(RouteInfo { table, id });
        }
        response
    }
}

/// What `HEAD` gets: the headers of the response, its length among them.
fn without_body(response: &mut Response<Body>) {
    let body = std::mem::take(response.body_mut());
    if let (Some(len), false) = (
        body.size_hint().exact(),
        response.headers().contains_key(CONTENT_LENGTH),
    ) {
        response.headers_mut().insert(CONTENT_LENGTH, len.into());
    }
}
