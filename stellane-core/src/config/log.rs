use serde::{Deserialize, Serialize};

use super::{Origin, Problem, schema};

/// What is logged and how (section `[log]`); used by [`logging::init`](crate::logging::init).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LogConfig {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or a filter such as
    /// `info,stellane_core=debug`. Also set by `STELLANE_LOG_LEVEL`. Default `info`.
    pub level: String,
    /// `text` for people or `compact` for narrow terminals. Default `text`.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogFormat {
    /// One line for each event, with its time and target.
    #[default]
    Text,
    /// The same without the target.
    Compact,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl LogConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// A filter takes almost anything for the name of a module, so that a misspelt level would turn
    /// everything off. What looks like one is told.
    pub(super) fn problems(&self, problems: &mut Vec<Problem>) {
        let is_level = |s: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(s));
        // Commas inside `[span{field=value}]` do not separate.
        let directives = if self.level.contains('[') {
            vec![]
        } else {
            self.level.split(',').collect()
        };
        for directive in directives.into_iter().map(str::trim) {
            let (level, names_module) = match directive.split_once('=') {
                Some((_, level)) => (level.trim(), true),
                None => (directive, false),
            };
            let digit = matches!(level.as_bytes(), [b'0'..=b'5']);
            if is_level(level) || digit || level.is_empty() {
                continue;
            }
            let near = schema::nearest(&level.to_ascii_lowercase(), LEVELS.into_iter());
            if names_module || near.is_some() {
                let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                problems.push(Problem::new(
                    Origin::Program,
                    "log.level",
                    format!(
                        "`{level}` is not a level: expected {}{near}",
                        LEVELS.join(", ")
                    ),
                ));
            }
        }
    }
}
