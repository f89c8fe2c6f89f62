use std::time::Duration;

use crate::{config_error::ConfigError, connection::config::check::check_up_to_a_day};

/// Settings of TLS (section `[connection.tls]`).
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct TlsConfig {
    /// File with the certificate and those that sign it, in PEM; the preset then serves TLS on
    /// `server.address`. Default empty: no TLS.
    pub certificate: String,
    /// File with the private key, in PEM. Default empty.
    pub key: String,
    /// How often the preset looks whether the two files have changed, and loads them anew. `0s` is off.
    /// Default `1m`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub reload_interval: Duration,
    /// How long a handshake may wait: for the client's hello from its first byte, for its turn to be computed, for the
    /// client's answer; each as long. Too short refuses clients far away, too long keeps those that do nothing.
    /// Default `60s`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub handshake_timeout: Duration,
    /// Most handshakes that are computed at once, and never more than there are CPUs; others wait for their turn, which
    /// goes from one peer to the next. A handshake is a thousand times the work of a request: fewer leave CPUs to those.
    /// One that waits for its client counts nothing here. Default 256.
    pub max_handshakes: usize,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            certificate: String::new(),
            key: String::new(),
            reload_interval: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(60),
            max_handshakes: 256,
        }
    }
}

impl TlsConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn check(&self, errors: &mut Vec<ConfigError>) {
        check_up_to_a_day(errors, "tls.reload_interval", self.reload_interval);
        check_up_to_a_day(errors, "tls.handshake_timeout", self.handshake_timeout);
        let places = 1..=1 << 20;
        ConfigError::check(errors, "tls.max_handshakes", self.max_handshakes, places);
    }
}
