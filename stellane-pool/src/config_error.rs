use std::{error::Error, fmt};

/// A configuration value that is out of range.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigError {
    /// The key, as written in the configuration.
    pub key: &'static str,
    /// The value found.
    pub value: String,
    /// What would be valid.
    pub expected: String,
}

impl ConfigError {
    /// An error that says `key` holds `value` but should be `expected`.
    pub fn new(key: &'static str, value: impl fmt::Display, expected: impl Into<String>) -> Self {
        Self {
            key,
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` = {}: expected {}",
            self.key, self.value, self.expected
        )
    }
}

impl Error for ConfigError {}
