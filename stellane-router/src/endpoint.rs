//! What answers a matched request.

use std::{
    cell::Cell,
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use axum_core::BoxError;
use bytes::Bytes;
use http::{
    Request, Response, StatusCode, Uri,
    header::{ALLOW, HeaderValue},
    request::Parts,
    uri::PathAndQuery,
};
use tower_service::Service;

#[cfg(feature = "axum-08")]
use crate::params::Params;
use crate::{
    current::{THREADS, thread_number},
    matcher::spans::Spans,
    recycled_box::{RecycledBox, RecycledFuture},
    route_match::{WithMatch, current_match},
    types::{Answer, Body, Compiled, Endpoint, Matched, RouteId, RouteMatch, RouteTable},
};

impl Matched<'_> {
    /// The match as a value of its own.
    pub(crate) fn owned(self, uri: &Uri) -> Option<RouteMatch> {
        // Borrowed from an `Arc` that is alive, so this cannot fail.
        let table = RouteTable(self.table.me.upgrade()?);
        let source = self.source.or_else(|| uri.path_and_query())?;
        Some(RouteMatch::new(table, self.id, self.spans, source.clone()))
    }

    /// Leaves behind what the extractors of axum look for.
    #[cfg(feature = "axum-08")]
    #[cold]
    pub(crate) fn leave_for_axum(&self, parts: &mut Parts) {
        let entry = self.table.entry(self.id);
        let template = self.id.is_route().then_some(&*entry.template);
        let view = || crate::axum_view::AxumView::new(template, &entry.pattern);
        let path = self
            .source
            .map_or_else(|| parts.uri.path(), PathAndQuery::path);
        let params = Params::new(&entry.pattern.params, &self.spans, path);
        // The parameters are read from the URI, and what is left goes beside it.
        entry
            .axum
            .get_or_init(view)
            .leave_in(params, &mut parts.extensions);
    }
}

impl fmt::Debug for Matched<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matched")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Calls an endpoint with a match whose spans refer to a text that lives as long as the future.
pub(crate) fn call_with_source<'a>(
    endpoint: &'a dyn Endpoint,
    (parts, body): (Parts, Body),
    table: &'a Compiled,
    (id, spans): (RouteId, Spans),
    source: PathAndQuery,
) -> RecycledFuture<'a, Answer> {
    RecycledBox::future(async move {
        let matched = Matched {
            table,
            id,
            spans,
            source: Some(&source),
        };
        endpoint.call(parts, body, matched).await
    })
}

/// A tower service as endpoint: cloned for every request, as tower demands.
pub(crate) struct ServiceEndpoint<S, F> {
    service: S,
    /// A clone for each of the first threads, made when it is first asked for: the routes in it have counts of their own.
    of_threads: OnceLock<Box<[OnceLock<S>]>>,
    /// What an error of the service is answered with.
    on_error: F,
    /// Whether the service sees only what is left of the path after the prefix it is nested under.
    strip: bool,
}

impl<S, F> ServiceEndpoint<S, F> {
    pub(crate) const fn new(service: S, on_error: F, strip: bool) -> Self {
        Self {
            service,
            of_threads: OnceLock::new(),
            on_error,
            strip,
        }
    }

    /// The clone of this thread.
    fn here(&self) -> &S
    where
        S: Clone,
    {
        let all = || (0..THREADS).map(|_| OnceLock::new()).collect();
        let all = self.of_threads.get_or_init(all);
        all[thread_number() % THREADS].get_or_init(|| apart(|| self.service.clone()))
    }
}

/// For a service that never fails.
#[expect(unreachable_code, reason = "that is what it says")]
pub(crate) fn infallible<E: Into<Infallible>>(error: E) -> Response<Body> {
    match error.into() {}
}

impl<S, B, F> Endpoint for ServiceEndpoint<S, F>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    F: Fn(S::Error) -> Response<Body> + Send + Sync,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn call<'a>(
        &'a self,
        mut parts: Parts,
        mut body: Body,
        matched: Matched<'a>,
    ) -> RecycledFuture<'a, Answer> {
        let mut service = self.here().clone();
        let owned = matched.owned(&parts.uri);
        if let Some(matched) = &owned {
            if self.strip {
                strip_prefix(&mut parts.uri, matched);
            }
            body.carry(matched.clone());
        }
        let request = Request::from_parts(parts, body);
        RecycledBox::future(async move {
            let matched = owned.as_ref().map_or(matched, RouteMatch::as_matched);
            let answer = async {
                std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
                service.call(request).await
            };
            // For layers that wrap the body, and so hide what it carries.
            let answer = WithMatch::new(&matched, answer).await;
            Ok(match answer {
                Ok(response) => response.map(Body::new),
                Err(error) => (self.on_error)(error),
            })
        })
    }
}

/// Leaves of the path what the last parameter took, after a `/`.
fn strip_prefix(uri: &mut Uri, matched: &RouteMatch) {
    // Slashes are never escaped nor unescaped, so as many stand before it in the path that was sent.
    let slash = matched.before_rest().and_then(|before| {
        let slashes = memchr::memchr_iter(b'/', before.as_bytes()).count();
        memchr::memchr_iter(b'/', uri.path().as_bytes()).nth(slashes.checked_sub(1)?)
    });
    let rest = slash.map_or("/", |at| &uri.path()[at..]);
    let path_and_query = match uri.query() {
        Some(query) => format!("{rest}?{query}"),
        None => rest.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = path_and_query.parse().ok();
    if let Ok(stripped) = Uri::from_parts(parts) {
        *uri = stripped;
    }
}

/// What the router says of itself about a path that exists; on its way through the layers of the scope.
#[derive(Debug, Clone)]
pub(crate) struct OwnReply {
    pub(crate) status: StatusCode,
    pub(crate) allow: HeaderValue,
}

impl OwnReply {
    pub(crate) fn into_response(self) -> Response<Body> {
        let mut response = crate::reply::status(self.status);
        response.headers_mut().insert(ALLOW, self.allow);
        response
    }
}

/// Gives the [`OwnReply`] of the request, or what the scope has for a method that is not allowed.
pub(crate) struct OwnEndpoint;

impl Endpoint for OwnEndpoint {
    fn call<'a>(
        &'a self,
        mut parts: Parts,
        body: Body,
        matched: Matched<'a>,
    ) -> RecycledFuture<'a, Answer> {
        let entry = matched.table.entry(matched.id);
        let own = parts.extensions.remove().unwrap_or_else(|| OwnReply {
            status: StatusCode::METHOD_NOT_ALLOWED,
            allow: entry.allow.clone(),
        });
        RecycledBox::future(async move {
            let not_allowed = entry.not_allowed.as_deref();
            let handler = not_allowed.filter(|_| own.status == StatusCode::METHOD_NOT_ALLOWED);
            let Some(handler) = handler else {
                return Ok(own.into_response());
            };
            let mut answer = handler.call(parts, body, matched).await;
            // RFC 9110: a 405 says what is allowed.
            if let Ok(response) = &mut answer
                && response.status() == StatusCode::METHOD_NOT_ALLOWED
            {
                response.headers_mut().entry(ALLOW).or_insert(own.allow);
            }
            answer
        })
    }
}

/// A service that takes the body of axum, as one that takes ours.
#[derive(Debug, Clone)]
pub(crate) struct TakesAxumBody<S>(pub(crate) S);

impl<S: Service<Request<axum_core::body::Body>>> Service<Request<Body>> for TakesAxumBody<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        self.0.call(request.map(Body::into_axum))
    }
}

/// A service that may stand in a scope: it takes a request with a [`Body`], never fails and can be cloned.
///
/// Implemented for all that do.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no service for the routes of a scope",
    label = "its service does not take `Request<stellane_router::Body>`, or can fail, or cannot be cloned",
    note = "a layer for the body of axum, as `axum::middleware::from_fn` makes it, goes to `axum_layer`",
    note = "a layer whose service can fail, as a timeout does, goes to `try_layer`"
)]
pub trait ScopeService: Sized {
    /// As a route.
    #[doc(hidden)]
    fn into_route(self, strip: bool) -> Route;
}

#[diagnostic::do_not_recommend]
impl<S, B> ScopeService for S
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<Infallible>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn into_route(self, strip: bool) -> Route {
        let endpoint = ServiceEndpoint::new(self, infallible::<S::Error>, strip);
        Route::to(Arc::new(endpoint))
    }
}

/// A route as a service: what a layer given to [`RouterBuilder::layer`](crate::RouterBuilder::layer)
/// wraps.
pub struct Route(Arc<Counted>);

/// An endpoint behind a count of references of which there may be several.
#[repr(align(128))]
struct Counted(Arc<dyn Endpoint>);

thread_local! {
    /// Whether the clones of routes have counts of their own.
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// Clones made meanwhile have counts of their own: one that all cores write costs a request more than to find its route.
fn apart<T>(clone: impl FnOnce() -> T) -> T {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            APART.set(self.0);
        }
    }
    let _back = Back(APART.replace(true));
    clone()
}

impl Route {
    pub(crate) fn to(endpoint: Arc<dyn Endpoint>) -> Self {
        Self(Arc::new(Counted(endpoint)))
    }

    pub(crate) fn endpoint(&self) -> Arc<dyn Endpoint> {
        Arc::clone(&self.0.0)
    }
}

impl Clone for Route {
    fn clone(&self) -> Self {
        match APART.get() {
            true => Self::to(self.endpoint()),
            false => Self(Arc::clone(&self.0)),
        }
    }
}

impl<B> Service<Request<B>> for Route
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = EndpointFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> EndpointFuture {
        let (parts, body) = request.into_parts();
        let mut body = Body::new(body);
        // A layer that wraps the body hides what it carries.
        let carried = body.take_carried().or_else(|| current_match(&parts.uri));
        let endpoint = Arc::clone(&self.0);
        EndpointFuture(RecycledBox::future(async move {
            match &carried {
                Some(carried) => endpoint.0.call(parts, body, carried.as_matched()).await,
                // The layer called the route outside of its own request.
                None => Ok(crate::reply::status(StatusCode::INTERNAL_SERVER_ERROR)),
            }
        }))
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").finish_non_exhaustive()
    }
}

/// The future of a [`Route`].
#[derive(Debug)]
pub struct EndpointFuture(RecycledFuture<'static, Answer>);

impl Future for EndpointFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn each_thread_clones_a_service_whose_routes_have_counts_of_their_own() {
        let route = Route::to(Arc::new(OwnEndpoint));
        let endpoint = ServiceEndpoint::new(route, (), false);
        let cloned = || endpoint.here().clone();
        let (ours, again) = (cloned(), cloned());
        let theirs = thread::scope(|scope| scope.spawn(cloned).join().expect("no panic"));
        assert!(Arc::ptr_eq(&ours.0, &again.0), "one count for one thread");
        assert!(!Arc::ptr_eq(&ours.0, &theirs.0));
        assert!(Arc::ptr_eq(&ours.endpoint(), &theirs.endpoint()));
    }
}
