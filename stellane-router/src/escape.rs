//! Percent-escapes in a path.

/// What a path needs before it can be matched.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Escapes {
    /// Nothing: no escape, or only ones that must stay.
    Canonical,
    /// An unreserved character is escaped (`%61`), or hex digits are in lower case.
    Normalise,
    /// A `%` that begins no escape.
    Malformed,
}

/// Looks at every escape of a path; almost every path has none, which is one `memchr`.
#[inline]
pub(crate) fn inspect(path: &[u8]) -> Escapes {
    match memchr::memchr(b'%', path) {
        None => Escapes::Canonical,
        Some(first) => inspect_from(path, first),
    }
}

#[cold]
fn inspect_from(path: &[u8], first: usize) -> Escapes {
    let mut found = Escapes::Canonical;
    let mut at = Some(first);
    while let Some(i) = at {
        let Some(byte) = decode(&path[i..]) else {
            return Escapes::Malformed;
        };
        if is_unreserved(byte) || path[i + 1..i + 3].iter().any(u8::is_ascii_lowercase) {
            found = Escapes::Normalise;
        }
        at = memchr::memchr(b'%', &path[i + 3..]).map(|next| i + 3 + next);
    }
    found
}

/// RFC 3986 §6.2.2: unreserved characters are decoded, hex digits are in upper case. `%2F` stays.
///
/// `None` if there is nothing to do.
pub(crate) fn normalise(path: &[u8]) -> Option<Vec<u8>> {
    if inspect(path) != Escapes::Normalise {
        return None;
    }
    let mut out = Vec::with_capacity(path.len());
    let mut i = 0;
    while i < path.len() {
        match decode(&path[i..]) {
            Some(byte) if is_unreserved(byte) => out.push(byte),
            Some(_) => out.extend(path[i..i + 3].iter().map(u8::to_ascii_uppercase)),
            None => {
                out.push(path[i]);
                i += 1;
                continue;
            }
        }
        i += 3;
    }
    Some(out)
}

fn decode(text: &[u8]) -> Option<u8> {
    let &[b'%', high, low, ..] = text else {
        return None;
    };
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}
