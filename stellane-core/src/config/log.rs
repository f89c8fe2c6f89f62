use serde::{Deserialize, Serialize};

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
