//! From declared routes to compiled ones, and everything that can be wrong with them.

use std::collections::{BTreeMap, HashMap};
#[cfg(feature = "axum-08")]
use std::sync::OnceLock;

use http::HeaderValue;

#[cfg(feature = "axum-08")]
use crate::foreign::{ForeignExtractor, Reads};
use crate::{
    compiled::{Definition, NO_ENTRY},
    conflicts,
    host::HostPattern,
    matcher::{
        exact::Exact,
        pattern::{Fault, Pattern, Token},
        segment::{sample, segments},
        tree::Tree,
    },
    methods::{self, Methods},
    report::{BuildReport, Problem},
    types::{Entry, Routes, SlashPolicy},
    unreachable,
};

impl Routes {
    pub(crate) fn build(
        definitions: Vec<Definition>,
        methods: &Methods,
        report: &mut BuildReport,
    ) -> Self {
        let mut by_template = BTreeMap::<(Option<String>, String), Vec<Definition>>::new();
        for definition in definitions {
            let host = definition
                .host
                .as_ref()
                .map(|host| host.to_ascii_lowercase());
            let key = (host, definition.template.clone());
            by_template.entry(key).or_default().push(definition);
        }
        let mut this = Self::default();
        for ((host, template), group) in by_template {
            match Pattern::parse(&template) {
                Ok(pattern) => {
                    #[cfg(feature = "axum-08")]
                    report.problems.extend(foreign_problems(&template, &group));
                    let (host, template) = (host.map(Into::into), template.into());
                    this.entries
                        .push(Entry::new(host, template, pattern, group, methods, report));
                }
                Err(fault) => report.problems.push(Problem::template(template, fault)),
            }
        }
        this.compile(report, true);
        this
    }

    /// The fallbacks of scopes, whose templates are their prefixes.
    pub(crate) fn of_scopes(
        fallbacks: Vec<Definition>,
        methods: &Methods,
        report: &mut BuildReport,
    ) -> Self {
        let mut by_prefix = BTreeMap::<(Option<String>, String), Vec<Definition>>::new();
        for fallback in fallbacks {
            let host = fallback.host.as_ref().map(|host| host.to_ascii_lowercase());
            let key = (host, fallback.template.clone());
            by_prefix.entry(key).or_default().push(fallback);
        }
        let mut this = Self::default();
        let mut faults = BuildReport::default();
        for ((host, prefix), group) in by_prefix {
            if group.len() > 1 {
                report.problems.push(Problem::fallbacks(&prefix, &prefix));
                continue;
            }
            let host: Option<Box<str>> = host.map(Into::into);
            let itself = (!prefix.is_empty()).then(|| Pattern::parse(&prefix));
            for pattern in itself.into_iter().chain([Pattern::below(&prefix)]) {
                match pattern {
                    Ok(pattern) => this.entries.push(Entry::new(
                        host.clone(),
                        prefix.clone().into(),
                        pattern,
                        group.clone(),
                        methods,
                        &mut faults,
                    )),
                    Err(fault) => faults
                        .problems
                        .push(Problem::template(prefix.clone(), fault)),
                }
            }
        }
        this.compile(&mut faults, false);
        for problem in faults.problems {
            let problem = match problem {
                Problem::Conflict { first, second, .. } => Problem::fallbacks(&first, &second),
                problem => problem,
            };
            if !report.problems.contains(&problem) {
                report.problems.push(problem);
            }
        }
        this
    }

    /// Compiles the entries, which are sorted by host, and tells what is wrong with them.
    fn compile(&mut self, report: &mut BuildReport, check_reachable: bool) {
        let mut start = 0;
        while start < self.entries.len() {
            let host = self.entries[start].host.clone();
            let same = self.entries[start..]
                .iter()
                .take_while(|e| e.host == host)
                .count();
            let leaves = chain_shapes(&mut self.entries, start..start + same, report);
            let patterns = || {
                leaves
                    .iter()
                    .map(|&i| (i, &self.entries[i as usize].pattern))
            };
            let (tree, rivals) = Tree::compile(patterns());
            conflicts::find(&rivals, &self.entries, report);
            if check_reachable {
                unreachable::find(&leaves, &self.entries, &tree, report);
            }
            match host {
                None => {
                    self.exact = Exact::new(patterns());
                    self.tree = tree;
                }
                Some(host) => match HostPattern::parse(&host) {
                    Some(pattern) => self.hosts.push((pattern, tree)),
                    None => report.problems.push(Problem::Host {
                        host: host.into(),
                        reason: "expected `name.example` or `*.example`, without a port",
                    }),
                },
            }
            start += same;
        }
        self.hosts.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.hosts.shrink_to_fit();
        self.entries.shrink_to_fit();
    }
}

/// Links the entries that differ only in the names of their parameters; returns the first of each.
fn chain_shapes(
    entries: &mut [Entry],
    range: std::ops::Range<usize>,
    report: &mut BuildReport,
) -> Vec<u32> {
    let mut shapes = HashMap::<&[Token], Vec<usize>>::new();
    for i in range {
        shapes
            .entry(&entries[i].pattern.tokens)
            .or_default()
            .push(i);
    }
    let mut leaves = Vec::with_capacity(shapes.len());
    let mut chains = Vec::new();
    for mut chain in shapes.into_values() {
        // The one that takes what is left comes last.
        chain.sort_by_key(|&i| entries[i].takes_any);
        leaves.push(chain[0] as u32);
        if chain.len() > 1 {
            chains.push(chain);
        }
    }
    leaves.sort_unstable();
    chains.sort_unstable();
    for chain in chains {
        let named = chain.iter().fold(0, |set, &i| set | entries[i].methods);
        let mut taken = 0;
        for (at, &i) in chain.iter().enumerate() {
            let entry = &entries[i];
            let twice = |&&j: &&usize| {
                let other = &entries[j];
                entry.methods & other.methods != 0 || (entry.takes_any && other.takes_any)
            };
            if let Some(&first) = chain[..at].iter().find(twice) {
                report.problems.push(Problem::Conflict {
                    first: entries[first].template.to_string(),
                    second: entry.template.to_string(),
                    example: sample(&segments(&entry.pattern.tokens)).unwrap_or_default(),
                    remedy: "give their parameters the same names, or a constraint to one of them",
                });
            }
            let entry = &mut entries[i];
            entry.takes = takes(entry.methods, entry.takes_any, named) & !taken;
            taken |= entry.takes;
            entry.next = chain.get(at + 1).map_or(NO_ENTRY, |&next| next as u32);
        }
    }
    leaves
}

/// The methods that a route answers, if those of its shape name some.
const fn takes(methods: u32, any: bool, named: u32) -> u32 {
    let implied = match methods & methods::GET {
        0 => 0,
        _ => methods::HEAD & !named,
    };
    let others = if any { !named } else { 0 };
    methods | implied | others
}

impl Entry {
    fn new(
        host: Option<Box<str>>,
        template: Box<str>,
        pattern: Pattern,
        group: Vec<Definition>,
        methods: &Methods,
        report: &mut BuildReport,
    ) -> Self {
        let mut by_bit = BTreeMap::new();
        let mut any = None;
        let mut takes_any = false;
        let mut twice = false;
        let mut slash = SlashPolicy::Strict;
        // Those of the first method that has them, whatever the order.
        let mut group = group;
        group.sort_by_key(|d| {
            d.method
                .as_ref()
                .map_or(methods::UNNAMED, |m| methods.bit(m))
        });
        let own = group.iter().find_map(|d| d.own.clone());
        let not_allowed = group.iter().find_map(|d| d.not_allowed.clone());
        let mut names: Vec<_> = group.iter().filter_map(|d| d.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names.shrink_to_fit();
        for definition in group {
            slash = slash.max(definition.slash.unwrap_or_default());
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
            report.problems.push(Problem::Conflict {
                first: template.to_string(),
                second: template.to_string(),
                example: sample(&segments(&pattern.tokens)).unwrap_or_default(),
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
            takes: takes(set, takes_any, set),
            next: NO_ENTRY,
            slash,
            allow: methods.allow(set),
            endpoints: by_bit.into_values().collect(),
            any,
            own,
            not_allowed,
            names,
            #[cfg(feature = "axum-08")]
            axum: OnceLock::new(),
        }
    }

    /// What a request without a route refers to.
    pub(crate) fn unmatched() -> Self {
        Self {
            template: "".into(),
            host: None,
            pattern: Pattern {
                tokens: Vec::new(),
                params: Vec::new(),
            },
            methods: 0,
            takes_any: true,
            takes: !0,
            next: NO_ENTRY,
            slash: SlashPolicy::Strict,
            allow: HeaderValue::from_static(""),
            endpoints: Box::default(),
            any: None,
            own: None,
            not_allowed: None,
            names: Vec::new(),
            #[cfg(feature = "axum-08")]
            axum: OnceLock::new(),
        }
    }
}

/// Extractors of axum that do not work with a template.
#[cfg(feature = "axum-08")]
fn foreign_problems(template: &str, group: &[Definition]) -> Vec<Problem> {
    let of_template = |e: &&ForeignExtractor| {
        e.reads == Reads::Template && !crate::axum_view::is_of_axum(template)
    };
    let extractors = group.iter().flat_map(|definition| &definition.foreign);
    extractors
        .filter(of_template)
        .map(|extractor| extractor.problem(template, extractor.instead))
        .collect()
}

impl Problem {
    fn template(template: String, fault: Fault) -> Self {
        Self::Template {
            template,
            position: fault.position,
            reason: fault.reason,
        }
    }

    fn fallbacks(first: &str, second: &str) -> Self {
        let scope = |prefix: &str| match prefix {
            "" => "/".to_owned(),
            prefix => prefix.to_owned(),
        };
        Self::Fallbacks {
            first: scope(first),
            second: scope(second),
        }
    }
}
