//! What can go wrong before a connection is served.

use std::{fmt, io};

use crate::config_error::ConfigError;

/// The settings are out of range.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildError {
    /// Every setting that is out of range.
    pub errors: Vec<ConfigError>,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection manager: ")?;
        for (i, error) in self.errors.iter().enumerate() {
            write!(f, "{}{error}", if i > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for BuildError {}

/// The listener is broken for good.
#[derive(Debug)]
pub struct ServeError {
    pub(crate) source: io::Error,
}

impl From<io::Error> for ServeError {
    fn from(source: io::Error) -> Self {
        Self { source }
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the listener failed: {}", self.source)
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
