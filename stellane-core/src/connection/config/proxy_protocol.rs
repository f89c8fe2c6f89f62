use std::{net::IpAddr, time::Duration};

use crate::config_error::ConfigError;

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
        for network in &self.trusted {
            if Network::parse(network).is_none() {
                errors.push(ConfigError {
                    key: "proxy_protocol.trusted",
                    value: format!("{network:?}"),
                    expected: "an IP address, or a network such as 10.0.0.0/8".to_owned(),
                });
            }
        }
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

/// An address, or all those that begin alike.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Network {
    base: IpAddr,
    bits: u32,
}

impl Network {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().ok()?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { base, bits })
    }

    pub(crate) fn holds(&self, ip: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u32| {
            // A shift by the whole width is no shift at all, but an overflow.
            (a ^ b).checked_shr(width - self.bits).unwrap_or(0) == 0
        };
        match (self.base, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_their_bits_say() {
        let holds = |network, ip: &str| {
            Network::parse(network).is_some_and(|n| n.holds(ip.parse().expect("an address")))
        };
        assert!(holds("10.0.0.7", "10.0.0.7"));
        assert!(!holds("10.0.0.7", "10.0.0.6"));
        assert!(holds("10.0.0.0/8", "10.255.1.2"));
        assert!(!holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("0.0.0.0/0", "192.0.2.1"));
        assert!(!holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("2001:db8::/32", "2001:db8:1::1"));
        assert!(!holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("::/0", "::1"));
        for bad in ["", "10.0.0.0/33", "10.0.0.0/x", "example.com", "::/129"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
