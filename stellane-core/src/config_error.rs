use std::{
    fmt::{self, Display},
    ops::RangeInclusive,
};

/// A setting that is out of range.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigError {
    /// The field of the configuration that was checked.
    pub key: &'static str,
    /// The value as it was given.
    pub value: String,
    /// What would be valid.
    pub expected: String,
}

impl ConfigError {
    /// Notes a number that is out of its range.
    pub(crate) fn check<T: PartialOrd + Display + Copy>(
        errors: &mut Vec<Self>,
        key: &'static str,
        value: T,
        range: RangeInclusive<T>,
    ) {
        if !range.contains(&value) {
            errors.push(Self {
                key,
                value: value.to_string(),
                expected: format!("{} to {}", range.start(), range.end()),
            });
        }
    }

    /// What a check comes to.
    pub(crate) fn all(errors: Vec<Self>) -> Result<(), Vec<Self>> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` = {}: expected {}",
            self.key, self.value, self.expected
        )
    }
}

impl std::error::Error for ConfigError {}
