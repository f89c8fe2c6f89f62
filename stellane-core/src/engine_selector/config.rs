use std::time::Duration;

use super::ConfigError;

/// Which routes are accelerated, and when the native service answers (section `[selector]`), for services that add an
/// [`EngineSelectorLayer`](super::EngineSelectorLayer).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct SelectorConfig {
    /// The routes that go to the accelerated service, as templates of the router:
    /// `/users/{id}`, `/static/{*rest}`. Default none.
    pub accelerated_routes: Vec<String>,
    /// `"safe"`: the native service answers what the accelerated one can't, and only requests that are
    /// safe (`GET`, `HEAD`, `OPTIONS`, `TRACE`) are accelerated. `"idempotent"`: `PUT` and `DELETE` are accelerated
    /// too, and may be carried out twice. `"off"`: all requests are accelerated, and what fails is answered
    /// with 503. Default `"safe"`.
    pub fallback_mode: FallbackMode,
    /// How long the accelerated service may take for the head of its response. Too short gives up on what would
    /// have been answered, too long keeps clients waiting when it hangs. `0s` is for ever. Default `1s`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub timeout: Duration,
    /// Largest request body that is kept to be sent again; requests with a larger one, or one of unknown length,
    /// are not accelerated. Default 64 KiB.
    pub max_replay_bytes: u64,
    /// How many per cent of the latest 64 requests have to fail for the circuit breaker to open. Too low gives
    /// up at the first trouble, too high makes many clients wait for a failure. Default 50.
    pub breaker_percent: u32,
    /// How many requests there have to be before the breaker may open, 1 to 64. Default 16.
    pub breaker_min_requests: u32,
    /// How long the breaker stays open before it lets requests try again. Default `5s`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub breaker_open: Duration,
    /// How many tries have to succeed, one failing none, for the breaker to close. Default 3.
    pub breaker_probes: u32,
}

/// What happens to a request that the accelerated service can't answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum FallbackMode {
    /// The native service answers; only safe requests are accelerated.
    #[default]
    Safe,
    /// The native service answers; safe and idempotent requests are accelerated.
    Idempotent,
    /// 503; all requests are accelerated.
    Off,
}

impl Default for SelectorConfig {
    fn default() -> Self {
        Self {
            accelerated_routes: Vec::new(),
            fallback_mode: FallbackMode::Safe,
            timeout: Duration::from_secs(1),
            max_replay_bytes: 64 << 10,
            breaker_percent: 50,
            breaker_min_requests: 16,
            breaker_open: Duration::from_secs(5),
            breaker_probes: 3,
        }
    }
}

impl SelectorConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks every value; the routes are checked when the selector is built.
    ///
    /// # Errors
    /// Every value that is out of range.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        for (key, value, range) in [
            ("breaker_percent", self.breaker_percent, 1..=100),
            ("breaker_min_requests", self.breaker_min_requests, 1..=64),
            ("breaker_probes", self.breaker_probes, 1..=1000),
        ] {
            ConfigError::check(&mut errors, key, value, range);
        }
        ConfigError::all(errors)
    }
}
