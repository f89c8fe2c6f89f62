use http::Request;
use percent_encoding::percent_decode_str;

use super::{Atom, Interner};
use crate::{RouteMatch, RouteTable, layer::find};

/// The interned parts of a request's route; an extension that [`InternLayer::routes`](crate::InternLayer::routes) leaves.
#[derive(Debug, Clone)]
pub struct InternedRoute {
    template: Atom,
    params: Vec<(Atom, Atom)>,
}

impl InternedRoute {
    /// Of a request that was matched already, or is by this table.
    pub(super) fn of<B>(
        interner: &Interner,
        table: &RouteTable,
        request: &Request<B>,
    ) -> Option<Self> {
        match request.extensions().get() {
            Some(known) => Some(Self::new(interner, known)),
            None => find(&table.0, request).map(|found| Self::new(interner, &found)),
        }
    }

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
