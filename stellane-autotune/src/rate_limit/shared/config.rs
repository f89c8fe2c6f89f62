use std::{fmt, time::Duration};

use crate::ConfigError;

/// Settings of a [`RateStore`](super::RateStore).
#[derive(Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct RateStoreConfig {
    /// Where the store is: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, or `unix:PATH`. Default: none, which is an error.
    pub url: String,
    /// What the names of all keys begin with there: services that share a store and take different ones share no rates. Default:
    /// `stellane`.
    pub prefix: String,
    /// How long a request waits for the store at most. Too short and a store that pauses for a moment is taken for one that is away; too
    /// long and requests wait for one that is. From 1 ms to 1 s. Default: 20 ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub timeout: Duration,
}

impl Default for RateStoreConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            prefix: "stellane".to_owned(),
            timeout: Duration::from_millis(20),
        }
    }
}

/// Without the URL, in which a password may stand.
impl fmt::Debug for RateStoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateStoreConfig")
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl RateStoreConfig {
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
        if let Err(problem) = self.client() {
            // The URL may hold a password.
            errors.push(ConfigError::new("url", "(not shown)", problem));
        }
        let timeouts = Duration::from_millis(1)..=Duration::from_secs(1);
        if !timeouts.contains(&self.timeout) {
            let value = format!("{:?}", self.timeout);
            errors.push(ConfigError::new("timeout", value, "1ms to 1s"));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    pub(super) fn client(&self) -> Result<redis::Client, String> {
        let info = redis::IntoConnectionInfo::into_connection_info(&*self.url);
        let info = info.map_err(|_| "`redis://HOST:PORT/DATABASE` or `unix:PATH`")?;
        if !info.addr().is_supported() {
            return Err("`redis://`: `rediss://` needs the crate `redis` with its feature `tls-rustls` in the program".into());
        }
        // One write, one answer: nothing is gained by waiting for more.
        let settings = info.tcp_settings().clone().set_nodelay(true);
        redis::Client::open(info.set_tcp_settings(settings))
            .map_err(|error| error.category().to_owned())
    }
}
