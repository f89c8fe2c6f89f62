//! Interning what the path of a request holds.

use std::task::{Context, Poll};

use http::Request;
use percent_encoding::percent_decode_str;
use tower_layer::Layer;
use tower_service::Service;

use super::{Atom, Interner};
use crate::layer::find;
use crate::{RouteMatch, RouteTable};

/// Leaves an [`InternedRoute`] extension: the template of the request, and the parameters its
/// template declares as `{name:atom}`.
///
/// Works in front of any service. Behind a [`RouteLayer`](crate::RouteLayer) the path is not matched
/// again.
///
/// ```
/// use stellane_router::{InternLayer, Interner, RouteTable};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let table = RouteTable::new(["/{region:atom}/users/{id}"])?;
/// let interner = Interner::builder().table(&table).build().map_err(|e| format!("{e:?}"))?;
/// let layer = InternLayer::new(interner, table);
/// # let _ = layer;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct InternLayer {
    interner: Interner,
    table: RouteTable,
}

impl InternLayer {
    /// Interns what this table matches.
    #[must_use]
    pub const fn new(interner: Interner, table: RouteTable) -> Self {
        Self { interner, table }
    }

    /// The interner: its `stats()` and `set_max_bytes()`.
    #[must_use]
    pub const fn interner(&self) -> &Interner {
        &self.interner
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
        let InternLayer { interner, table } = &self.layer;
        let known = request.extensions().get::<RouteMatch>();
        let interned = match known {
            Some(known) => Some(InternedRoute::new(interner, known)),
            None => find(&table.0, &request).map(|found| InternedRoute::new(interner, &found)),
        };
        if let Some(interned) = interned {
            request.extensions_mut().insert(interned);
        }
        self.inner.call(request)
    }
}

/// The interned parts of a request's route; an extension.
#[derive(Debug, Clone)]
pub struct InternedRoute {
    template: Atom,
    params: Vec<(Atom, Atom)>,
}

impl InternedRoute {
    fn new(interner: &Interner, found: &RouteMatch) -> Self {
        let params = found.params();
        let atoms = params.atoms().map(|(name, value)| {
            // As a handler would see it; what is not UTF-8 when decoded stays as it was sent.
            let decoded = percent_decode_str(value).decode_utf8();
            (
                interner.intern(name),
                interner.intern(decoded.as_deref().unwrap_or(value)),
            )
        });
        Self {
            template: interner.intern(found.template()),
            params: atoms.collect(),
        }
    }

    /// The template.
    #[must_use]
    pub const fn template(&self) -> &Atom {
        &self.template
    }

    /// A parameter that the template declares as `{name:atom}`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Atom> {
        self.params
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    /// All such parameters.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Atom, &Atom)> {
        self.params.iter().map(|(name, value)| (name, value))
    }
}
