use std::{fmt, str::FromStr};

/// Which set of defaults to start from (`STELLANE_ENV`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Profile {
    /// The documented defaults of every key.
    #[default]
    Default,
    /// Sized from the machine for a service under load; see [`RuntimeConfig::production`](super::RuntimeConfig::production).
    Production,
    /// For a developer's machine; see [`RuntimeConfig::development`](super::RuntimeConfig::development).
    Development,
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "" | "default" => Ok(Self::Default),
            "production" => Ok(Self::Production),
            "development" => Ok(Self::Development),
            _ => Err(format!(
                "unknown profile `{s}`: expected `production`, `development` or `default`"
            )),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Production => "production",
            Self::Development => "development",
        })
    }
}
