//! Interning what a request brings along.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Extensions, HeaderName, Request, request::Parts};
use tower_layer::Layer;
use tower_service::Service;

#[cfg(feature = "router")]
use super::InternedRoute;
use super::{Atom, Interned, Interner};
#[cfg(feature = "router")]
use crate::RouteTable;

/// Interns what one names of a request, and leaves it in the request's extensions as [`Interned`], in front of any service.
///
/// For what comes again and again and is used as a key: a tenant, a region, a client's version. A handler that keeps
/// such a value, or counts by it, then copies no text: an [`Atom`](crate::Atom) is 16 bytes and compares by its address first.
/// Where a handler only reads the value once, the header itself is cheaper. Costs two to three allocations for a request that
/// has any of the values.
///
/// ```
/// use http::{Request, Response};
/// use stellane_router::{InternLayer, Interned, Interner};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// #[derive(Clone)]
/// struct Claims { tenant: String }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let interner = Interner::builder().build().map_err(|errors| format!("{errors:?}"))?;
/// let layer = InternLayer::new(&interner)
///     .header("x-region")
///     .value("tenant", |request| Some(&request.extensions.get::<Claims>()?.tenant));
/// let service = ServiceBuilder::new().layer(layer).service(service_fn(
///     async |request: Request<()>| {
///         let interned = request.extensions().get::<Interned>().cloned().unwrap_or_default();
///         Ok::<_, std::convert::Infallible>(Response::new(interned))
///     },
/// ));
/// let mut request = Request::builder().header("x-region", "eu-west").body(())?;
/// request.extensions_mut().insert(Claims { tenant: "acme".to_owned() });
/// let interned = service.oneshot(request).await?.into_body();
/// assert_eq!(interned.get("x-region").map(|region| region.as_str()), Some("eu-west"));
/// assert_eq!(interned.get("tenant").map(|tenant| tenant.as_str()), Some("acme"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct InternLayer {
    interner: Interner,
    sources: Arc<Sources>,
}

/// Where the values come from.
#[derive(Clone, Default)]
struct Sources {
    headers: Vec<(&'static str, HeaderName)>,
    values: Vec<(&'static str, Find)>,
    #[cfg(feature = "router")]
    table: Option<RouteTable>,
}

type Find = Arc<dyn Fn(&Parts) -> Option<&str> + Send + Sync>;

impl InternLayer {
    /// A layer that interns nothing yet.
    #[must_use]
    pub fn new(interner: &Interner) -> Self {
        Self {
            interner: interner.clone(),
            sources: Arc::default(),
        }
    }

    /// Interns the value of this header, the first if there are several, under the header's name as it is given here. One
    /// that is not UTF-8 is left out, and what is no name of a header is found in no request.
    #[must_use]
    pub fn header(mut self, name: &'static str) -> Self {
        if let Ok(header) = HeaderName::from_bytes(name.as_bytes()) {
            self.sources_mut().headers.push((name, header));
        }
        self
    }

    /// Interns what `find` returns, under `name`: a claim that an outer layer left in the extensions, a part of the target or
    /// of a header.
    #[must_use]
    pub fn value(
        mut self,
        name: &'static str,
        find: impl Fn(&Parts) -> Option<&str> + Send + Sync + 'static,
    ) -> Self {
        self.sources_mut().values.push((name, Arc::new(find)));
        self
    }

    /// Interns the template of the request, and the parameters that its template declares as `{name:atom}`, and leaves them
    /// as [`InternedRoute`]. Behind a [`RouteLayer`](crate::RouteLayer) the path is not matched again.
    ///
    /// ```
    /// use stellane_router::{InternLayer, Interner, RouteTable};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let table = RouteTable::new(["/{region:atom}/users/{id}"])?;
    /// let interner = Interner::builder().table(&table).build().map_err(|e| format!("{e:?}"))?;
    /// let layer = InternLayer::new(&interner).routes(table);
    /// # let _ = layer;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "router")]
    #[must_use]
    pub fn routes(mut self, table: RouteTable) -> Self {
        self.sources_mut().table = Some(table);
        self
    }

    /// The interner: its `stats()` and `set_max_bytes()`.
    #[must_use]
    pub const fn interner(&self) -> &Interner {
        &self.interner
    }

    fn sources_mut(&mut self) -> &mut Sources {
        Arc::make_mut(&mut self.sources)
    }
}

impl fmt::Debug for InternLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = self.sources.headers.iter().map(|(name, _)| name);
        let values = self.sources.values.iter().map(|(name, _)| name);
        f.debug_struct("InternLayer")
            .field("names", &headers.chain(values).collect::<Vec<_>>())
            .field("interner", &self.interner)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for InternLayer {
    type Service = InternService<S>;

    fn layer(&self, inner: S) -> InternService<S> {
        InternService {
            inner,
            layer: self.clone(),
        }
    }
}

/// The service of an [`InternLayer`].
#[derive(Debug, Clone)]
pub struct InternService<S> {
    inner: S,
    layer: InternLayer,
}

impl<S, B> Service<Request<B>> for InternService<S>
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
        let InternLayer { interner, sources } = &self.layer;
        for (name, header) in &sources.headers {
            let value = request.headers().get(header);
            let text = value.and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
            if let Some(atom) = text.map(|text| interner.intern(text)) {
                leave(request.extensions_mut(), name, atom);
            }
        }
        if !sources.values.is_empty() {
            let (mut parts, body) = request.into_parts();
            for (name, find) in &sources.values {
                if let Some(atom) = find(&parts).map(|text| interner.intern(text)) {
                    leave(&mut parts.extensions, name, atom);
                }
            }
            request = Request::from_parts(parts, body);
        }
        #[cfg(feature = "router")]
        if let Some(table) = &sources.table
            && let Some(route) = InternedRoute::of(interner, table, &request)
        {
            request.extensions_mut().insert(route);
        }
        self.inner.call(request)
    }
}

fn leave(extensions: &mut Extensions, name: &'static str, value: Atom) {
    let interned = extensions.get_or_insert_default::<Interned>();
    interned.push(name, value);
}
