//! Which requests are of which class of the limit, and which need no place, by the configuration.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use stellane_autotune::{AdaptiveLimit, AdaptiveLimitLayer, Class, LimitConfig, RequestHead};
use stellane_router::{BuildReport, RouteTable};

/// What `limit.classes` and `limit.exempt` say of a request, by its path.
#[derive(Debug)]
pub(super) struct Classes {
    table: RouteTable,
    /// By the number of the route.
    of_route: Vec<Vec<Rule>>,
    /// Of classes that name methods and no paths.
    of_any_path: Vec<Rule>,
    /// How all paths begin that are exempt: most requests are not, and need not be looked up for that.
    exempt_prefix: String,
}

#[derive(Debug, Clone)]
struct Rule {
    /// All, if there are none.
    methods: Vec<Method>,
    of: Of,
}

#[derive(Debug, Clone, Copy)]
enum Of {
    Class(Class),
    Exempt,
}

impl Classes {
    pub(super) fn new(config: &LimitConfig, limit: &AdaptiveLimit) -> Result<Self, BuildReport> {
        let mut by_template = BTreeMap::<String, Vec<Rule>>::new();
        let mut of_any_path = Vec::new();
        for template in &config.exempt {
            let rule = Rule {
                methods: Vec::new(),
                of: Of::Exempt,
            };
            by_template.entry(template.clone()).or_default().push(rule);
        }
        for (name, class) in &config.classes {
            let rule = Rule {
                methods: class
                    .methods
                    .iter()
                    .filter_map(|name| name.parse().ok())
                    .collect(),
                of: Of::Class(limit.class(name).unwrap_or_default()),
            };
            let services = class
                .grpc
                .iter()
                .map(|service| format!("/{service}/{{method}}"));
            let templates: Vec<_> = class.paths.iter().cloned().chain(services).collect();
            if templates.is_empty() && !rule.methods.is_empty() {
                of_any_path.push(rule.clone());
            }
            for template in templates {
                by_template.entry(template).or_default().push(rule.clone());
            }
        }
        let table = RouteTable::new(by_template.keys())?;
        let mut of_route = vec![Vec::new(); table.len()];
        for route in table.routes() {
            if let Some(rules) = by_template.remove(route.template()) {
                of_route[route.id().index()] = rules;
            }
        }
        Ok(Self {
            table,
            of_route,
            of_any_path,
            exempt_prefix: common_prefix(&config.exempt),
        })
    }

    /// A layer that goes by these rules.
    pub(super) fn apply(self, mut layer: AdaptiveLimitLayer) -> AdaptiveLimitLayer {
        let classes = Arc::new(self);
        let mut rules = classes
            .of_route
            .iter()
            .flatten()
            .chain(&classes.of_any_path);
        let has_classes = rules.any(|rule| matches!(rule.of, Of::Class(_)));
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
        let located = self.table.find(head.uri.path());
        let of_route = located.map(|located| &self.of_route[located.id().index()]);
        let rules = of_route.into_iter().flatten().chain(&self.of_any_path);
        let is_of = |rule: &&Rule| rule.methods.is_empty() || rule.methods.contains(head.method);
        rules.into_iter().find(is_of).map(|rule| rule.of)
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
