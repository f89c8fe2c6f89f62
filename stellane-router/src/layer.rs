//! Matching in front of any other service.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, uri::PathAndQuery};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    compiled::AnyLeaf,
    current::{Current, Seen},
    escape, host,
    matcher::spans::Spans,
    stats::{Count, RouteLayerStats},
    types::{Compiled, RouteId, RouteMatch, RouteTable},
};

/// Matches the path of every request and leaves one [`RouteMatch`] extension for the service inside:
/// an axum router, tonic, anything.
///
/// A path that no template matches passes on without. Inside, [`RouteMatch`] and
/// [`Path`](crate::Path) work as axum extractors.
///
/// ```
/// use http::{Request, Response};
/// use stellane_router::{RouteLayer, RouteMatch, RouteTable};
/// use tower::{Layer, Service, ServiceExt, service_fn};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let layer = RouteLayer::new(RouteTable::new(["/users/{id}"])?);
/// let inner = service_fn(async |request: Request<()>| {
///     let template = request.extensions().get::<RouteMatch>().map(|m| m.template().to_owned());
///     Ok::<_, std::convert::Infallible>(Response::new(template))
/// });
/// # let answer =
/// layer.layer(inner).oneshot(Request::get("/users/7").body(())?);
/// # let mut answer = std::pin::pin!(answer);
/// # let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
/// # let std::task::Poll::Ready(answer) = answer.as_mut().poll(cx) else { panic!() };
/// # assert_eq!(answer?.into_body().as_deref(), Some("/users/{id}"));
/// # Ok(())
/// # }
/// # use std::future::Future as _;
/// ```
#[derive(Clone)]
pub struct RouteLayer {
    shared: Arc<Shared>,
}

struct Shared {
    current: Current,
    swaps: Count,
    unmatched: Count,
}

impl RouteLayer {
    /// Matches against this table.
    #[must_use]
    pub fn new(table: RouteTable) -> Self {
        Self {
            shared: Arc::new(Shared {
                current: Current::new(table.0),
                swaps: Count::default(),
                unmatched: Count::default(),
            }),
        }
    }

    /// The table that requests are matched against now.
    #[must_use]
    pub fn table(&self) -> RouteTable {
        RouteTable(self.shared.current.table())
    }

    /// Replaces the table of all services this layer and its clones have made. The old one is dropped when each that has
    /// used it is gone or has been called again.
    pub fn replace(&self, table: RouteTable) {
        self.shared.current.replace(table.0);
        self.shared.swaps.add();
    }

    /// The state of all services this layer and its clones have made.
    #[must_use]
    pub fn stats(&self) -> RouteLayerStats {
        let table = self.table();
        RouteLayerStats {
            routes: table.len() as u64,
            table_bytes: table.bytes() as u64,
            swaps: self.shared.swaps.read(),
            unmatched: self.shared.unmatched.read(),
        }
    }
}

impl<S> Layer<S> for RouteLayer {
    type Service = RouteService<S>;

    fn layer(&self, inner: S) -> RouteService<S> {
        RouteService {
            inner,
            shared: Arc::clone(&self.shared),
            seen: Seen::default(),
        }
    }
}

impl fmt::Debug for RouteLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteLayer").field(&self.table()).finish()
    }
}

/// The service of a [`RouteLayer`].
pub struct RouteService<S> {
    inner: S,
    shared: Arc<Shared>,
    seen: Seen,
}

impl<S, B> Service<Request<B>> for RouteService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let table = self.seen.look(&self.shared.current);
        match find(table, &request) {
            Some(found) => {
                request.extensions_mut().insert(found);
            }
            None => self.shared.unmatched.add(),
        }
        self.inner.call(request)
    }
}

pub(crate) fn find<B>(table: &Arc<Compiled>, request: &Request<B>) -> Option<RouteMatch> {
    let mut source = request.uri().path_and_query()?.clone();
    if let Cow::Owned(path) = escape::canonical(source.path())? {
        source = PathAndQuery::try_from(path).ok()?;
    }
    let host = host::requested(request.uri(), request.headers());
    let mut spans = Spans::EMPTY;
    let route = table
        .routes
        .find(host, source.path(), &mut AnyLeaf, &mut spans)?;
    Some(RouteMatch::new(
        RouteTable(Arc::clone(table)),
        RouteId(route),
        spans,
        source,
    ))
}

impl<S: Clone> Clone for RouteService<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
            seen: Seen::default(),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for RouteService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
