//! The types that name each other: a body carries its route, a route is of a table, a table has endpoints, and an endpoint
//! takes a body. What they do is in the files beside this one.

#[cfg(feature = "axum-08")]
use std::sync::OnceLock;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use http::{HeaderValue, Response, request::Parts, uri::PathAndQuery};

#[cfg(feature = "axum-08")]
use crate::axum_view::AxumView;
use crate::{
    host::HostPattern,
    matcher::{exact::Exact, pattern::Pattern, spans::Spans, tree::Tree},
    methods::Methods,
    recycled_box::{RecycledBox, RecycledFuture},
    report::Problem,
};

/// The number of a route in its table; the same for the same set of routes, however they were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub(crate) u32);

impl RouteId {
    const FALLBACKS: u32 = 1 << 31;

    /// Of a request that a fallback answers: not of a route of the table.
    pub(crate) const fn fallback(index: u32) -> Self {
        Self(Self::FALLBACKS | index)
    }

    pub(crate) const fn as_fallback(self) -> Option<usize> {
        match self.0 & Self::FALLBACKS {
            0 => None,
            _ => Some((self.0 & !Self::FALLBACKS) as usize),
        }
    }

    pub(crate) const fn is_route(self) -> bool {
        self.as_fallback().is_none()
    }

    /// The number, from 0 to the number of routes.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a path with one slash too many or too few at its end gets.
///
/// A policy holds for a scope and all scopes in it that have none of their own. Of the scopes that
/// share a template, the most lenient decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum SlashPolicy {
    /// 404: `/a` and `/a/` are different.
    #[default]
    Strict,
    /// 308 to the path that exists, whatever the method; the query is kept.
    Redirect,
    /// The same answer as the path that exists, its 405 and `OPTIONS` included.
    Ignore,
}

/// A compiled set of routes: cheap to clone, never changes.
///
/// A [`Router`](crate::Router) holds one, and so does a [`RouteLayer`](crate::RouteLayer).
///
/// ```
/// use stellane_router::RouteTable;
///
/// let table = RouteTable::new(["/users/{id:u64}", "/users/me"])?;
/// let found = table.find("/users/42").unwrap();
/// assert_eq!(found.template(), "/users/{id:u64}");
/// assert_eq!(found.params().get("id"), Some("42"));
/// assert!(table.find("/users/someone").is_none());
/// # Ok::<(), stellane_router::BuildReport>(())
/// ```
#[derive(Clone)]
pub struct RouteTable(pub(crate) Arc<Compiled>);

/// A route of a table: what a metrics label or a listing needs.
#[derive(Clone)]
pub struct RouteInfo {
    pub(crate) table: RouteTable,
    pub(crate) id: RouteId,
}

/// The route a request matched and its parameters, as a value of its own.
///
/// An extractor, and the one extension a [`RouteLayer`](crate::RouteLayer) leaves behind.
#[derive(Clone)]
pub struct RouteMatch {
    pub(crate) route: RouteInfo,
    pub(crate) spans: Spans,
    pub(crate) source: PathAndQuery,
}

/// A match, borrowed from the table that found it.
#[derive(Clone, Copy)]
pub struct Matched<'a> {
    pub(crate) table: &'a Compiled,
    pub(crate) id: RouteId,
    pub(crate) spans: Spans,
    /// What the spans refer to, if not to the request's own URI.
    pub(crate) source: Option<&'a PathAndQuery>,
}

/// Answers a request; called by reference, so that nothing is cloned for a request.
pub(crate) trait Endpoint: Send + Sync {
    fn call<'a>(
        &'a self,
        parts: Parts,
        body: Body,
        matched: Matched<'a>,
    ) -> RecycledFuture<'a, Answer>;
}

/// What an endpoint's future yields: as the service does, so that it is written where it belongs.
pub(crate) type Answer = Result<Response<Body>, Infallible>;

/// The body of a request or response: empty, one piece, or a stream in a box.
///
/// Only the stream costs an allocation. The body of a response also carries out the route that made
/// it, for a layer around the router to read; see [`route`](Self::route).
#[derive(Debug, Default)]
pub struct Body {
    pub(crate) content: Content,
    pub(crate) carried: Carried,
}

#[derive(Debug, Default)]
pub(crate) enum Content {
    #[default]
    Empty,
    Once(Bytes),
    Stream(axum_core::body::Body),
}

#[derive(Debug, Default)]
pub(crate) enum Carried {
    #[default]
    Nothing,
    /// To the handler, through the layers around it.
    In(RecycledBox<RouteMatch>),
    /// To the layers around the router.
    Out(RouteInfo),
}

/// The compiled, immutable form of the routes: what a request meets. Behind a count of references of which there are
/// several, see [`apart`](Self::apart): it has a cache line, and the one that is fetched with it, for itself.
#[repr(align(128))]
pub(crate) struct Compiled {
    /// Itself, for what must outlive a borrow.
    pub(crate) me: Weak<Self>,
    pub(crate) tables: Arc<Tables>,
}

pub(crate) struct Tables {
    pub(crate) methods: Methods,
    /// Whether any route is other than strict about its last slash.
    pub(crate) lenient: bool,
    pub(crate) routes: Routes,
    /// Scopes with a fallback, as templates of their own.
    pub(crate) fallbacks: Routes,
    /// What an id refers to that is of no route.
    pub(crate) unmatched: Entry,
    /// `Allow` for `OPTIONS *`.
    pub(crate) allow_all: HeaderValue,
    /// The routes that have a name.
    pub(crate) names: BTreeMap<Box<str>, u32>,
    /// What is likely wrong.
    pub(crate) warnings: Vec<Problem>,
}

/// The templates of a table, and the trees that find them.
#[derive(Default)]
pub(crate) struct Routes {
    pub(crate) entries: Vec<Entry>,
    /// Hosts, the most specific first.
    pub(crate) hosts: Vec<(HostPattern, Tree)>,
    pub(crate) tree: Tree,
    /// Of the routes without a host.
    pub(crate) exact: Exact,
}

/// A template, and who answers there.
pub(crate) struct Entry {
    pub(crate) template: Box<str>,
    pub(crate) host: Option<Box<str>>,
    pub(crate) pattern: Pattern,
    /// The methods registered.
    pub(crate) methods: u32,
    /// Takes every method that no other entry of its shape has.
    pub(crate) takes_any: bool,
    /// All methods that are for this route, those that follow from others too.
    pub(crate) takes: u32,
    /// Of the templates that differ only in the names of their parameters, the next; their leaf in
    /// the tree is the first.
    pub(crate) next: u32,
    pub(crate) slash: SlashPolicy,
    pub(crate) allow: HeaderValue,
    /// In the order of the bits of `methods`.
    pub(crate) endpoints: Box<[Option<Arc<dyn Endpoint>>]>,
    pub(crate) any: Option<Arc<dyn Endpoint>>,
    pub(crate) own: Option<Arc<dyn Endpoint>>,
    pub(crate) not_allowed: Option<Arc<dyn Endpoint>>,
    pub(crate) names: Vec<Box<str>>,
    /// Made when a handler first takes an extractor of axum.
    #[cfg(feature = "axum-08")]
    pub(crate) axum: OnceLock<AxumView>,
}
