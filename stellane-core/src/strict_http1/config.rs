use super::ConfigError;

/// Settings of a [`StrictHttp1Layer`](super::StrictHttp1Layer) (section `[strict_http1]`).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct StrictHttp1Config {
    /// Whether requests are checked. Default `true`.
    pub enabled: bool,
    /// Longest request target (path and query); a longer one is answered with 414. Too low refuses long queries. What a
    /// whole head may take is limited besides. Default 65 534, hyper's own end.
    pub max_target_bytes: usize,
    /// Whether a target may hold bytes above 0x7f as they are. The grammar wants them encoded, but curl, scripts and old
    /// links send them, and hyper takes UTF-8. Default `true`; `false` answers 400, for services behind a proxy that reads
    /// them in another way.
    pub allow_non_ascii_target: bool,
    /// Most header lines; more are answered with 431. Over HTTP/2 all cookies count as one. Too low refuses clients
    /// behind several proxies; above 100, hyper's own end, there is no effect. Default 100.
    pub max_headers: usize,
}

impl Default for StrictHttp1Config {
    fn default() -> Self {
        Self {
            enabled: true,
            max_target_bytes: 65_534,
            allow_non_ascii_target: true,
            max_headers: 100,
        }
    }
}

impl StrictHttp1Config {
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
        let target = 64..=65_534;
        ConfigError::check(
            &mut errors,
            "max_target_bytes",
            self.max_target_bytes,
            target,
        );
        ConfigError::check(&mut errors, "max_headers", self.max_headers, 1..=100);
        ConfigError::all(errors)
    }
}
