use crate::{config_error::ConfigError, connection::config::network::check_networks};

/// Settings of what proxies say in the head of a request about its client (section `[connection.forwarded]`).
///
/// It is read by [`Forwarded`](crate::connection::Forwarded). Whoever is trusted can claim any address, so the list must
/// hold proxies and nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ForwardedConfig {
    /// The header field in which the proxies say it: `forwarded` (RFC 7239), `x_forwarded_for`, or none (`off`). Only the
    /// one that each of them writes: another one would be the client's own. Anything but `off` turns
    /// [`connect_info`](crate::connection::ConnectionConfig::connect_info) on. Default `off`.
    pub header: ForwardedHeader,
    /// Addresses of proxies, `10.0.0.7`, or networks of them, `10.0.0.0/8`. Unix sockets are always trusted.
    /// Default empty: nobody.
    pub trusted: Vec<String>,
}

/// In which header field proxies say whose request they pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// None: the client is who is connected.
    #[default]
    Off,
    /// `Forwarded: for=192.0.2.1;proto=https`.
    Forwarded,
    /// `X-Forwarded-For: 192.0.2.1, 10.0.0.7`.
    XForwardedFor,
}

impl ForwardedConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    /// Every network that is none; the key is that of the section `[connection]`.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        check_networks(&mut errors, "forwarded.trusted", &self.trusted);
        ConfigError::all(errors)
    }
}
