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
    let valid = address.is_some_and(|text| text.parse::<Ipv6Addr>().is_ok());
    match &rest[end + 1..] {
        [] => valid,
        [b':', port @ ..] => valid && is_port(port),
        _ => false,
    }
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
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    fn bare(authority: &[u8]) -> &[u8] {
        [&b":80"[..], b":443", b":"]
            .into_iter()
            .find_map(|port| authority.strip_suffix(port))
            .unwrap_or(authority)
    }
    a.eq_ignore_ascii_case(b) || bare(a).eq_ignore_ascii_case(bare(b))
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
            "::1",
            "caf\u{e9}.example",
            "x\\y",
            "<x>",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }
}
