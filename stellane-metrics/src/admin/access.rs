//! Who may read and who may change.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method, StatusCode, header, request::Parts};

#[derive(Default)]
pub(super) struct Access {
    pub(super) bound_to: Option<SocketAddr>,
    pub(super) token: Option<String>,
    pub(super) hosts: Vec<String>,
}

pub(super) type Refusal = (StatusCode, &'static str);

impl Access {
    /// Whether this request may be answered.
    pub(super) fn check(&self, head: &Parts, public: bool) -> Result<(), Refusal> {
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        if !reads {
            same_origin(head)?;
        }
        if reads && public {
            return Ok(());
        }
        if !reads && let Some(token) = &self.token {
            return match bearer(&head.headers) {
                Some(given) if equal(given.as_bytes(), token.as_bytes()) => Ok(()),
                _ => Err((
                    StatusCode::UNAUTHORIZED,
                    "a bearer token is required to change things",
                )),
            };
        }
        match self.bound_to {
            // A page of another site can make a name of its own point to 127.0.0.1; it cannot make the browser lie about the name.
            Some(address) if address.ip().is_loopback() => {
                if self.is_known(host(head)) {
                    Ok(())
                } else {
                    Err((
                        StatusCode::FORBIDDEN,
                        "the host of the request is neither an address nor a loopback name",
                    ))
                }
            }
            _ if reads => Ok(()),
            _ => Err((
                StatusCode::FORBIDDEN,
                "to change things, bind to a loopback address or configure a token",
            )),
        }
    }

    fn is_known(&self, host: Option<&str>) -> bool {
        // HTTP/1.0 clients and hand-made requests have no host; browsers always do.
        let Some(host) = host else { return true };
        let name = without_port(host);
        // An address is no name that could be made to point here. Probes send one.
        let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        name.eq_ignore_ascii_case("localhost")
            || is_address
            || self
                .hosts
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// Refuses what a browser sends on behalf of another site.
fn same_origin(head: &Parts) -> Result<(), Refusal> {
    const CROSS: Refusal = (
        StatusCode::FORBIDDEN,
        "cross-origin requests may not change things",
    );
    if let Some(site) = head.headers.get("sec-fetch-site")
        && site != "same-origin"
        && site != "none"
    {
        return Err(CROSS);
    }
    let Some(origin) = head.headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let origin = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    match (origin, host(head)) {
        (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host) => Ok(()),
        _ => Err(CROSS),
    }
}

/// The authority of the request: the target's in HTTP/2, the header's in HTTP/1.
fn host(head: &Parts) -> Option<&str> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => head.headers.get(header::HOST)?.to_str().ok(),
    }
}

fn without_port(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    host.split(':').next().unwrap_or(host)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Takes as long wherever the two differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}
