//! `Host = uri-host [ ":" port ]`, RFC 9110 section 7.2 and RFC 3986 section 3.2.2.

use std::net::Ipv6Addr;

/// Bytes of a registered name that stand for themselves: unreserved and sub-delims.
const NAME: [bool; 256] = {
    let mut table = [false; 256];
    let bytes = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=";
    let mut i = 0;
    while i < bytes.len() {
        table[bytes[i] as usize] = true;
        i += 1;
    }
    table
};

/// Whether this is a host, and maybe a port, and nothing else.
pub(super) fn is_valid(value: &[u8]) -> bool {
    if let Some(rest) = value.strip_prefix(b"[") {
        return is_ip_literal(rest);
    }
    let mut at = 0;
    while let Some(byte) = value.get(at) {
        if NAME[usize::from(*byte)] {
            at += 1;
            continue;
        }
        match &value[at..] {
            [b':', port @ ..] => return at > 0 && is_port(port),
            [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => at += 3,
            _ => return false,
        }
    }
    !value.is_empty()
}

fn is_ip_literal(rest: &[u8]) -> bool {
    let Some(end) = rest.iter().position(|b| *b == b']') else {
        return false;
    };
    let address = std::str::from_utf8(&rest[..end]).ok();
    let valid = address.is_some_and(|text| text.parse::<Ipv6Addr>().is_ok() || is_future(text));
    match &rest[end + 1..] {
        [] => valid,
        [b':', port @ ..] => valid && is_port(port),
        _ => false,
    }
}

/// Of a version that is not there yet, by the grammar.
fn is_future(address: &str) -> bool {
    let versioned = address.strip_prefix(['v', 'V']);
    versioned
        .and_then(|text| text.split_once('.'))
        .is_some_and(|(version, rest)| {
            let named = |byte: u8| NAME[usize::from(byte)] || byte == b':';
            let hexadecimal = version.bytes().all(|byte| byte.is_ascii_hexdigit());
            hexadecimal && !version.is_empty() && !rest.is_empty() && rest.bytes().all(named)
        })
}

/// A port may be empty, says the grammar.
fn is_port(port: &[u8]) -> bool {
    let mut number = 0;
    for digit in port {
        if port.len() > 5 || !digit.is_ascii_digit() {
            return false;
        }
        number = number * 10 + u32::from(digit - b'0');
    }
    number <= 0xFFFF
}

/// Whether two authorities are the same: in any case, and with or without the port that goes without saying.
pub(super) fn same(a: &[u8], b: &[u8], scheme: Option<&str>) -> bool {
    let ((a, a_port), (b, b_port)) = (parts(a), parts(b));
    let usual = |port| match scheme {
        Some("http") => port == 80,
        Some("https") => port == 443,
        // Of `CONNECT`, and of others that nobody here knows.
        _ => port == 80 || port == 443,
    };
    let same_port = match (a_port, b_port) {
        (None, Some(port)) | (Some(port), None) => usual(port),
        (a, b) => a == b,
    };
    same_port && a.eq_ignore_ascii_case(b)
}

/// The host, and the port if there is one.
fn parts(authority: &[u8]) -> (&[u8], Option<u32>) {
    let digits = authority.iter().rev().take_while(|b| b.is_ascii_digit());
    let (host, port) = authority.split_at(authority.len() - digits.count());
    match host.strip_suffix(b":") {
        Some(host) => {
            let port = std::str::from_utf8(port).ok();
            (host, port.and_then(|port| port.parse().ok()))
        }
        None => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_what_the_grammar_says() {
        for good in [
            "x",
            "localhost:3000",
            "EXAMPLE.com",
            "a_b.example",
            "127.0.0.1",
            "127.0.0.1:65535",
            "[::1]",
            "[2001:db8::1]:443",
            "x:",
            "caf%C3%A9.example",
            "[v1.x:y]:80",
        ] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "x:y",
            "x:65536",
            "x:123456",
            "x:80:80",
            "x y",
            "x\ty",
            "user@x",
            "x/y",
            "x?y",
            "x#y",
            "x%zz",
            "x%2",
            "[::1",
            "[::1]x",
            "[x]",
            "[]",
            "[v1]",
            "[v.x]",
            "[v1.]",
            "[vg.x]",
            "[v1.x/y]",
            "::1",
            "caf\u{e9}.example",
            "x\\y",
            "<x>",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn authorities_are_the_same_with_the_usual_port_of_their_scheme_or_without() {
        let (http, https, none) = (Some("http"), Some("https"), None);
        for (a, b, scheme, expected) in [
            ("a", "A", http, true),
            ("a:80", "a", http, true),
            ("a", "a:80", http, true),
            ("a:", "a", http, true),
            ("a:080", "a:80", http, true),
            ("a:443", "a", https, true),
            ("a:443", "a", none, true),
            ("[::1]:80", "[::1]", http, true),
            ("[::1]", "[::1]", http, true),
            ("a:443", "a:80", http, false),
            ("a:443", "a:80", none, false),
            ("a:443", "a", http, false),
            ("a:80", "a", https, false),
            ("a:8080", "a", none, false),
            ("a", "b", http, false),
            ("[::1]:80", "[::2]:80", http, false),
        ] {
            let got = same(a.as_bytes(), b.as_bytes(), scheme);
            assert_eq!(got, expected, "{a} {b} {scheme:?}");
        }
    }
}
