//! The compiled, immutable form of the routes: what a request meets.

use std::sync::{Arc, Weak};

use http::{HeaderValue, Method};

use crate::endpoint::Endpoint;
use crate::host::{HostPattern, host_of};
use crate::matcher::exact::Exact;
use crate::matcher::pattern::{Pattern, Token};
use crate::matcher::tree::{Spans, Tree, Visit};
use crate::methods::{self, Methods};
use crate::report::{BuildReport, Problem};
use crate::table::{RouteId, SlashPolicy};

/// A route as declared, prefixes and layers applied.
#[derive(Clone)]
pub(crate) struct Definition {
    pub(crate) template: String,
    pub(crate) host: Option<String>,
    /// `None` takes any method.
    pub(crate) method: Option<Method>,
    pub(crate) endpoint: Option<Arc<dyn Endpoint>>,
    /// Of the innermost scope that has one.
    pub(crate) slash: Option<SlashPolicy>,
}

pub(crate) struct Compiled {
    /// Itself, for what must outlive a borrow.
    pub(crate) me: Weak<Self>,
    pub(crate) methods: Methods,
    /// Whether any route is other than strict about its last slash.
    pub(crate) lenient: bool,
    pub(crate) routes: Routes,
    /// Scopes with a fallback, as templates of their own.
    fallbacks: Routes,
    /// What [`RouteId::NONE`] refers to.
    unmatched: Entry,
    /// `Allow` for `OPTIONS *`.
    pub(crate) allow_all: HeaderValue,
}

/// What a lookup found.
pub(crate) enum Found<'t> {
    Endpoint {
        endpoint: &'t dyn Endpoint,
        route: u32,
        spans: Spans,
    },
    /// `OPTIONS` without a route of its own.
    Options {
        allow: HeaderValue,
        route: u32,
    },
    NotAllowed {
        allow: HeaderValue,
        route: u32,
    },
    Nothing,
}

impl Compiled {
    pub(crate) fn build(
        routes: Vec<Definition>,
        fallbacks: Vec<Definition>,
    ) -> Result<Arc<Self>, BuildReport> {
        let mut problems = Vec::new();
        let methods = Methods::new(routes.iter().filter_map(|r| r.method.as_ref()));
        let methods = methods.unwrap_or_else(|| {
            problems.push(Problem::TooManyMethods);
            Methods::default()
        });
        let routes = Routes::build(routes, &methods, &mut problems);
        let fallbacks = Routes::build(fallbacks, &methods, &mut problems);
        if !problems.is_empty() {
            return Err(BuildReport::new(problems));
        }
        let every = routes.entries.iter().fold(0, |set, e| set | e.methods);
        let allow_all = methods.allow(every);
        Ok(Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            methods,
            lenient: routes
                .entries
                .iter()
                .any(|e| e.slash != SlashPolicy::Strict),
            routes,
            fallbacks,
            unmatched: Entry::unmatched(),
            allow_all,
        }))
    }

    #[inline]
    pub(crate) fn entry(&self, id: RouteId) -> &Entry {
        self.routes
            .entries
            .get(id.index())
            .unwrap_or(&self.unmatched)
    }

    /// The endpoint whose template is the path itself: there is none better, and no escape in the path. `None` says
    /// nothing.
    #[inline]
    pub(crate) fn look_up_exact(&self, bit: u32, path: &str) -> Option<(&dyn Endpoint, u32)> {
        // Routes of a host come before these.
        if self.routes.has_hosts() {
            return None;
        }
        let route = self.routes.exact.find(path.as_bytes())?;
        let endpoint = self.routes.entries.get(route as usize)?.endpoint(bit)?;
        Some((endpoint, route))
    }

    /// The answer to a request: one walk, unless the method is not there.
    #[inline]
    pub(crate) fn look_up(&self, host: Option<&str>, bit: u32, path: &str) -> Found<'_> {
        let mut search = Search {
            entries: &self.routes.entries,
            bit,
            allow: 0,
            first: None,
        };
        if let Some((route, spans)) = self.routes.find(host, path, &mut search)
            && let Some(endpoint) = self.routes.entries[route as usize].endpoint(bit)
        {
            return Found::Endpoint {
                endpoint,
                route,
                spans,
            };
        }
        let Search { allow, first, .. } = search;
        self.missed(bit, allow, first)
    }

    #[cold]
    fn missed(&self, bit: u32, allow: u32, first: Option<u32>) -> Found<'_> {
        let Some(route) = first else {
            return Found::Nothing;
        };
        let entry = &self.routes.entries[route as usize];
        let allow = if entry.methods == allow {
            entry.allow.clone()
        } else {
            self.methods.allow(allow)
        };
        match bit {
            methods::OPTIONS => Found::Options { allow, route },
            _ => Found::NotAllowed { allow, route },
        }
    }

    pub(crate) fn needs_host(&self) -> bool {
        self.routes.has_hosts() || self.fallbacks.has_hosts()
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.routes.bytes() + self.fallbacks.bytes()
    }

    /// The fallback of the innermost scope that holds the path.
    pub(crate) fn fallback(&self, host: Option<&str>, path: &str) -> Option<&dyn Endpoint> {
        let (route, _) = self.fallbacks.find(host, path, &mut AnyLeaf)?;
        self.fallbacks.entries[route as usize].any.as_deref()
    }
}

/// The templates of a table, and the trees that find them.
#[derive(Default)]
pub(crate) struct Routes {
    pub(crate) entries: Vec<Entry>,
    /// Hosts, the most specific first, and the id of the first route of each.
    pub(crate) hosts: Vec<(HostPattern, Tree, u32)>,
    pub(crate) tree: Tree,
    /// Of the routes without a host.
    pub(crate) exact: Exact,
}

pub(crate) struct Entry {
    pub(crate) template: Box<str>,
    pub(crate) host: Option<Box<str>>,
    pub(crate) pattern: Pattern,
    /// The methods registered.
    pub(crate) methods: u32,
    /// Takes every method.
    pub(crate) takes_any: bool,
    pub(crate) slash: SlashPolicy,
    pub(crate) allow: HeaderValue,
    /// In the order of the bits of `methods`.
    pub(crate) endpoints: Vec<Option<Arc<dyn Endpoint>>>,
    pub(crate) any: Option<Arc<dyn Endpoint>>,
}

impl Entry {
    /// Whether a request with this method is for this route.
    #[inline]
    pub(crate) const fn takes(&self, bit: u32) -> bool {
        self.methods & bit != 0
            || self.takes_any
            || (bit == methods::HEAD && self.methods & methods::GET != 0)
    }

    fn bytes(&self) -> usize {
        let params = self.pattern.params.iter();
        size_of::<Self>()
            + self.template.len()
            + self.host.as_ref().map_or(0, |host| host.len())
            + self.allow.len()
            + self.pattern.tokens.len() * size_of::<Token>()
            + params.map(|p| size_of_val(p) + p.name.len()).sum::<usize>()
            + self.endpoints.len() * size_of::<Option<Arc<dyn Endpoint>>>()
    }

    #[inline]
    fn endpoint(&self, bit: u32) -> Option<&dyn Endpoint> {
        let bit = match bit {
            methods::HEAD if self.methods & methods::HEAD == 0 => methods::GET,
            _ => bit,
        };
        if self.methods & bit == 0 {
            return self.any.as_deref();
        }
        let below = match self.methods & (bit - 1) {
            // Counting bits takes a dozen instructions, and `GET` is the lowest.
            0 => 0,
            below => below.count_ones(),
        };
        self.endpoints[below as usize].as_deref()
    }
}

impl Routes {
    /// The best route that `visit` takes: among those of the host first, then the others.
    #[inline]
    pub(crate) fn find<V: ByRoute>(
        &self,
        host: Option<&str>,
        path: &str,
        visit: &mut V,
    ) -> Option<(u32, Spans)> {
        if let Some(found) = self.find_in_host(host, path, visit) {
            return Some(found);
        }
        self.tree
            .walk(path.as_bytes(), &mut Offset { offset: 0, visit })
    }

    #[inline]
    fn find_in_host<V: ByRoute>(
        &self,
        host: Option<&str>,
        path: &str,
        visit: &mut V,
    ) -> Option<(u32, Spans)> {
        if self.hosts.is_empty() {
            return None;
        }
        let host = host_of(host?);
        self.hosts
            .iter()
            .filter(|(pattern, ..)| pattern.matches(host))
            .find_map(|(_, tree, offset)| {
                let mut visit = Offset {
                    offset: *offset,
                    visit: &mut *visit,
                };
                let (leaf, spans) = tree.walk(path.as_bytes(), &mut visit)?;
                Some((leaf + offset, spans))
            })
    }

    fn bytes(&self) -> usize {
        let entries: usize = self.entries.iter().map(Entry::bytes).sum();
        let hosts: usize = self.hosts.iter().map(|(_, tree, _)| tree.bytes()).sum();
        entries + hosts + self.tree.bytes() + self.exact.bytes()
    }

    pub(crate) fn has_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }
}

/// [`Visit`], by the number of the route in its table.
pub(crate) trait ByRoute {
    fn route(&mut self, route: u32) -> bool;
}

/// Leaves are numbered within a host, routes within the table.
struct Offset<'v, V> {
    offset: u32,
    visit: &'v mut V,
}

impl<V: ByRoute> Visit for Offset<'_, V> {
    #[inline]
    fn leaf(&mut self, leaf: u32) -> bool {
        self.visit.route(leaf + self.offset)
    }
}

/// Takes the first route with the method, and remembers what others allow.
struct Search<'t> {
    entries: &'t [Entry],
    bit: u32,
    allow: u32,
    first: Option<u32>,
}

impl ByRoute for Search<'_> {
    #[inline]
    fn route(&mut self, route: u32) -> bool {
        let entry = &self.entries[route as usize];
        if entry.takes(self.bit) {
            return true;
        }
        self.allow |= entry.methods;
        self.first.get_or_insert(route);
        false
    }
}

/// Takes any route.
pub(crate) struct AnyLeaf;

impl ByRoute for AnyLeaf {
    fn route(&mut self, _: u32) -> bool {
        true
    }
}
