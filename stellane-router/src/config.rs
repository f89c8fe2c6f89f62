//! Settings of the router.

use crate::types::SlashPolicy;

/// What can be set about a router.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct RouterConfig {
    /// What a path with one slash too many or too few at its end gets, where a scope has no policy of
    /// its own: `strict` is 404, `redirect` is 308 to the path that exists, `ignore` is the answer of
    /// the path that exists. Default `strict`.
    pub slash: SlashPolicy,
}

impl RouterConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks all values; every policy is valid.
    ///
    /// # Errors
    ///
    /// None yet.
    pub const fn validate(&self) -> Result<(), Vec<crate::ConfigError>> {
        Ok(())
    }
}
