//! Extractors of axum that our router has to do something for.

use crate::report::Problem;

/// An extractor of axum that reads what only a router of axum leaves behind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForeignExtractor {
    /// The type of the argument.
    pub(crate) argument: &'static str,
    pub(crate) reads: Reads,
    /// Ours to take instead.
    pub(crate) instead: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    Parameters,
    Template,
    Prefix,
}

impl ForeignExtractor {
    pub(crate) fn problem(&self, template: &str, instead: &'static str) -> Problem {
        Problem::Extractor {
            template: template.to_owned(),
            extractor: self.argument,
            instead,
        }
    }
}

/// Those among the arguments of a handler, also within an extractor around them.
pub(crate) fn foreign(arguments: &[&'static str]) -> Vec<ForeignExtractor> {
    let known = [
        (
            "axum::extract::path::Path<",
            Reads::Parameters,
            "stellane_router::Path",
        ),
        (
            "axum::extract::path::RawPathParams",
            Reads::Parameters,
            "stellane_router::RouteMatch",
        ),
        (
            "axum::extract::matched_path::MatchedPath",
            Reads::Template,
            "stellane_router::RouteMatch",
        ),
        (
            "axum::extract::nested_path::NestedPath",
            Reads::Prefix,
            "stellane_router::RouteMatch",
        ),
    ];
    let of = |argument: &&'static str| {
        let found = known.iter().filter(|(name, ..)| argument.contains(name));
        let extractor = |&(_, reads, instead)| ForeignExtractor {
            argument,
            reads,
            instead,
        };
        found.map(extractor).collect::<Vec<_>>()
    };
    arguments.iter().flat_map(of).collect()
}
