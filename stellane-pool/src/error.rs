use std::{error::Error, fmt};

use crate::ConfigError;

/// A pool could not be built: its configuration is out of range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError {
    errors: Vec<ConfigError>,
}

impl BuildError {
    pub(crate) fn new(errors: Vec<ConfigError>) -> Self {
        Self { errors }
    }

    /// Every value that is out of range.
    pub fn errors(&self) -> &[ConfigError] {
        &self.errors
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pool's configuration is out of range")?;
        for (at, error) in self.errors.iter().enumerate() {
            write!(f, "{} {error}", if at == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl Error for BuildError {}
