//! What a `Transfer-Encoding` says, RFC 9112 sections 6.1, 6.3 and 7.

/// What is done with a body of these codings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransferCoding {
    /// It comes in chunks, and that is all.
    Chunked,
    /// Nobody here knows one of them.
    Unknown,
    /// No list of codings, or one that does not say where the body ends: `chunked` twice, or not the last.
    Invalid,
}

impl TransferCoding {
    /// That of a field's value, or of several put together with commas.
    pub(crate) fn of(value: &[u8]) -> Self {
        let (mut chunked, mut unknown) = (false, false);
        for coding in value.split(|byte| *byte == b',') {
            let coding = trim(coding);
            let name = coding.split(|byte| *byte == b';').next();
            let name = trim(name.unwrap_or_default());
            if chunked || name.is_empty() || !name.iter().all(is_token) {
                return Self::Invalid;
            }
            chunked = name.eq_ignore_ascii_case(b"chunked");
            if chunked && coding.len() > name.len() {
                // It has no parameters.
                return Self::Invalid;
            }
            unknown |= !chunked;
        }
        match unknown {
            true => Self::Unknown,
            false => Self::Chunked,
        }
    }
}

/// Optional white space: blanks and tabs, no other.
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes.iter().position(|byte| !blank(byte));
    let end = bytes.iter().rposition(|byte| !blank(byte));
    match (start, end) {
        (Some(start), Some(end)) => &bytes[start..=end],
        _ => &[],
    }
}

/// Whether a byte may stand in a token, RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_chunked_alone_is_unknown_or_invalid() {
        use TransferCoding::{Chunked, Invalid, Unknown};
        for (value, expected) in [
            ("chunked", Chunked),
            (" \tCHUNKED\t ", Chunked),
            ("gzip", Unknown),
            ("gzip, chunked", Unknown),
            ("gzip;level=\"9\" ,chunked", Unknown),
            ("identity", Unknown),
            ("xchunked", Unknown),
            ("", Invalid),
            ("chunked, gzip", Invalid),
            ("chunked, chunked", Invalid),
            ("chunked,", Invalid),
            (", chunked", Invalid),
            ("chunked;a=b", Invalid),
            ("chunked;", Invalid),
            ("\"chunked\"", Invalid),
            ("chun ked", Invalid),
            ("\x0bchunked", Invalid),
        ] {
            assert_eq!(TransferCoding::of(value.as_bytes()), expected, "{value:?}");
        }
    }
}
