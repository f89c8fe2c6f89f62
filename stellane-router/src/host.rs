//! Routing by host.

use http::{HeaderMap, Uri, header};

/// `api.example` or `*.example`; sorted, the most specific comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HostPattern {
    Exact(Box<str>),
    /// `.example`; the longest first.
    Below(std::cmp::Reverse<(usize, Box<str>)>),
}

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let label = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let name = text.strip_prefix("*.").unwrap_or(text);
        let literal = name.starts_with('[') && name.ends_with(']');
        let valid = literal
            || name
                .split('.')
                .all(|l| !l.is_empty() && l.bytes().all(label));
        if !valid {
            return None;
        }
        let name = name.to_ascii_lowercase();
        Some(if text.starts_with("*.") {
            let suffix = format!(".{name}").into_boxed_str();
            Self::Below(std::cmp::Reverse((suffix.len(), suffix)))
        } else {
            Self::Exact(name.into())
        })
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Exact(name) | Self::Below(std::cmp::Reverse((_, name))) => name.len(),
        }
    }

    pub(crate) fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name.eq_ignore_ascii_case(host),
            Self::Below(std::cmp::Reverse((len, suffix))) => {
                host.len() > *len
                    && host
                        .get(host.len() - len..)
                        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
        }
    }
}

/// The host a request names: of an absolute URI and of HTTP/2 in the URI, else in `Host`.
pub(crate) fn requested<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    uri.authority()
        .map(http::uri::Authority::as_str)
        .or_else(|| {
            headers
                .get(header::HOST)
                .and_then(|value| value.to_str().ok())
        })
}

/// The host of `user@host:port`, without the dot that may end a full name.
pub(crate) fn host_of(authority: &str) -> &str {
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    if host.starts_with('[') {
        return host.split_inclusive(']').next().unwrap_or(host);
    }
    let host = host.split_once(':').map_or(host, |(host, _)| host);
    host.strip_suffix('.').unwrap_or(host)
}
