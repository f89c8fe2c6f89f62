use std::fmt;
#[cfg(feature = "config")]
use std::str::FromStr;

use super::ConfigError;
#[cfg(feature = "config")]
use crate::size::size;

/// Settings of a [`MemoryBudget`](super::MemoryBudget) (section `[memory]`).
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct MemoryConfig {
    /// How many bytes the bodies of requests and answers may hold together: `"auto"`, 40 % of the memory that the tightest
    /// control group of the process may use, and `"off"` where none has a limit; a size such as `"512MiB"`, 1 MiB at least;
    /// or `"off"`. Too low has large uploads wait for each other, and ends those that are larger; too high, and the system
    /// kills the process first: who collects a body needs twice its size for a moment. Default `"auto"`.
    pub budget: Budget,
}

/// How many bytes there are for bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(try_from = "String", into = "String"))]
#[non_exhaustive]
pub enum Budget {
    /// A part of what the process may use, if that is limited.
    #[default]
    Auto,
    /// So many.
    Bytes(u64),
    /// Nothing is counted.
    Off,
}

/// Of the limit: with what is copied when a body is whole it is twice that.
const SHARE_PERCENT: u64 = 40;
/// A budget below this would have ordinary requests wait for each other.
const LEAST: u64 = 1 << 20;

impl MemoryConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    /// Every value that is out of range.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if let Budget::Bytes(bytes) = self.budget {
            ConfigError::check(&mut errors, "budget", bytes, LEAST..=u64::MAX / 2);
        }
        ConfigError::all(errors)
    }
}

impl Budget {
    /// In bytes, where the process may use so many, if that is limited; 0 is off.
    #[must_use]
    pub fn bytes(self, limit: Option<u64>) -> u64 {
        match self {
            Self::Auto => limit.map_or(0, |limit| (limit / 100 * SHARE_PERCENT).max(LEAST)),
            Self::Bytes(bytes) => bytes,
            Self::Off => 0,
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

#[cfg(feature = "config")]
impl From<Budget> for String {
    fn from(budget: Budget) -> Self {
        budget.to_string()
    }
}

#[cfg(feature = "config")]
impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            "off" | "0" => Ok(Self::Off),
            other => {
                let bytes = size(other).and_then(|bytes| bytes.try_into().ok());
                bytes.map(Self::Bytes).ok_or_else(|| {
                    format!("`{text}` is neither `auto` nor `off` nor a size such as `512MiB`")
                })
            }
        }
    }
}

#[cfg(feature = "config")]
impl TryFrom<String> for Budget {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "config")]
    #[test]
    fn a_budget_is_read_as_it_is_shown() {
        for (text, expected) in [
            ("auto", Some(Budget::Auto)),
            ("off", Some(Budget::Off)),
            ("0", Some(Budget::Off)),
            ("1048576", Some(Budget::Bytes(1 << 20))),
            ("512MiB", Some(Budget::Bytes(512 << 20))),
            ("2 GB", Some(Budget::Bytes(2_000_000_000))),
            ("99999999999GiB", None),
            ("-1", None),
            ("much", None),
            ("", None),
        ] {
            let budget = text.parse::<Budget>().ok();
            assert_eq!(budget, expected, "{text}");
            if let Some(budget) = budget {
                assert_eq!(budget.to_string().parse(), Ok(budget));
            }
        }
    }

    #[test]
    fn auto_is_a_part_of_the_limit_and_off_without_one() {
        for (budget, limit, bytes) in [
            (Budget::Auto, None, 0),
            (Budget::Auto, Some(256 << 20), 107_374_160),
            (Budget::Auto, Some(1000), 1 << 20),
            (Budget::Off, Some(256 << 20), 0),
            (Budget::Bytes(7 << 20), Some(256 << 20), 7 << 20),
        ] {
            assert_eq!(budget.bytes(limit), bytes, "{budget}");
        }
    }

    #[test]
    fn a_budget_of_next_to_nothing_is_an_error() {
        let of =
            |bytes| MemoryConfig::default().with(|config| config.budget = Budget::Bytes(bytes));
        assert!(of(1 << 20).validate().is_ok());
        assert!(of((1 << 20) - 1).validate().is_err());
    }
}
