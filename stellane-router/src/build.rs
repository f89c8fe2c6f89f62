//! From declared routes to compiled ones, and everything that can be wrong with them.

use std::collections::BTreeMap;

use http::HeaderValue;

use crate::compiled::{Definition, Entry, Routes};
use crate::host::HostPattern;
use crate::matcher::exact::Exact;
use crate::matcher::pattern::Pattern;
use crate::matcher::tree::{Tree, Visit};
use crate::methods::{self, Methods};
use crate::report::Problem;
use crate::table::SlashPolicy;
use crate::witness;

impl Routes {
    pub(crate) fn build(
        definitions: Vec<Definition>,
        methods: &Methods,
        problems: &mut Vec<Problem>,
    ) -> Self {
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
                None => {
                    this.exact = Exact::new(group.iter().map(|entry| &entry.pattern));
                    this.tree = tree;
                }
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
}

/// Compiles the routes of one host and tells what is wrong with them.
fn compile(entries: &[Entry], problems: &mut Vec<Problem>) -> Tree {
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
    let mut ambiguous = Vec::new();
    for (left, right) in tree.take_rivals() {
        for (a, b) in left
            .iter()
            .flat_map(|a| right.iter().map(move |b| (*a, *b)))
        {
            let leaves = [a, b];
            let (a, b) = (distinct[a as usize], distinct[b as usize]);
            let overlap = a.methods & b.methods != 0 || a.takes_any || b.takes_any;
            let Some(witness) = overlap
                .then(|| witness::common(&a.pattern, &b.pattern))
                .flatten()
            else {
                continue;
            };
            ambiguous.extend(leaves);
            problems.push(Problem::Conflict {
                first: a.template.to_string(),
                second: b.template.to_string(),
                witness,
                remedy: "neither is more specific: give one a constraint the other does not meet",
            });
        }
    }
    problems.extend(unreachable_routes(&distinct, &ambiguous, &tree));
    tree
}

/// Routes that others are preferred to wherever they match; `ambiguous` ones are left out.
fn unreachable_routes(entries: &[&Entry], ambiguous: &[u32], tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (leaf, entry) in entries.iter().enumerate() {
        if ambiguous.contains(&(leaf as u32)) {
            continue;
        }
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
                    let mut first = WithMethod { entries, bit };
                    match tree.walk(path.as_bytes(), &mut first) {
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

/// Takes the first route with a method.
struct WithMethod<'t> {
    entries: &'t [&'t Entry],
    bit: u32,
}

impl Visit for WithMethod<'_> {
    fn leaf(&mut self, leaf: u32) -> bool {
        self.entries[leaf as usize].takes(self.bit)
    }
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
        let mut slash = SlashPolicy::Strict;
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
            slash,
            allow: methods.allow(set),
            endpoints: by_bit.into_values().collect(),
            any,
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
            slash: SlashPolicy::Strict,
            allow: HeaderValue::from_static(""),
            endpoints: Vec::new(),
            any: None,
        }
    }
}
