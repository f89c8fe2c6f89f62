use std::time::Duration;

use crate::config_error::ConfigError;

/// Options of listening sockets (section `[connection.listen]`).
///
/// `TCP_DEFER_ACCEPT` is not among them: a connection that has not sent a byte is already held by no more than
/// its socket and a small task, and the manager could neither see it nor count it while the system holds it back.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ListenConfig {
    /// How many sockets listen on the same address, each with an accept loop of its own; `0` is one for each
    /// CPU. One socket is fair: every new connection goes to whoever is free, and threads of a `per_core` engine
    /// give it to the one that has the fewest, which costs a wake-up. Several (`SO_REUSEPORT`) accept in
    /// parallel, which pays above some ten thousand new connections per second; but the system spreads
    /// connections by a hash, whatever each loop has to do, and what waits in the queue of a socket that
    /// closes is reset. Default 1.
    pub sockets: usize,
    /// Whether other processes may listen on the same address (`SO_REUSEPORT`), as for a restart without a
    /// gap. Implied by more than one socket. Default `false`: a second server on the same port is a mistake.
    pub reuse_port: bool,
    /// Whether an address may be listened on again at once after a restart (`SO_REUSEADDR`). Default `true`.
    pub reuse_address: bool,
    /// How many connections may wait to be accepted. Too few are refused in a burst, too many wait for
    /// longer than clients do. The system has a bound of its own (`net.core.somaxconn`). Default 1024.
    pub backlog: u32,
    /// How long a TCP connection may be silent before the system asks whether its peer is still there. It ends streams
    /// and upgraded connections whose client has vanished. `0s` is off. Default `1m`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub keepalive: Duration,
    /// How long the system waits before it asks again. Default `10s`.
    #[cfg_attr(feature = "config", serde(with = "humantime_serde"))]
    pub keepalive_interval: Duration,
    /// How often it asks in vain before the connection is ended. Default 3.
    pub keepalive_retries: u32,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            sockets: 1,
            reuse_port: false,
            reuse_address: true,
            backlog: 1024,
            keepalive: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(10),
            keepalive_retries: 3,
        }
    }
}

impl ListenConfig {
    /// Changed by a closure: it can't be written as a literal.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    /// Every value that is out of range; its key is that of the section `[connection]`.
    pub fn validate(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        ConfigError::check(&mut errors, "listen.sockets", self.sockets, 0..=1024);
        ConfigError::check(&mut errors, "listen.backlog", self.backlog, 0..=1 << 20);
        let retries = self.keepalive_retries as usize;
        ConfigError::check(&mut errors, "listen.keepalive_retries", retries, 1..=127);
        for (key, value, min) in [
            ("listen.keepalive", self.keepalive, 0),
            ("listen.keepalive_interval", self.keepalive_interval, 1),
        ] {
            if !(min..=32_767).contains(&value.as_secs()) {
                errors.push(ConfigError {
                    key,
                    value: format!("{value:?}"),
                    expected: format!("{min}s to 32767s"),
                });
            }
        }
        ConfigError::all(errors)
    }
}

/// What happens to a new connection when there is no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum WhenFull {
    /// It hears 503 and is closed, so that a proxy tries another server and a user sees why; GOAWAY if it speaks
    /// HTTP/2. Over TLS it gets an alert, since a handshake is what a full server can't afford.
    #[default]
    Respond,
    /// It is closed without a word: cheaper under attack.
    Close,
}
