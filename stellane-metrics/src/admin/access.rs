//! Who may read and who may change.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method, StatusCode, header, request::Parts};

#[derive(Default)]
pub(super) struct Access {
    /// `None`: nobody has said.
    pub(super) bound_to: Option<SocketAddr>,
    /// Who mounts the service lets in only those who may.
    pub(super) guarded: bool,
    pub(super) token: Option<String>,
    pub(super) hosts: Vec<String>,
}

pub(super) type Refusal = (StatusCode, &'static str);

const NO_TOKEN: Refusal = (
    StatusCode::FORBIDDEN,
    "beyond a loopback address there are only probes and metrics, unless a token is configured",
);
const WRONG_TOKEN: Refusal = (
    StatusCode::UNAUTHORIZED,
    "this takes the token: as a bearer token, or as the password of any user",
);
const UNKNOWN_HOST: Refusal = (
    StatusCode::FORBIDDEN,
    "the host of the request is neither an address, nor a loopback name, nor one that was allowed",
);

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
        if self.guarded {
            return match &self.token {
                Some(token) if !reads => with_token(&head.headers, token),
                _ => Ok(()),
            };
        }
        // A page of another site can make a name of its own point to this address; it can't make the browser lie about
        // the name.
        if !self.is_known(host(head)) {
            return Err(UNKNOWN_HOST);
        }
        let is_local = self
            .bound_to
            .is_some_and(|at| at.ip().to_canonical().is_loopback());
        match &self.token {
            None if is_local => Ok(()),
            None => Err(NO_TOKEN),
            Some(_) if is_local && reads => Ok(()),
            Some(token) => with_token(&head.headers, token),
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

fn with_token(headers: &HeaderMap, token: &str) -> Result<(), Refusal> {
    match given(headers) {
        Some(given) if equal(&given, token.as_bytes()) => Ok(()),
        _ => Err(WRONG_TOKEN),
    }
}

/// A browser that shows the page can only ask for a user and a password.
fn given(headers: &HeaderMap) -> Option<Vec<u8>> {
    let authorization = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, given) = authorization.split_once(' ')?;
    let given = given.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(given.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let given = from_base64(given)?;
    let colon = given.iter().position(|byte| *byte == b':')?;
    Some(given[colon + 1..].to_vec())
}

/// RFC 4648, section 4.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let six = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

/// Takes as long wherever the two differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}
