use std::time::Duration;

use crate::ConfigError;

/// Settings of an [`OverloadLayer`](super::OverloadLayer).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct OverloadConfig {
    /// Whether `grpc-timeout` sets the deadline. Default: true.
    pub grpc_timeout: bool,
    /// A header whose value is the timeout in whole milliseconds. Default: `"x-request-timeout-ms"`;
    /// empty is off.
    pub header: String,
    /// The timeout of a request that brings none. Default: `"0s"`, none.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub default_timeout: Duration,
    /// No request may ask for more. Default: `"0s"`, no such bound: a request that names no deadline has none either, and
    /// who says that it will wait for five minutes is not to be worse off. Too low and honest long requests fail.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max_timeout: Duration,
    /// Whether a request that exceeds its deadline is ended with 504. Default: true. Needs the
    /// feature `tokio`; without it the deadline is only passed on and checked on arrival.
    pub enforce: bool,
    /// How far `max_timeout`, if there is one, shrinks at full pressure while the service is full, as a fraction of what it
    /// is without. Default: 0.25. 1 turns scaling off.
    pub pressed_timeout: f64,
}

impl Default for OverloadConfig {
    fn default() -> Self {
        Self {
            grpc_timeout: true,
            header: "x-request-timeout-ms".into(),
            default_timeout: Duration::ZERO,
            max_timeout: Duration::ZERO,
            enforce: true,
            pressed_timeout: 0.25,
        }
    }
}

impl OverloadConfig {
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
        if !self.header.is_empty() && http::HeaderName::try_from(&self.header).is_err() {
            errors.push(ConfigError::new(
                "header",
                &self.header,
                "a header name, or nothing",
            ));
        }
        let day = Duration::from_secs(86_400);
        if self.max_timeout > day {
            let value = format!("{:?}", self.max_timeout);
            errors.push(ConfigError::new("max_timeout", value, "at most 1 day"));
        }
        if !self.max_timeout.is_zero() && self.default_timeout > self.max_timeout {
            let value = format!("{:?}", self.default_timeout);
            let expected = format!("at most `max_timeout`, {:?}", self.max_timeout);
            errors.push(ConfigError::new("default_timeout", value, expected));
        }
        if !(0.01..=1.0).contains(&self.pressed_timeout) {
            let value = self.pressed_timeout;
            errors.push(ConfigError::new("pressed_timeout", value, "0.01 to 1"));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}
