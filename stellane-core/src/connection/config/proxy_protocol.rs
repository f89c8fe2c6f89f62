use std::time::Duration;

use crate::{config_error::ConfigError, connection::config::network::check_networks};

/// Settings of the PROXY protocol, versions 1 and 2 (section `[connection.proxy_protocol]`).
///
/// Whoever is trusted can claim any address, so the list must hold proxies and nobody else.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ProxyProtocolConfig {
    /// Who begins with a PROXY header: nobody (`off`), those in `trusted` (`trusted`), or those in `trusted` with
    /// all others refused (`required`). It is never guessed from what is sent. Default `off`.
    pub mode: ProxyProtocol,
    /// Addresses of proxies, `10.0.0.7`, or networks of them, `10.0.0.0/8`. Unix sockets are always trusted.
    /// Default empty: nobody.
    pub trusted: Vec<String>,
    /// How long a header may take. Default `5s`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub timeout: Duration,
}

/// Who begins with a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ProxyProtocol {
    /// Nobody.
    #[default]
    Off,
    /// Those who are trusted; others speak for themselves.
    Trusted,
    /// Those who are trusted; others are refused.
    Required,
}

impl Default for ProxyProtocolConfig {
    fn default() -> Self {
        Self {
            mode: ProxyProtocol::Off,
            trusted: Vec::new(),
            timeout: Duration::from_secs(5),
        }
    }
}

impl ProxyProtocolConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn check(&self, errors: &mut Vec<ConfigError>) {
        check_networks(errors, "proxy_protocol.trusted", &self.trusted);
        let range = Duration::from_millis(1)..=Duration::from_secs(3600);
        if !range.contains(&self.timeout) {
            errors.push(ConfigError {
                key: "proxy_protocol.timeout",
                value: format!("{:?}", self.timeout),
                expected: "1ms to 1h".to_owned(),
            });
        }
    }
}
