//! Which requests are of which class, by the configuration: of the limit, of the drain, or of those with limits of their
//! own.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{Method, Request};
use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer, Class, LimitConfig, RequestHead};
use stellane_router::{BuildReport, RouteTable};

use crate::{config::DrainClass, connection::Incoming};

/// What is said of requests by their paths, methods and gRPC services.
#[derive(Debug)]
pub(super) struct Rules<T> {
    table: RouteTable,
    /// By the number of the route.
    of_route: Vec<Vec<Rule<T>>>,
    /// Of those that name methods and no paths.
    of_any_path: Vec<Rule<T>>,
}

#[derive(Debug, Clone)]
struct Rule<T> {
    /// All, if there are none.
    methods: Vec<Method>,
    of: T,
}

/// What is gathered for [`Rules`].
#[derive(Debug)]
pub(super) struct RulesBuilder<T> {
    by_template: BTreeMap<String, Vec<Rule<T>>>,
    of_any_path: Vec<Rule<T>>,
}

impl<T: Copy> RulesBuilder<T> {
    pub(super) fn new() -> Self {
        Self {
            by_template: BTreeMap::new(),
            of_any_path: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, of: T, paths: &[String], methods: &[String], grpc: &[String]) {
        let methods = methods.iter().filter_map(|name| name.parse().ok());
        let rule = Rule {
            methods: methods.collect(),
            of,
        };
        let services = grpc.iter().map(|service| format!("/{service}/{{method}}"));
        let templates: Vec<_> = paths.iter().cloned().chain(services).collect();
        if templates.is_empty() && !rule.methods.is_empty() {
            self.of_any_path.push(rule.clone());
        }
        for template in templates {
            let rules = self.by_template.entry(template).or_default();
            rules.push(rule.clone());
        }
    }

    pub(super) fn build(mut self) -> Result<Rules<T>, BuildReport> {
        let table = RouteTable::new(self.by_template.keys())?;
        let mut of_route = vec![Vec::new(); table.len()];
        for route in table.routes() {
            if let Some(rules) = self.by_template.remove(route.template()) {
                of_route[route.id().index()] = rules;
            }
        }
        Ok(Rules {
            table,
            of_route,
            of_any_path: self.of_any_path,
        })
    }
}

impl<T: Copy> Rules<T> {
    pub(super) fn find(&self, path: &str, method: &Method) -> Option<T> {
        // Some services take `/a/` and `//a` for `/a`: who writes it so must not be of another class.
        let find = |path| self.table.find(path);
        let located = find(path).or_else(|| find(without_more_slashes(path)?));
        let of_route = located.map(|located| &self.of_route[located.id().index()]);
        let rules = of_route.into_iter().flatten().chain(&self.of_any_path);
        let is_of = |rule: &&Rule<T>| rule.methods.is_empty() || rule.methods.contains(method);
        rules.into_iter().find(is_of).map(|rule| rule.of)
    }

    fn all(&self) -> impl Iterator<Item = T> {
        let rules = self.of_route.iter().flatten().chain(&self.of_any_path);
        rules.map(|rule| rule.of)
    }
}

/// A path without those at its end and all but one at its begin, if it has such.
fn without_more_slashes(path: &str) -> Option<&str> {
    let short = path.trim_end_matches('/');
    let leading = short.len() - short.trim_start_matches('/').len();
    let short = &short[leading.saturating_sub(1)..];
    (short.len() < path.len()).then_some(short)
}

/// How long a drain waits for a request, by `server.drain_classes`; `None` if there are none.
pub(super) fn drain_budget(
    classes: &BTreeMap<String, DrainClass>,
) -> Result<Option<impl Fn(&Request<Incoming>) -> Option<Duration> + use<>>, BuildReport> {
    if classes.is_empty() {
        return Ok(None);
    }
    let mut rules = RulesBuilder::new();
    for class in classes.values() {
        rules.add(class.timeout, &class.paths, &class.methods, &class.grpc);
    }
    let rules = rules.build()?;
    Ok(Some(move |request: &Request<Incoming>| {
        rules.find(request.uri().path(), request.method())
    }))
}

/// What `limit.classes` and `limit.exempt` say of a request, by its path.
#[derive(Debug)]
pub(super) struct Classes {
    rules: Rules<Of>,
    /// How all paths begin that are exempt: most requests are not, and need not be looked up for that.
    exempt_prefix: String,
}

#[derive(Debug, Clone, Copy)]
enum Of {
    Class(Class),
    Exempt,
}

impl Classes {
    pub(super) fn new(config: &LimitConfig, limit: &AdaptiveLimit) -> Result<Self, BuildReport> {
        let mut rules = RulesBuilder::new();
        rules.add(Of::Exempt, &config.exempt, &[], &[]);
        for (name, class) in &config.classes {
            let of = Of::Class(limit.class(name).unwrap_or_default());
            rules.add(of, &class.paths, &class.methods, &class.grpc);
        }
        Ok(Self {
            rules: rules.build()?,
            exempt_prefix: common_prefix(&config.exempt),
        })
    }

    /// A layer that goes by these rules.
    pub(super) fn apply(self, mut layer: AdaptiveLimitLayer) -> AdaptiveLimitLayer {
        let classes = Arc::new(self);
        let has_classes = classes.rules.all().any(|of| matches!(of, Of::Class(_)));
        let of = Arc::clone(&classes);
        layer = layer.exempt(move |head| {
            head.uri.path().starts_with(&of.exempt_prefix)
                && matches!(of.find(head), Some(Of::Exempt))
        });
        if !has_classes {
            return layer;
        }
        layer.classify_request(move |head| match classes.find(head) {
            Some(Of::Class(class)) => class,
            _ => head.extensions.get().copied().unwrap_or_default(),
        })
    }

    fn find(&self, head: RequestHead<'_>) -> Option<Of> {
        self.rules.find(head.uri.path(), head.method)
    }
}

/// Up to the first parameter of any.
fn common_prefix(templates: &[String]) -> String {
    let literal = |template: &String| template.split('{').next().unwrap_or_default().to_owned();
    let common = |one: String, other: String| {
        let same = one
            .chars()
            .zip(other.chars())
            .take_while(|(one, other)| one == other);
        same.map(|(one, _)| one).collect()
    };
    // Without any, what no path begins with.
    let literals = templates.iter().map(literal);
    literals
        .reduce(common)
        .unwrap_or_else(|| "no path".to_owned())
}
