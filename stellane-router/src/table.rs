//! The compiled, immutable route table.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use http::{HeaderValue, Method};

use crate::endpoint::Endpoint;
use crate::host::{HostPattern, host_of};
use crate::matcher::pattern::Pattern;
use crate::matcher::tree::{Spans, Tree, Visit};
use crate::methods::{self, Methods};
use crate::params::Params;
use crate::report::{BuildReport, Problem};
use crate::witness;

/// The number of a route in its table; the same for the same set of routes, however they were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub(crate) u32);

impl RouteId {
    /// Of a request that a fallback answers.
    pub(crate) const NONE: Self = Self(u32::MAX);

    /// The number, from 0 to the number of routes.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a path with one slash too many or too few at its end gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum SlashPolicy {
    /// 404: `/a` and `/a/` are different.
    #[default]
    Strict,
    /// 308 to the path that exists; the query is kept.
    Redirect,
    /// The same answer as the path that exists.
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

impl RouteTable {
    /// A table of templates that match whatever the method: for a [`RouteLayer`](crate::RouteLayer).
    ///
    /// # Errors
    ///
    /// All problems of the templates at once.
    pub fn new<T: AsRef<str>>(templates: impl IntoIterator<Item = T>) -> Result<Self, BuildReport> {
        let routes = templates.into_iter().map(|template| Definition {
            template: template.as_ref().to_owned(),
            host: None,
            method: None,
            endpoint: None,
        });
        Compiled::build(routes.collect(), Vec::new(), SlashPolicy::Strict).map(Self)
    }

    /// All routes, in the order of their ids.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = RouteInfo> {
        (0..self.0.routes.entries.len() as u32).map(|id| RouteInfo {
            table: self.clone(),
            id: RouteId(id),
        })
    }

    /// The number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.routes.entries.len()
    }

    /// Whether there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Finds the route of a path, whatever its methods, among those without a host; allocates
    /// nothing.
    #[must_use]
    pub fn find<'a>(&'a self, path: &'a str) -> Option<Located<'a>> {
        let (route, spans) = self.0.routes.find(None, path, &mut AnyLeaf)?;
        Some(Located {
            table: &self.0,
            id: RouteId(route),
            spans,
            path,
        })
    }

    /// Says which routes match a path and which of them is preferred, for a person to read.
    ///
    /// ```
    /// # use stellane_router::RouteTable;
    /// let table = RouteTable::new(["/users/{id:u64}", "/users/{name}", "/users/me"])?;
    /// let why = table.explain("/users/7");
    /// assert!(why.starts_with("/users/7\n  1. /users/{id:u64}"), "{why}");
    /// # Ok::<(), stellane_router::BuildReport>(())
    /// ```
    #[must_use]
    pub fn explain(&self, path: &str) -> String {
        witness::explain(&self.0.routes.entries, &self.0.methods, path)
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let templates = self.0.routes.entries.iter().map(|e| &e.template);
        f.debug_list().entries(templates).finish()
    }
}

/// The route of a path, as [`RouteTable::find`] finds it.
pub struct Located<'a> {
    table: &'a Compiled,
    id: RouteId,
    spans: Spans,
    path: &'a str,
}

impl<'a> Located<'a> {
    /// The number of the route in its table.
    #[must_use]
    pub const fn id(&self) -> RouteId {
        self.id
    }

    /// The whole template.
    #[must_use]
    pub fn template(&self) -> &'a str {
        &self.table.entry(self.id).template
    }

    /// The parameters: spans of the path.
    #[must_use]
    pub fn params(&self) -> Params<'_> {
        Params::new(
            &self.table.entry(self.id).pattern.params,
            &self.spans,
            self.path,
        )
    }
}

impl fmt::Debug for Located<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Located")
            .field("template", &self.template())
            .field("params", &self.params())
            .finish()
    }
}

/// A route of a table: what a metrics label or a listing needs.
#[derive(Clone)]
pub struct RouteInfo {
    pub(crate) table: RouteTable,
    pub(crate) id: RouteId,
}

impl RouteInfo {
    /// The number of the route in its table.
    #[must_use]
    pub const fn id(&self) -> RouteId {
        self.id
    }

    /// The whole template, with the prefixes it was nested under.
    #[must_use]
    pub fn template(&self) -> &str {
        &self.table.0.entry(self.id).template
    }

    /// The host the route was declared for, if any.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.table.0.entry(self.id).host.as_deref()
    }

    /// The names of the parameters, in the order of the template.
    pub fn params(&self) -> impl ExactSizeIterator<Item = &str> {
        self.table
            .0
            .entry(self.id)
            .pattern
            .params
            .iter()
            .map(|p| &*p.name)
    }

    /// The methods registered; empty if the route takes any.
    #[must_use]
    pub fn methods(&self) -> Vec<Method> {
        self.table
            .0
            .methods
            .list(self.table.0.entry(self.id).methods)
    }

    /// The table the route belongs to.
    #[must_use]
    pub const fn table(&self) -> &RouteTable {
        &self.table
    }
}

impl fmt::Debug for RouteInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteInfo")
            .field("id", &self.id.0)
            .field("template", &self.template())
            .field("host", &self.host())
            .field("methods", &self.methods())
            .finish()
    }
}

/// A route as declared, prefixes and layers applied.
#[derive(Clone)]
pub(crate) struct Definition {
    pub(crate) template: String,
    pub(crate) host: Option<String>,
    /// `None` takes any method.
    pub(crate) method: Option<Method>,
    pub(crate) endpoint: Option<Arc<dyn Endpoint>>,
}

pub(crate) struct Compiled {
    /// Itself, for what must outlive a borrow.
    pub(crate) me: Weak<Self>,
    pub(crate) methods: Methods,
    pub(crate) slash: SlashPolicy,
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
        slash: SlashPolicy,
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
            slash,
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
    hosts: Vec<(HostPattern, Tree, u32)>,
    tree: Tree,
}

pub(crate) struct Entry {
    pub(crate) template: Box<str>,
    pub(crate) host: Option<Box<str>>,
    pub(crate) pattern: Pattern,
    /// The methods registered.
    pub(crate) methods: u32,
    /// Takes every method.
    pub(crate) takes_any: bool,
    allow: HeaderValue,
    /// In the order of the bits of `methods`.
    endpoints: Vec<Option<Arc<dyn Endpoint>>>,
    any: Option<Arc<dyn Endpoint>>,
}

impl Entry {
    /// Whether a request with this method is for this route.
    #[inline]
    pub(crate) const fn takes(&self, bit: u32) -> bool {
        self.methods & bit != 0
            || self.takes_any
            || (bit == methods::HEAD && self.methods & methods::GET != 0)
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
        let below = (self.methods & (bit - 1)).count_ones();
        self.endpoints[below as usize].as_deref()
    }
}

impl Routes {
    fn build(definitions: Vec<Definition>, methods: &Methods, problems: &mut Vec<Problem>) -> Self {
        let mut by_template = BTreeMap::<(Option<String>, String), Vec<Definition>>::new();
        for definition in definitions {
            let key = (definition.host.clone(), definition.template.clone());
            by_template.entry(key).or_default().push(definition);
        }
        let mut this = Self::default();
        for ((host, template), group) in by_template {
            match Pattern::parse(&template) {
                Ok(pattern) => {
                    let (host, template) = (host.map(Into::into), template.into());
                    this.entries.push(Entry::new(
                        host, template, pattern, group, methods, problems,
                    ));
                }
                Err(fault) => problems.push(Problem::Template {
                    template,
                    position: fault.position,
                    reason: fault.reason,
                }),
            }
        }
        let mut start = 0;
        while start < this.entries.len() {
            let host = this.entries[start].host.clone();
            let same = this.entries[start..]
                .iter()
                .take_while(|e| e.host == host)
                .count();
            let group = &this.entries[start..start + same];
            let tree = compile(group, problems);
            match host {
                None => this.tree = tree,
                Some(host) => match HostPattern::parse(&host) {
                    Some(pattern) => this.hosts.push((pattern, tree, start as u32)),
                    None => problems.push(Problem::Host {
                        host: host.into(),
                        reason: "expected `name.example` or `*.example`, without a port",
                    }),
                },
            }
            start += same;
        }
        this.hosts.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        this
    }

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

    pub(crate) fn has_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }
}

impl Compiled {
    pub(crate) fn needs_host(&self) -> bool {
        self.routes.has_hosts() || self.fallbacks.has_hosts()
    }
}

/// Compiles the routes of one host and tells what is wrong with them.
fn compile(entries: &[Entry], problems: &mut Vec<Problem>) -> Tree {
    let before = problems.len();
    let mut shapes = BTreeMap::new();
    let mut distinct = Vec::with_capacity(entries.len());
    for entry in entries {
        let shape = entry.pattern.shape();
        let first = *shapes.entry(shape).or_insert(entry);
        if std::ptr::eq(first, entry) {
            distinct.push(entry);
        } else {
            problems.push(Problem::Conflict {
                first: first.template.to_string(),
                second: entry.template.to_string(),
                witness: witness::any(&entry.pattern),
                remedy: "give their parameters the same names, or a constraint to one of them",
            });
        }
    }
    let mut tree = Tree::compile(distinct.iter().map(|e| &e.pattern));
    for (left, right) in tree.take_rivals() {
        for (a, b) in left
            .iter()
            .flat_map(|a| right.iter().map(move |b| (*a, *b)))
        {
            let (a, b) = (distinct[a as usize], distinct[b as usize]);
            let overlap = a.methods & b.methods != 0 || a.takes_any || b.takes_any;
            let Some(witness) = overlap
                .then(|| witness::common(&a.pattern, &b.pattern))
                .flatten()
            else {
                continue;
            };
            problems.push(Problem::Conflict {
                first: a.template.to_string(),
                second: b.template.to_string(),
                witness,
                remedy: "neither is more specific: give one a constraint the other does not meet",
            });
        }
    }
    if problems.len() == before {
        problems.extend(unreachable_routes(entries, &tree));
    }
    tree
}

fn unreachable_routes(entries: &[Entry], tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (leaf, entry) in entries.iter().enumerate() {
        let bits = if entry.takes_any {
            methods::UNNAMED
        } else {
            entry.methods
        };
        let mut shadow = None;
        let reached = witness::paths(&entry.pattern).into_iter().any(|path| {
            (0..32)
                .map(|shift| 1 << shift)
                .filter(|bit| bits & bit != 0)
                .any(|bit| {
                    let mut search = Search {
                        entries,
                        bit,
                        allow: 0,
                        first: None,
                    };
                    let mut visit = Offset {
                        offset: 0,
                        visit: &mut search,
                    };
                    match tree.walk(path.as_bytes(), &mut visit) {
                        Some((found, _)) if found as usize == leaf => true,
                        Some((found, _)) => {
                            shadow.get_or_insert((found, path.clone()));
                            false
                        }
                        None => false,
                    }
                })
        });
        if let (false, Some((by, witness))) = (reached, shadow) {
            problems.push(Problem::Unreachable {
                template: entry.template.to_string(),
                shadowed_by: entries[by as usize].template.to_string(),
                witness,
            });
        }
    }
    problems
}

impl Entry {
    fn new(
        host: Option<Box<str>>,
        template: Box<str>,
        pattern: Pattern,
        group: Vec<Definition>,
        methods: &Methods,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut by_bit = BTreeMap::new();
        let mut any = None;
        let mut takes_any = false;
        let mut twice = false;
        for definition in group {
            match definition.method {
                None => {
                    twice |= takes_any;
                    takes_any = true;
                    any = definition.endpoint;
                }
                Some(method) => {
                    twice |= by_bit
                        .insert(methods.bit(&method), definition.endpoint)
                        .is_some();
                }
            }
        }
        if twice {
            problems.push(Problem::Conflict {
                first: template.to_string(),
                second: template.to_string(),
                witness: witness::any(&pattern),
                remedy: "it is registered twice for one method: remove one",
            });
        }
        let set = by_bit.keys().fold(0, |set, bit| set | bit);
        Self {
            template,
            host,
            pattern,
            methods: set,
            takes_any,
            allow: methods.allow(set),
            endpoints: by_bit.into_values().collect(),
            any,
        }
    }
}

impl Entry {
    fn unmatched() -> Self {
        Self {
            template: "".into(),
            host: None,
            pattern: Pattern {
                tokens: Vec::new(),
                params: Vec::new(),
            },
            methods: 0,
            takes_any: true,
            allow: HeaderValue::from_static(""),
            endpoints: Vec::new(),
            any: None,
        }
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
