//! Settings of the interner.

use crate::ConfigError;

/// The limits of an [`Interner`](crate::Interner).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct InternerConfig {
    /// The bound of the dynamic tier, bookkeeping included. 0 turns the tier off, else at least
    /// 4096. Default: 1 MiB.
    pub max_bytes: u64,
    /// The longest string remembered, in bytes, 1 to 4096. Default: 64. Longer ones are attacks or
    /// data, neither of which repeats.
    pub max_len: u32,
    /// 1 remembers a string at first sight, 2 at the second, so that what comes only once is never
    /// stored. Default: 2.
    pub admit_after: u32,
}

impl Default for InternerConfig {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 20,
            max_len: 64,
            admit_after: 2,
        }
    }
}

impl InternerConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks all values.
    ///
    /// # Errors
    ///
    /// Every value out of range.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut check = |valid: bool, key, value: String, expected: &str| {
            if !valid {
                errors.push(ConfigError {
                    key,
                    value,
                    expected: expected.to_owned(),
                });
            }
        };
        let max_bytes = self.max_bytes;
        check(
            max_bytes == 0 || (4096..=1 << 40).contains(&max_bytes),
            "max_bytes",
            max_bytes.to_string(),
            "0, or 4096 to 1 TiB",
        );
        check(
            (1..=4096).contains(&self.max_len),
            "max_len",
            self.max_len.to_string(),
            "1 to 4096",
        );
        check(
            (1..=2).contains(&self.admit_after),
            "admit_after",
            self.admit_after.to_string(),
            "1 or 2",
        );
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}
