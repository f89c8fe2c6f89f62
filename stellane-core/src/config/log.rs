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
    /// `text` for people, `compact` for narrow terminals, or `json` for what collects logs: an object in each line, with
    /// `timestamp`, `level`, `target`, `message`, the fields of the event and its `spans`. Default `text`.
    pub format: LogFormat,
    /// The longest line; what is longer is cut, and ends in `…`. Too low cuts what one looks for, too high lets one
    /// message fill what the lines wait in, which is 1 MiB. From 256 to 262144. Default 16384.
    pub max_line_bytes: usize,
    /// Words that make the name of a field, or a key on `/config`, look like that of a secret, besides those that always do
    /// (see [`Secrets`](super::Secrets)), such as `"license"`. Default: none.
    pub redact: Vec<String>,
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
    /// An object for each event.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
            max_line_bytes: 16 << 10,
            redact: Vec::new(),
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

    pub(super) fn problems(&self, problems: &mut Vec<Problem>) {
        let mut wrong = |key, message| problems.push(Problem::new(Origin::Program, key, message));
        for fault in Self::faults(&self.level) {
            wrong("log.level", fault);
        }
        let most = 256..=256 << 10;
        if !most.contains(&self.max_line_bytes) {
            let (value, least, most) = (self.max_line_bytes, most.start(), most.end());
            let message = format!("{value} is out of range: expected {least} to {most}");
            wrong("log.max_line_bytes", message);
        }
    }

    /// What is wrong with a level. A filter takes almost anything for the name of a module, so that a misspelt level
    /// would turn everything off.
    pub(crate) fn faults(level: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let is_level = |s: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(s));
        // Commas inside `[span{field=value}]` do not separate.
        let directives = if level.contains('[') {
            vec![]
        } else {
            level.split(',').collect()
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
            // Nobody who names a module turns all others off by that.
            let is_module = level.contains("::") || level.contains('_');
            if names_module || near.is_some() || !is_module {
                let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                faults.push(format!(
                    "`{level}` is not a level: expected {}{near}",
                    LEVELS.join(", ")
                ));
            }
        }
        faults
    }
}
