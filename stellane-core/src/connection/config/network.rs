//! Networks of those who are trusted.

use std::net::{IpAddr, SocketAddr};

use crate::config_error::ConfigError;

/// An address, or all those that begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Those who are trusted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Networks(Vec<Network>);

impl Networks {
    pub(crate) fn parse(texts: &[String]) -> Self {
        Self(
            texts
                .iter()
                .filter_map(|text| Network::parse(text))
                .collect(),
        )
    }

    pub(crate) fn hold(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.holds(ip))
    }

    /// The peer of a Unix socket has no address, and came past the permissions of a file: it is trusted.
    pub(crate) fn trust(&self, peer: Option<SocketAddr>) -> bool {
        peer.is_none_or(|peer| self.hold(peer.ip()))
    }
}

/// Notes each that is none.
pub(crate) fn check_networks(errors: &mut Vec<ConfigError>, key: &'static str, texts: &[String]) {
    for text in texts {
        if Network::parse(text).is_none() {
            errors.push(ConfigError {
                key,
                value: format!("{text:?}"),
                expected: "an IP address, or a network such as 10.0.0.0/8".to_owned(),
            });
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
