use std::fmt;

/// One value of a configuration that is out of range.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigError {
    /// The key, as it is written in a configuration file.
    pub key: &'static str,
    /// The value found.
    pub value: String,
    /// The values that are accepted.
    pub expected: String,
}

impl ConfigError {
    pub(crate) fn new(
        key: &'static str,
        value: impl fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
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

impl std::error::Error for ConfigError {}

/// Why a builder could not build.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// Values out of range; every one of them, not just the first.
    Config(Vec<ConfigError>),
    /// Two signals, two knobs, two rules or two classes share a name.
    Duplicate {
        /// What there are two of: `signal`, `knob`, `rule` or `class`.
        what: &'static str,
        /// The shared name.
        name: String,
    },
    /// A rule names a signal or a knob that was not registered.
    Unknown {
        /// What is missing: `signal` or `knob`.
        what: &'static str,
        /// The name that was not found.
        name: String,
        /// The rule that asked for it.
        rule: String,
        /// The names of those that were.
        known: Vec<String>,
    },
    /// A knob whose range is empty, or whose step is not a positive number.
    Knob {
        /// The knob.
        name: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => {
                f.write_str("invalid configuration")?;
                errors.iter().try_for_each(|error| write!(f, "; {error}"))
            }
            Self::Duplicate { what, name } => {
                write!(f, "two {what}s are named `{name}`: names must be unique")
            }
            Self::Unknown {
                what,
                name,
                rule,
                known,
            } => {
                write!(
                    f,
                    "rule `{rule}` needs the {what} `{name}`, which is not registered; "
                )?;
                match &known[..] {
                    [] => write!(f, "there is no {what}"),
                    known => write!(f, "the {what}s are `{}`", known.join("`, `")),
                }
            }
            Self::Knob { name, problem } => write!(f, "knob `{name}`: {problem}"),
        }
    }
}

impl std::error::Error for BuildError {}

impl From<Vec<ConfigError>> for BuildError {
    fn from(errors: Vec<ConfigError>) -> Self {
        Self::Config(errors)
    }
}
