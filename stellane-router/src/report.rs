//! What is wrong with a set of routes, all of it at once.

use std::{error::Error, fmt};

/// Everything that kept a table from being built.
///
/// ```
/// use stellane_router::{Problem, Router};
///
/// let report = Router::builder()
///     .get("/users/{id}", async || "one")
///     .get("/users/{name}", async || "another")
///     .get("/files/{id", async || "never")
///     .build()
///     .unwrap_err();
/// assert_eq!(report.problems().len(), 2);
/// assert!(matches!(&report.problems()[1], Problem::Conflict { example, .. } if example == "/users/w"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildReport {
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

/// One thing wrong with a set of routes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A template that cannot be read.
    Template {
        /// The template as given, with the prefixes it was nested under.
        template: String,
        /// The byte at which it goes wrong.
        position: usize,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// Two routes that answer the same request, with nothing to prefer one by.
    Conflict {
        /// One route.
        first: String,
        /// The other; the same text if one template was registered twice for a method.
        second: String,
        /// A path that both match.
        example: String,
        /// How to tell them apart.
        remedy: &'static str,
    },
    /// A route that can never answer: others are preferred for every path it matches. That is proven, unless
    /// it is one of the [`warnings`](BuildReport::warnings).
    Unreachable {
        /// The route in vain.
        template: String,
        /// The route that answers instead.
        shadowed_by: String,
        /// A path that both match.
        example: String,
    },
    /// A host that cannot be read.
    Host {
        /// The host as given.
        host: String,
        /// What would be right.
        reason: &'static str,
    },
    /// A handler with an extractor of axum that cannot work: without the feature `axum-08`, or with this template.
    Extractor {
        /// The route, as given where it was added; empty for a fallback.
        template: String,
        /// The type of the argument.
        extractor: &'static str,
        /// What to take instead.
        instead: &'static str,
    },
    /// A name that cannot be given.
    Name {
        /// The name as given.
        name: String,
        /// What is wrong, and what would be right.
        reason: &'static str,
    },
    /// Two fallbacks between which nothing decides.
    Fallbacks {
        /// The prefix of one scope; `/` is the outermost.
        first: String,
        /// The prefix of the other; the same text if they were merged.
        second: String,
    },
    /// More than 22 methods of its own.
    TooManyMethods,
}

impl BuildReport {
    /// All problems, templates in alphabetical order.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// What is likely wrong, and alone keeps no table from being built: see
    /// [`RouteTable::warnings`](crate::RouteTable::warnings).
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }
}

impl fmt::Display for BuildReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [problem] => write!(f, "{problem}")?,
            problems => {
                write!(f, "{} problems in the routes:", problems.len())?;
                problems
                    .iter()
                    .try_for_each(|problem| write!(f, "\n  {problem}"))?;
            }
        }
        self.warnings
            .iter()
            .try_for_each(|warning| write!(f, "\n  likely: {warning}"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template {
                template,
                position,
                reason,
            } => {
                write!(f, "`{template}`, byte {position}: {reason}")
            }
            Self::Conflict {
                first,
                second,
                example,
                remedy,
            } => {
                write!(
                    f,
                    "`{first}` and `{second}` both match `{example}`: {remedy}"
                )
            }
            Self::Unreachable {
                template,
                shadowed_by,
                example,
            } => write!(
                f,
                "`{template}` never answers: `{shadowed_by}` is preferred, as for `{example}`"
            ),
            Self::Name { name, reason } => write!(f, "name `{name}`: {reason}"),
            Self::Extractor {
                template,
                extractor,
                instead,
            } => write!(
                f,
                "the handler of `{template}` takes `{extractor}`, which {why}: take {instead}",
                why = match cfg!(feature = "axum-08") {
                    true => "does not work with this template",
                    false => "works in a router of axum only, or here with the feature `axum-08`",
                }
            ),
            Self::Fallbacks { first, second } if first == second => write!(
                f,
                "two fallbacks for the scope `{first}`: keep one, or nest them under different prefixes"
            ),
            Self::Fallbacks { first, second } => write!(
                f,
                "the fallbacks of the scopes `{first}` and `{second}` answer for one path: keep one"
            ),
            Self::Host { host, reason } => write!(f, "host `{host}`: {reason}"),
            Self::TooManyMethods => f.write_str("more than 22 methods beyond the standard ones"),
        }
    }
}

impl Error for BuildReport {}
