//! The route table as users see it.

use std::{borrow::Cow, fmt};

use http::Method;

use crate::{
    compiled::{AnyLeaf, Definition},
    escape, explain,
    matcher::spans::Spans,
    params::Params,
    report::{BuildReport, Problem},
    scan,
    types::{Compiled, RouteId, RouteInfo, RouteTable},
};

impl RouteTable {
    /// A table of templates that match whatever the method: for a [`RouteLayer`](crate::RouteLayer).
    ///
    /// # Errors
    ///
    /// All problems of the templates at once.
    pub fn new<T: AsRef<str>>(templates: impl IntoIterator<Item = T>) -> Result<Self, BuildReport> {
        let routes = templates
            .into_iter()
            .map(|template| Definition::bare(template.as_ref().to_owned()));
        Compiled::build(routes.collect(), Vec::new(), Vec::new()).map(Self)
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

    /// What the table takes of memory, handlers not counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// What is likely wrong with the routes, and kept no one from building the table: routes that seem never to
    /// answer, where that is not proven for all paths.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.0.warnings
    }

    /// Finds the route of a path, whatever its methods, among those without a host.
    ///
    /// The path is read as a router reads it, and nothing is allocated unless it is not in the form in which
    /// paths are compared; see the [crate docs](crate#paths).
    #[must_use]
    #[inline]
    pub fn find<'a>(&'a self, path: &'a str) -> Option<Located<'a>> {
        let routes = &self.0.routes;
        if let Some(route) = routes.exact.find(path.as_bytes()) {
            return Some(self.located(route, Spans::EMPTY, Cow::Borrowed(path)));
        }
        let mut spans = Spans::EMPTY;
        match routes.tree.walk(path.as_bytes(), &mut AnyLeaf, &mut spans) {
            Some(route) if spans.are_plain(path.as_bytes()) => {
                Some(self.located(route, spans, Cow::Borrowed(path)))
            }
            None if scan::is_plain(path.as_bytes(), 0, path.len()) => None,
            found => self.find_odd(path, found, &mut spans),
        }
    }

    /// What was found for a path that may not be in canonical form.
    #[cold]
    fn find_odd<'a>(
        &'a self,
        path: &'a str,
        found: Option<u32>,
        spans: &mut Spans,
    ) -> Option<Located<'a>> {
        let path = escape::canonical(path)?;
        let routes = &self.0.routes;
        let route = match path {
            Cow::Borrowed(_) => found?,
            Cow::Owned(_) => routes.find(None, &path, &mut AnyLeaf, spans)?,
        };
        Some(self.located(route, *spans, path))
    }

    #[inline]
    fn located<'a>(&'a self, route: u32, spans: Spans, path: Cow<'a, str>) -> Located<'a> {
        Located {
            table: &self.0,
            id: RouteId(route),
            spans,
            path,
        }
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
        explain::explain(&self.0.routes.entries, &self.0.methods, path)
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
    path: Cow<'a, str>,
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
            &self.path,
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

    /// The names given to the route, in alphabetical order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.table.0.entry(self.id).names.iter().map(|name| &**name)
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
