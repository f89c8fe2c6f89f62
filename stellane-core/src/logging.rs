//! Installs a `tracing` subscriber whose filter can be changed while the process runs.
//!
//! Libraries never install a subscriber: a program calls [`init`] once, or brings its own.

use std::fmt;

use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::config::{LogConfig, LogFormat};

/// Changes the log filter at run time; a cheap handle.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogHandle {
    /// Replaces the filter: a level such as `debug`, or directives such as `info,hyper=trace`.
    ///
    /// # Errors
    /// [`LogError::Filter`] when it can't be parsed; the old filter stays.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = parse(level)?;
        self.filter.reload(filter).map_err(|_| LogError::Gone)
    }

    /// The filter in force.
    #[must_use]
    pub fn level(&self) -> String {
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }
}

/// Why logging was not set up or changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum LogError {
    /// The filter can't be parsed.
    Filter {
        /// The filter as it was given.
        level: String,
        /// What the parser says.
        cause: String,
    },
    /// Another subscriber is installed already; there is one for each process.
    AlreadySet,
    /// The subscriber that the handle belonged to is gone.
    Gone,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter { level, cause } => write!(
                f,
                "log level `{level}` is not valid: {cause}; expected off, error, warn, info, debug, trace \
                 or a filter such as `info,hyper=warn`"
            ),
            Self::AlreadySet => f.write_str("another tracing subscriber is already installed"),
            Self::Gone => f.write_str("the tracing subscriber is gone"),
        }
    }
}

impl std::error::Error for LogError {}

/// Logs to standard error from now on.
///
/// # Errors
/// A filter that can't be parsed, or a subscriber that is there already.
pub fn init(config: &LogConfig) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(&config.level)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(config.format == LogFormat::Text);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|_| LogError::AlreadySet)?;
    Ok(LogHandle { filter: handle })
}

fn parse(level: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(level)
        .map_err(|error| LogError::Filter {
            level: level.to_owned(),
            cause: error.to_string(),
        })
}
