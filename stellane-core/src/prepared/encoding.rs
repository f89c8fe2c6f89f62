use http::{HeaderMap, HeaderValue, header};

/// A content coding that a variant may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// `gzip`
    Gzip,
    /// `br`
    Brotli,
    /// `zstd`
    Zstd,
}

impl Encoding {
    /// The name in `Accept-Encoding` and `Content-Encoding`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

/// How much a client wants a coding, in thousandths; 0 is not at all. `None` is no coding (`identity`).
///
/// What `Accept-Encoding` does not name has the weight of `*`; without one, identity has a weight and the others do not.
pub(super) fn weight(headers: &HeaderMap, coding: Option<Encoding>) -> u16 {
    let mut any = None;
    for (item, weight) in accepted(headers) {
        if is_named(item, coding) {
            return weight;
        }
        if item == "*" {
            any = Some(weight);
        }
    }
    // RFC 9110 §12.5.3: identity is acceptable unless it is excluded.
    any.unwrap_or(u16::from(coding.is_none()))
}

/// What `Accept-Encoding` names, each with its weight in thousandths.
pub(crate) fn accepted(headers: &HeaderMap) -> impl Iterator<Item = (&str, u16)> {
    let lists = headers.get_all(header::ACCEPT_ENCODING).iter().map(text);
    lists.flat_map(|list| list.split(',')).map(|item| {
        let (name, weight) = match item.split_once(';') {
            Some((name, parameter)) => (name, quality(parameter.trim())),
            None => (item, 1000),
        };
        (name.trim(), weight)
    })
}

/// Whether a name in `Accept-Encoding` is that of a coding.
pub(crate) fn is_named(name: &str, coding: Option<Encoding>) -> bool {
    let is = |other| name.eq_ignore_ascii_case(other);
    is(coding.map_or("identity", Encoding::as_str))
        || (coding == Some(Encoding::Gzip) && is("x-gzip"))
}

/// The thousandths of `q=0.5`, read as strictly as tower-http does: what is not written so counts as a refusal.
fn quality(parameter: &str) -> u16 {
    let number = parameter.strip_prefix(['q', 'Q']);
    let Some(number) = number.and_then(|rest| rest.strip_prefix('=')) else {
        return 0;
    };
    let is_written_so = number.len() <= 5
        && number.starts_with(['0', '1'])
        && number
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let value = number.parse::<f32>().ok().filter(|_| is_written_so);
    let value = value.filter(|number| *number <= 1.0);
    value.map_or(0, |number| (number * 1000.0).round() as u16)
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("")
}

/// Whether `If-None-Match` has the tag (compared weakly) or is `*`.
pub(super) fn none_match(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let etag = etag.as_bytes();
    headers.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        value.as_bytes() == etag
            || text(value).split(',').any(|tag| {
                let tag = tag.trim();
                tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(value: &'static str, coding: Option<Encoding>) -> u16 {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
        weight(&headers, coding)
    }

    #[test]
    fn weights_are_those_of_rfc_9110() {
        let gzip = Some(Encoding::Gzip);
        assert_eq!(weight(&HeaderMap::new(), gzip), 0);
        assert_eq!(weight(&HeaderMap::new(), None), 1);
        assert_eq!(accepts("gzip, br;q=0.5", gzip), 1000);
        assert_eq!(accepts("gzip, br;q=0.5", Some(Encoding::Brotli)), 500);
        assert_eq!(accepts("GZIP ; q=0", gzip), 0);
        assert_eq!(accepts("x-gzip", gzip), 1000);
        assert_eq!(accepts("*;q=0.1", Some(Encoding::Zstd)), 100);
        assert_eq!(accepts("identity;q=0, *", None), 0);
        assert_eq!(accepts("*;q=0", None), 0);
        for unreadable in ["q=nonsense", "q = 0.5", "q=2", "q=+1", "q=0.1234", "0.5"] {
            let mut headers = HeaderMap::new();
            let value = format!("gzip;{unreadable}").parse().expect("valid");
            headers.insert(header::ACCEPT_ENCODING, value);
            assert_eq!(weight(&headers, gzip), 0, "{unreadable}");
        }
        assert_eq!(accepts("gzipped", gzip), 0);
    }

    #[test]
    fn tags_match_in_lists_weakly_and_by_star() {
        let etag = HeaderValue::from_static("\"abc\"");
        for (value, matches) in [
            ("\"abc\"", true),
            ("W/\"abc\"", true),
            ("\"x\", \"abc\"", true),
            ("*", true),
            ("\"ab\"", false),
            ("abc", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(value));
            assert_eq!(none_match(&headers, &etag), matches, "{value}");
        }
    }
}
