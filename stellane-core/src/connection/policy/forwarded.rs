//! Who the client of a request is that proxies have passed on.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header::FORWARDED};

use crate::{
    config_error::ConfigError,
    connection::config::{
        forwarded::{ForwardedConfig, ForwardedHeader},
        network::Networks,
    },
};

/// Reads who the client of a request is, as the proxies that passed it on say: from the right, from one that is trusted to
/// the next, and no further. What the client itself has written stands left of that, and counts for nothing.
///
/// The preset and a [`ConnectionManager`](crate::connection::ConnectionManager) ask it by themselves for
/// [`ConnectInfo::peer`](crate::connection::ConnectInfo::peer); this is for who stands elsewhere.
///
/// ```
/// use http::HeaderMap;
/// use stellane_core::connection::{Forwarded, ForwardedConfig, ForwardedHeader};
///
/// let forwarded = Forwarded::new(&ForwardedConfig::default().with(|config| {
///     config.header = ForwardedHeader::XForwardedFor;
///     config.trusted = vec!["10.0.0.0/8".to_owned()];
/// }))
/// .expect("a network");
/// let mut headers = HeaderMap::new();
/// // The client claims to be 127.0.0.1; the proxy 10.0.0.2 has seen it, and 10.0.0.1 has seen the proxy.
/// headers.insert("x-forwarded-for", "127.0.0.1, 192.0.2.7, 10.0.0.2".parse()?);
/// let client = forwarded.client(Some(([10, 0, 0, 1], 4711).into()), &headers);
/// assert_eq!(client, Some(([192, 0, 2, 7], 0).into()));
/// # Ok::<_, http::header::InvalidHeaderValue>(())
/// ```
#[derive(Debug, Clone)]
pub struct Forwarded {
    header: ForwardedHeader,
    trusted: Networks,
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Forwarded {
    /// With these settings.
    ///
    /// # Errors
    /// A network that is none.
    pub fn new(config: &ForwardedConfig) -> Result<Self, Vec<ConfigError>> {
        config.validate()?;
        Ok(Self::of(config))
    }

    pub(crate) fn of(config: &ForwardedConfig) -> Self {
        Self {
            header: config.header,
            trusted: Networks::parse(&config.trusted),
        }
    }

    /// The client, for a request with these fields from a peer; `None` is the peer of a Unix socket. The peer itself if
    /// it is not trusted or says nothing. The port is 0 where it is not said. Who is only known by another name
    /// (`unknown`, `_hidden`) is not known: then it is the proxy that says so.
    #[must_use]
    pub fn client(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Option<SocketAddr> {
        let name = match self.header {
            ForwardedHeader::Off => return peer,
            ForwardedHeader::Forwarded => &FORWARDED,
            ForwardedHeader::XForwardedFor => &X_FORWARDED_FOR,
        };
        let mut client = peer;
        // Several fields are one list.
        for field in headers.get_all(name).iter().rev() {
            let Ok(text) = field.to_str() else {
                return client;
            };
            for element in split_outside_quotes(text, ',').rev() {
                if !self.trusted.trust(client) {
                    return client;
                }
                let node = match self.header {
                    ForwardedHeader::Forwarded => node_of(element),
                    _ => Some(element.trim()),
                };
                let Some(known) = node.and_then(address) else {
                    return client;
                };
                client = Some(known);
            }
        }
        client
    }
}

/// The pieces, of which a separator within quotes is a part.
fn split_outside_quotes(text: &str, separator: char) -> impl DoubleEndedIterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let mut pieces = Vec::new();
    let mut rest = 0;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if c == separator && !quoted => {
                pieces.push(&text[rest..at]);
                rest = at + c.len_utf8();
            }
            _ => {}
        }
    }
    pieces.push(&text[rest..]);
    pieces.into_iter()
}

/// What `for=` names in an element of `Forwarded`.
fn node_of(element: &str) -> Option<&str> {
    split_outside_quotes(element, ';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = value.trim();
        let unquoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        (name.trim().eq_ignore_ascii_case("for")).then(|| unquoted.unwrap_or(value))
    })
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`.
fn address(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let ip: IpAddr = bare.unwrap_or(text).parse().ok()?;
    Some((ip, 0).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: ForwardedHeader, peer: &str, fields: &[&'static str]) -> String {
        let config = ForwardedConfig::default().with(|config| {
            config.header = header;
            config.trusted = vec!["10.0.0.0/8".to_owned(), "fd00::/8".to_owned()];
        });
        let mut headers = HeaderMap::new();
        for field in fields {
            for name in [FORWARDED, X_FORWARDED_FOR] {
                headers.append(name, http::HeaderValue::from_static(field));
            }
        }
        let peer = (!peer.is_empty()).then(|| peer.parse().expect("an address"));
        let client = Forwarded::of(&config).client(peer, &headers);
        client.map_or("nobody".to_owned(), |client| client.to_string())
    }

    #[test]
    fn a_client_is_who_the_last_trusted_proxy_has_seen() {
        use ForwardedHeader::{Forwarded, Off, XForwardedFor};
        let proxy = "10.0.0.1:80";
        for (header, peer, fields, expected) in [
            (Off, proxy, &["192.0.2.7"][..], proxy),
            (XForwardedFor, proxy, &[], proxy),
            (XForwardedFor, proxy, &["192.0.2.7"], "192.0.2.7:0"),
            (XForwardedFor, proxy, &["192.0.2.7:4711"], "192.0.2.7:4711"),
            (XForwardedFor, proxy, &["2001:db8::1"], "[2001:db8::1]:0"),
            (
                XForwardedFor,
                proxy,
                &["[2001:db8::1]:9"],
                "[2001:db8::1]:9",
            ),
            // What a client says of itself.
            (XForwardedFor, "192.0.2.9:1", &["127.0.0.1"], "192.0.2.9:1"),
            (
                XForwardedFor,
                proxy,
                &["10.9.9.9, 192.0.2.7"],
                "192.0.2.7:0",
            ),
            (
                XForwardedFor,
                proxy,
                &["1.1.1.1,192.0.2.7 ,10.0.0.2"],
                "192.0.2.7:0",
            ),
            (
                XForwardedFor,
                proxy,
                &["1.1.1.1", "192.0.2.7", "10.0.0.2"],
                "192.0.2.7:0",
            ),
            // All of them are ours: the first is as far as it goes.
            (XForwardedFor, proxy, &["10.0.0.3, 10.0.0.2"], "10.0.0.3:0"),
            // IPv4 as the system writes it on a socket of both.
            (
                XForwardedFor,
                "[::ffff:10.0.0.1]:80",
                &["192.0.2.7"],
                "192.0.2.7:0",
            ),
            (XForwardedFor, "[fd00::1]:80", &["192.0.2.7"], "192.0.2.7:0"),
            // A Unix socket.
            (XForwardedFor, "", &["192.0.2.7"], "192.0.2.7:0"),
            (XForwardedFor, "", &[], "nobody"),
            // What is no address.
            (XForwardedFor, proxy, &["192.0.2.7, unknown"], proxy),
            (XForwardedFor, proxy, &["192.0.2.7,"], proxy),
            (XForwardedFor, proxy, &["192.0.2.7, 300.1.1.1"], proxy),
            (
                XForwardedFor,
                proxy,
                &["192.0.2.7", "x, 10.0.0.2"],
                "10.0.0.2:0",
            ),
            (Forwarded, proxy, &["for=192.0.2.7"], "192.0.2.7:0"),
            (
                Forwarded,
                proxy,
                &["proto=https; FOR = \"192.0.2.7:4711\""],
                "192.0.2.7:4711",
            ),
            (
                Forwarded,
                proxy,
                &["for=\"[2001:db8::1]:9\";by=10.0.0.1"],
                "[2001:db8::1]:9",
            ),
            (
                Forwarded,
                proxy,
                &["for=1.1.1.1, for=192.0.2.7, for=10.0.0.2"],
                "192.0.2.7:0",
            ),
            // A comma, a semicolon and a quote that are part of a value.
            (
                Forwarded,
                proxy,
                &["by=\"a,b;c\\\"\";for=192.0.2.7"],
                "192.0.2.7:0",
            ),
            (Forwarded, proxy, &["for=192.0.2.7, for=_hidden"], proxy),
            (Forwarded, proxy, &["for=192.0.2.7, proto=https"], proxy),
            (Forwarded, proxy, &["192.0.2.7"], proxy),
        ] {
            assert_eq!(
                client(header, peer, fields),
                expected,
                "{header:?} {peer} {fields:?}"
            );
        }
    }
}
