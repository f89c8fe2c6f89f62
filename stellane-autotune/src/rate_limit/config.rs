use super::RateRule;
use crate::ConfigError;

/// Settings of a [`RateLimit`](super::RateLimit).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct RateLimitConfig {
    /// The rates, such as `["10/s", "1000/h burst 100"]`: a request has to be within all of them. From one to eight.
    /// Default: none, which is an error.
    pub rules: Vec<RateRule>,
    /// How many keys are remembered at a time. With one rule each takes
    /// some 22 bytes, once it comes, and 8 for each other rule. Too few and those that
    /// come back begin anew, with a full bucket; too many take memory while somebody makes up keys. From 1024 to 16 777 216. Default: 65 536.
    pub max_keys: usize,
    /// Which answers say how much is left, in `RateLimit` and `RateLimit-Policy`. Default: `refused`.
    pub headers: RateLimitHeaders,
}

/// Which answers say how much is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RateLimitHeaders {
    /// None. `Retry-After` is on each refusal all the same.
    Off,
    /// Refusals.
    #[default]
    Refused,
    /// All, at the price of two small allocations for each: for clients that slow down before they are refused.
    All,
}

/// What is done with requests while the store of a shared rate is away: see the module `shared` (feature `redis`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum WithoutStore {
    /// Each replica keeps to the whole rule: nobody who is within it is refused, wherever his requests arrive; who is not gets up to as
    /// many times the rate as there are replicas.
    #[default]
    Whole,
    /// Each replica keeps to its share: the rule by the number of replicas that were there last. A client whose requests arrive at one
    /// replica only, by one connection for instance, gets no more than that.
    Share,
    /// Requests are refused by 503: for what must not be tried too often, such as passwords.
    Refuse,
}

impl Default for RateLimitConfig {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            max_keys: 1 << 16,
            headers: RateLimitHeaders::default(),
        }
    }
}

impl RateLimitConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// Lists all values that are out of range.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if !(1..=8).contains(&self.rules.len()) {
            let value = format!("{} rules", self.rules.len());
            errors.push(ConfigError::new("rules", value, "1 to 8, such as \"10/s\""));
        }
        let keys = 1 << 10..=1 << 24;
        if !keys.contains(&self.max_keys) {
            let expected = format!("{} to {}", keys.start(), keys.end());
            errors.push(ConfigError::new("max_keys", self.max_keys, expected));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}
