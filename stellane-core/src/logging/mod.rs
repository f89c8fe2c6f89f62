//! Installs a `tracing` subscriber whose filter can be changed while the process runs.
//!
//! Libraries never install a subscriber: a program calls [`init`] once, or brings its own.
//!
//! Whoever logs waits for nobody: a thread of its own writes to standard error, by way of a [`LogWriter`], and what it
//! can't write in time is counted (`stellane_log_lines_lost_total`). Every line is one line, of bounded length, in which
//! control characters are escaped, and [what is secret](crate::config::Secrets) is left out. Colours are for terminals
//! alone, and not where `NO_COLOR` is set.
//!
//! A [`Runtime`](crate::Runtime) hands the records of panics to a thread of its own first: a program may have brought a
//! subscriber that does wait, and a panic must not.

mod layer;
mod lines;
mod recorded;
mod writer;

use std::{
    fmt,
    io::{self, IsTerminal},
    sync::{Arc, OnceLock},
    time::Duration,
};

#[cfg(feature = "otlp")]
use tracing_subscriber::Layer;
use tracing_subscriber::{
    EnvFilter, Registry,
    layer::SubscriberExt,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

pub use self::writer::LogWriter;
use self::{layer::LogLayer, lines::Lines};
use crate::config::{LogConfig, Secrets};

/// How long the end of the process waits for its last lines.
const LAST_LINES: Duration = Duration::from_millis(200);

/// There is one subscriber for each process, and so one writer.
static WRITER: OnceLock<LogWriter> = OnceLock::new();

/// Changes the log filter at run time; a cheap handle. When the last one is dropped, the last lines are waited for, for at
/// most 200 ms.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    _last: Arc<LastLines>,
}

impl LogHandle {
    /// Replaces the filter: a level such as `debug`, or directives such as `info,hyper=trace`.
    ///
    /// # Errors
    /// [`LogError::Filter`] when it can't be parsed or would not be valid for [`LogConfig::level`]; the old filter stays.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = parse(level)?;
        self.filter.reload(filter).map_err(|_| LogError::Gone)
    }

    /// Whether this is the filter in force, however it is written.
    #[cfg(all(feature = "admin", feature = "preset"))]
    pub(crate) fn is_at(&self, level: &str) -> bool {
        parse(level).is_ok_and(|filter| filter.to_string() == self.level())
    }

    /// The filter in force.
    #[must_use]
    pub fn level(&self) -> String {
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }
}

/// Waits for what is to be written.
#[derive(Debug)]
struct LastLines;

impl Drop for LastLines {
    fn drop(&mut self) {
        flush();
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
    /// There could be no thread that writes.
    Thread(io::Error),
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
            Self::Thread(error) => write!(f, "the thread that writes could not begin: {error}"),
        }
    }
}

impl std::error::Error for LogError {}

/// Logs to standard error from now on.
///
/// # Errors
/// A filter that can't be parsed, a subscriber that is there already, or a thread that can't be spawned.
pub fn init(config: &LogConfig) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(&config.level)?);
    let lines = Lines {
        format: config.format,
        colours: are_colours_wanted(),
        most_bytes: config.max_line_bytes,
        secrets: Secrets::default().and(&config.redact),
    };
    let of_lost = lines.clone();
    let writer = LogWriter::new(io::stderr(), move |lost| of_lost.about_lost(lost));
    let writer = writer.map_err(LogError::Thread)?;
    let layer = LogLayer {
        lines,
        writer: writer.clone(),
    };
    let registry = tracing_subscriber::registry();
    #[cfg(feature = "otlp")]
    let spans = crate::otlp::of_process().ok().flatten();
    #[cfg(feature = "otlp")]
    if let Some(spans) = spans.and_then(crate::otlp::Otlp::layer) {
        // Which spans are sent does not depend on what is logged.
        let layer = layer.with_filter(filter);
        let installed = registry.with(layer).with(spans).try_init();
        return installed_with(installed, handle, writer);
    }
    let installed = registry.with(filter).with(layer);
    installed_with(installed.try_init(), handle, writer)
}

fn installed_with(
    installed: Result<(), TryInitError>,
    filter: reload::Handle<EnvFilter, Registry>,
    writer: LogWriter,
) -> Result<LogHandle, LogError> {
    installed.map_err(|_| LogError::AlreadySet)?;
    let _ = WRITER.set(writer);
    Ok(LogHandle {
        filter,
        _last: Arc::new(LastLines),
    })
}

/// Where [`init`] writes to, for lines in another form beside those of `tracing`; `None` before it, or without it.
#[must_use]
pub fn writer() -> Option<LogWriter> {
    WRITER.get().cloned()
}

/// How many lines were lost so far.
#[cfg(feature = "preset")]
pub(crate) fn lost() -> u64 {
    WRITER.get().map_or(0, LogWriter::lost)
}

/// Waits for the last lines, before the process ends.
pub(crate) fn flush() {
    if let Some(writer) = WRITER.get() {
        // Who does not read them for that long does not want them.
        let _ = writer.flush(LAST_LINES);
    }
}

fn are_colours_wanted() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stderr().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

fn parse(level: &str) -> Result<EnvFilter, LogError> {
    let wrong = |cause| LogError::Filter {
        level: Secrets::default().text(level).into_owned(),
        cause,
    };
    if let Some(fault) = LogConfig::faults(level).into_iter().next() {
        return Err(wrong(fault));
    }
    EnvFilter::builder()
        .parse(level)
        .map_err(|error| wrong(error.to_string()))
}
