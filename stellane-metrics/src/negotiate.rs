//! What a scraper can read, by its headers.

use http::{
    HeaderMap, HeaderName,
    header::{ACCEPT, ACCEPT_ENCODING},
};

use crate::text::Format;

/// OpenMetrics for who would rather have it than plain text, and can read the version that there is.
pub(crate) fn format(headers: &HeaderMap) -> Format {
    let (mut open, mut plain) = (0.0_f32, 0.0_f32);
    for (kind, weight) in weighted(headers, &ACCEPT) {
        let mut parts = kind.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let version = parts.find_map(|part| part.strip_prefix("version="));
        let version = version.map(|version| version.trim_matches('"'));
        match name {
            "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => {
                open = open.max(weight);
            }
            "text/plain" | "text/*" => plain = plain.max(weight),
            _ => {}
        }
    }
    match open > 0.0 && open >= plain {
        true => Format::Open,
        false => Format::Plain,
    }
}

/// Whether it takes gzip.
pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let encodings = weighted(headers, &ACCEPT_ENCODING);
    let (mut gzip, mut any) = (None, None);
    for (encoding, weight) in encodings {
        match encoding.split(';').next().map(str::trim) {
            Some("gzip" | "x-gzip") => gzip = Some(weight),
            Some("*") => any = Some(weight),
            _ => {}
        }
    }
    gzip.or(any).is_some_and(|weight| weight > 0.0)
}

/// The members of a list, in small letters, with their `q`.
fn weighted(headers: &HeaderMap, name: &HeaderName) -> Vec<(String, f32)> {
    let values = headers.get_all(name).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let members = values.flat_map(|value| value.split(','));
    let members = members.map(|member| {
        let member = member.trim().to_ascii_lowercase();
        let mut parameters = member.split(';').skip(1).map(str::trim);
        let weight = parameters.find_map(|part| part.strip_prefix("q="));
        let weight = weight.map_or(Some(1.0), |weight| weight.parse().ok());
        (member, weight.unwrap_or(0.0))
    });
    members.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a header"))])
    }

    #[test]
    fn a_scraper_gets_what_it_would_rather_have() {
        use Format::{Open, Plain};
        for (accept, expected) in [
            ("", Plain),
            ("*/*", Plain),
            ("text/plain", Plain),
            ("application/openmetrics-text", Open),
            // Prometheus 2.42, 2.55 and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Open,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.2",
                Open,
            ),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,text/plain;version=1.0.0;q=0.5",
                Plain,
            ),
            ("application/openmetrics-text;version=0.0.1", Plain),
            (
                "application/openmetrics-text;q=0.1, text/plain;q=0.9",
                Plain,
            ),
            ("application/openmetrics-text;q=0", Plain),
            ("application/openmetrics-text;q=x", Plain),
        ] {
            assert_eq!(format(&with(ACCEPT, accept)), expected, "{accept}");
        }
    }

    #[test]
    fn gzip_is_for_who_takes_it() {
        for (accept, expected) in [
            ("", false),
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("*", true),
            ("*, gzip;q=0", false),
            ("identity", false),
        ] {
            assert_eq!(
                takes_gzip(&with(ACCEPT_ENCODING, accept)),
                expected,
                "{accept}"
            );
        }
    }
}
