//! The PROXY protocol: a proxy that passes connections on says first whose they are.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    time::Duration,
};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, ReadBuf};

use crate::{config_error::ConfigError, connection::protocol::io::Socket};

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

/// What is to happen with a connection before it is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Direct,
    Header,
    Refused,
}

/// The configuration, parsed.
#[derive(Debug)]
pub(crate) struct Trust {
    mode: ProxyProtocol,
    networks: Vec<Network>,
}

impl Trust {
    pub(crate) fn new(config: &ProxyProtocolConfig) -> Self {
        let networks = config.trusted.iter();
        Self {
            mode: config.mode,
            networks: networks.filter_map(|text| Network::parse(text)).collect(),
        }
    }

    /// `None` is the peer of a Unix socket.
    pub(crate) fn judge(&self, peer: Option<SocketAddr>) -> Verdict {
        let trusted = || {
            peer.is_none_or(|peer| {
                let ip = peer.ip().to_canonical();
                self.networks.iter().any(|network| network.holds(ip))
            })
        };
        match self.mode {
            ProxyProtocol::Off => Verdict::Direct,
            _ if trusted() => Verdict::Header,
            ProxyProtocol::Trusted => Verdict::Direct,
            ProxyProtocol::Required => Verdict::Refused,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Network {
    base: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().ok()?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { base, bits })
    }

    fn holds(&self, ip: IpAddr) -> bool {
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

/// The longest header taken; version 2 allows 64 KiB of extensions, which nobody sends.
const LONGEST: usize = 4096;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads the header, and not a byte more. `None` for a connection of the proxy's own, such as a health check.
pub(crate) async fn read_header(socket: &mut Socket) -> io::Result<Option<SocketAddr>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut header = vec![0; 12];
    read_exact(socket, &mut header).await?;
    if header == V2_SIGNATURE {
        header.resize(16, 0);
        read_exact(socket, &mut header[12..]).await?;
        let length = 16 + usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > LONGEST {
            return Err(invalid());
        }
        header.resize(length, 0);
        read_exact(socket, &mut header[16..]).await?;
        let header = v2::Header::try_from(&header[..]).map_err(|_| invalid())?;
        let proxied = header.command == v2::Command::Proxy;
        return Ok(match header.addresses {
            v2::Addresses::IPv4(a) if proxied => Some((a.source_address, a.source_port).into()),
            v2::Addresses::IPv6(a) if proxied => Some((a.source_address, a.source_port).into()),
            _ => None,
        });
    }
    if !header.starts_with(b"PROXY ") {
        return Err(invalid());
    }
    // A line of at most 107 bytes, its end unknown: one after the other.
    while !header.ends_with(b"\r\n") {
        if header.len() >= 107 {
            return Err(invalid());
        }
        let at = header.len();
        header.push(0);
        read_exact(socket, &mut header[at..]).await?;
    }
    let header = v1::Header::try_from(&header[..]).map_err(|_| invalid())?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(a) => Some((a.source_address, a.source_port).into()),
        v1::Addresses::Tcp6(a) => Some((a.source_address, a.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

async fn read_exact(socket: &mut Socket, into: &mut [u8]) -> io::Result<()> {
    let mut buffer = ReadBuf::new(into);
    poll_fn(|cx| {
        while buffer.remaining() > 0 {
            let before = buffer.filled().len();
            std::task::ready!(Pin::new(&mut *socket).poll_read(cx, &mut buffer))?;
            if buffer.filled().len() == before {
                return std::task::Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        std::task::Poll::Ready(Ok(()))
    })
    .await
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
