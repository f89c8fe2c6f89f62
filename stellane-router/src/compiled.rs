//! How the compiled routes are made and looked up.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, Weak},
};

use http::{HeaderValue, Method};

use crate::{
    endpoint::OwnEndpoint,
    foreign::ForeignExtractor,
    host::host_of,
    matcher::{spans::Spans, tree::Visit},
    methods::{self, Methods},
    report::{BuildReport, Problem},
    types::{Compiled, Endpoint, Entry, RouteId, Routes, SlashPolicy, Tables},
};

/// A route as declared, prefixes and layers applied.
#[derive(Clone)]
pub(crate) struct Definition {
    pub(crate) template: String,
    pub(crate) host: Option<String>,
    /// `None` takes any method.
    pub(crate) method: Option<Method>,
    pub(crate) endpoint: Option<Arc<dyn Endpoint>>,
    /// What the router answers by itself, in the layers of the scopes around it, if there are any.
    pub(crate) own: Option<Arc<dyn Endpoint>>,
    /// Instead of 405, of the innermost scope that has it.
    pub(crate) not_allowed: Option<Arc<dyn Endpoint>>,
    /// Of the innermost scope that has one.
    pub(crate) slash: Option<SlashPolicy>,
    pub(crate) name: Option<Box<str>>,
    /// What its handler takes of axum that may work with the template.
    #[cfg_attr(not(feature = "axum-08"), expect(dead_code, reason = "none works"))]
    pub(crate) foreign: Vec<ForeignExtractor>,
}

impl Definition {
    pub(crate) fn new(
        template: String,
        method: Option<Method>,
        endpoint: Arc<dyn Endpoint>,
    ) -> Self {
        Self {
            method,
            endpoint: Some(endpoint),
            ..Self::bare(template)
        }
    }

    /// Of a table that only says what matches.
    pub(crate) const fn bare(template: String) -> Self {
        Self {
            template,
            host: None,
            method: None,
            endpoint: None,
            own: None,
            not_allowed: None,
            slash: None,
            name: None,
            foreign: Vec::new(),
        }
    }
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
        problems: Vec<Problem>,
    ) -> Result<Arc<Self>, BuildReport> {
        let mut report = BuildReport {
            problems,
            warnings: Vec::new(),
        };
        let methods = Methods::new(routes.iter().filter_map(|r| r.method.as_ref()));
        let methods = methods.unwrap_or_else(|| {
            report.problems.push(Problem::TooManyMethods);
            Methods::default()
        });
        let routes = Routes::build(routes, &methods, &mut report);
        let names = names(&routes.entries, &mut report);
        let fallbacks = Routes::of_scopes(fallbacks, &methods, &mut report);
        if !report.problems.is_empty() {
            return Err(report);
        }
        let every = routes.entries.iter().fold(0, |set, e| set | e.methods);
        let allow_all = methods.allow(every);
        Ok(Self::of(Arc::new(Tables {
            methods,
            lenient: routes
                .entries
                .iter()
                .any(|e| e.slash != SlashPolicy::Strict),
            routes,
            fallbacks,
            unmatched: Entry::unmatched(),
            allow_all,
            names,
            warnings: report.warnings,
        })))
    }

    fn of(tables: Arc<Tables>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            tables,
        })
    }

    /// The same tables, with a count of references of its own: one that all cores write costs a request more than to find
    /// its route.
    pub(crate) fn apart(&self) -> Arc<Self> {
        Self::of(Arc::clone(&self.tables))
    }
}

impl Deref for Compiled {
    type Target = Tables;

    #[inline]
    fn deref(&self) -> &Tables {
        &self.tables
    }
}

impl Tables {
    #[inline]
    pub(crate) fn entry(&self, id: RouteId) -> &Entry {
        match self.routes.entries.get(id.index()) {
            Some(entry) => entry,
            None => self.fallback_entry(id),
        }
    }

    #[cold]
    fn fallback_entry(&self, id: RouteId) -> &Entry {
        let entry = id.as_fallback().and_then(|i| self.fallbacks.entries.get(i));
        entry.unwrap_or(&self.unmatched)
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
        let entry = self.routes.entries.get(route as usize)?;
        // Not one that has the same shape: without parameters that is the same template.
        Some((entry.endpoint(bit)?, route))
    }

    /// The answer to a request: one walk, unless the method is not there.
    #[inline]
    pub(crate) fn look_up(&self, host: Option<&str>, bit: u32, path: &str) -> Found<'_> {
        let mut search = Search {
            entries: &self.routes.entries,
            bit,
            found: 0,
            allow: 0,
            first: None,
        };
        let mut spans = Spans::EMPTY;
        if self
            .routes
            .find(host, path, &mut search, &mut spans)
            .is_some()
            && let route = search.found
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
        size_of::<Self>() + self.routes.heap_bytes() + self.fallbacks.heap_bytes()
    }

    /// What answers instead of the router itself, if a layer or a handler is there for it, and the values of the
    /// path's parameters.
    pub(crate) fn own(
        &self,
        host: Option<&str>,
        path: &str,
        route: u32,
    ) -> Option<(&dyn Endpoint, Spans)> {
        let mut chain = chain(&self.routes.entries, route).map(|(_, entry)| entry);
        let endpoint = chain.find_map(|e| {
            e.own
                .as_deref()
                .or(e.not_allowed.as_deref().map(|_| &OwnEndpoint as _))
        })?;
        let mut spans = Spans::EMPTY;
        self.routes
            .find(host, path, &mut OnlyLeaf(route), &mut spans)?;
        Some((endpoint, spans))
    }

    /// The fallback of the innermost scope that holds the path; what is not a path, as of `CONNECT`, is in
    /// the outermost.
    pub(crate) fn fallback(
        &self,
        host: Option<&str>,
        path: &str,
    ) -> Option<(&dyn Endpoint, RouteId, Spans)> {
        let path = if path.starts_with('/') { path } else { "/" };
        let mut spans = Spans::EMPTY;
        let route = self.fallbacks.find(host, path, &mut AnyLeaf, &mut spans)?;
        let endpoint = self.fallbacks.entries[route as usize].any.as_deref()?;
        Some((endpoint, RouteId::fallback(route), spans))
    }
}

fn names(entries: &[Entry], report: &mut BuildReport) -> BTreeMap<Box<str>, u32> {
    let mut names = BTreeMap::new();
    for (entry, route) in entries.iter().zip(0..) {
        for name in &entry.names {
            if names
                .insert(name.clone(), route)
                .is_some_and(|other| other != route)
            {
                report.problems.push(Problem::Name {
                    name: name.to_string(),
                    reason: "routes with other templates have it too: give each its own",
                });
            }
        }
    }
    names
}

/// The end of a chain of entries.
pub(crate) const NO_ENTRY: u32 = u32::MAX;

impl Entry {
    fn heap_bytes(&self) -> usize {
        self.template.len()
            + self.host.as_ref().map_or(0, |host| host.len())
            + self.allow.len()
            + self.pattern.heap_bytes()
            + size_of_val(&*self.endpoints)
            + self
                .names
                .iter()
                .map(|name| size_of_val(name) + name.len())
                .sum::<usize>()
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
    /// The leaf of the best route that `visit` takes: among those of the host first, then the others.
    #[inline]
    pub(crate) fn find(
        &self,
        host: Option<&str>,
        path: &str,
        visit: &mut impl Visit,
        spans: &mut Spans,
    ) -> Option<u32> {
        if !self.hosts.is_empty()
            && let Some(host) = host
            && let Some(found) = self.find_in_host(host_of(host), path, visit, spans)
        {
            return Some(found);
        }
        self.tree.walk(path.as_bytes(), visit, spans)
    }

    fn find_in_host(
        &self,
        host: &str,
        path: &str,
        visit: &mut impl Visit,
        spans: &mut Spans,
    ) -> Option<u32> {
        self.hosts
            .iter()
            .filter(|(pattern, _)| pattern.matches(host))
            .find_map(|(_, tree)| tree.walk(path.as_bytes(), visit, spans))
    }

    fn heap_bytes(&self) -> usize {
        let entries: usize = self.entries.iter().map(Entry::heap_bytes).sum();
        let hosts: usize = self
            .hosts
            .iter()
            .map(|(host, tree)| host.heap_bytes() + tree.heap_bytes())
            .sum();
        size_of_val(&*self.entries)
            + size_of_val(&*self.hosts)
            + entries
            + hosts
            + self.tree.heap_bytes()
            + self.exact.heap_bytes()
    }

    pub(crate) fn has_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }
}

pub(crate) fn chain(entries: &[Entry], leaf: u32) -> impl Iterator<Item = (u32, &Entry)> {
    let at = |i: u32| entries.get(i as usize).map(|entry| (i, entry));
    std::iter::successors(at(leaf), move |(_, entry)| at(entry.next))
}

/// Takes the first route with the method, and remembers what others allow.
struct Search<'t> {
    entries: &'t [Entry],
    bit: u32,
    /// The route, once one was taken.
    found: u32,
    allow: u32,
    first: Option<u32>,
}

impl Visit for Search<'_> {
    #[inline]
    fn leaf(&mut self, leaf: u32) -> bool {
        self.first.get_or_insert(leaf);
        let mut route = leaf;
        while let Some(entry) = self.entries.get(route as usize) {
            if entry.takes & self.bit != 0 {
                self.found = route;
                return true;
            }
            self.allow |= entry.methods;
            route = entry.next;
        }
        false
    }
}

/// Takes any route.
pub(crate) struct AnyLeaf;

impl Visit for AnyLeaf {
    fn leaf(&mut self, _: u32) -> bool {
        true
    }
}

/// Takes one leaf.
struct OnlyLeaf(u32);

impl Visit for OnlyLeaf {
    fn leaf(&mut self, leaf: u32) -> bool {
        leaf == self.0
    }
}
