//! Percent-escapes, and the one form in which paths and templates are compared.
//!
//! What a client may send both as it is and escaped has one form here: unreserved characters and
//! `|^"{}[]\` stand as they are, everything that is not ASCII is escaped, hex digits are in upper case.
//! Of the first most paths hold none that is escaped, of the second none that is not: so a path is
//! seldom written anew. Reserved characters (`:`, `@`, `+`, …) and what no URI may hold (a space) are
//! left as they are: RFC 3986 says that `:` and `%3A` differ.

use std::borrow::Cow;

/// What a path needs before it can be matched.
#[derive(Debug, PartialEq, Eq)]
enum Escapes {
    /// Nothing: it is in canonical form.
    Canonical,
    /// It says something in another form than the canonical one.
    Normalise,
    /// A `%` that begins no escape.
    Malformed,
}

/// Looks at every escape of a path; almost every path has none, which is one look at its bytes.
#[inline]
fn inspect(path: &[u8]) -> Escapes {
    if crate::scan::is_plain(path, 0, path.len()) {
        return Escapes::Canonical;
    }
    inspect_all(path)
}

#[cold]
fn inspect_all(path: &[u8]) -> Escapes {
    let mut found = Escapes::Canonical;
    let mut i = 0;
    while i < path.len() {
        i += match path[i] {
            b'%' => {
                let Some(byte) = decode(&path[i..]) else {
                    return Escapes::Malformed;
                };
                if stands_raw(byte) || path[i + 1..i + 3].iter().any(u8::is_ascii_lowercase) {
                    found = Escapes::Normalise;
                }
                3
            }
            byte => {
                if !byte.is_ascii() {
                    found = Escapes::Normalise;
                }
                1
            }
        };
    }
    found
}

#[cold]
pub(crate) fn is_canonical(path: &str) -> bool {
    inspect(path.as_bytes()) == Escapes::Canonical
}

/// The path in canonical form; `None` if a `%` begins no escape.
pub(crate) fn canonical(path: &str) -> Option<Cow<'_, str>> {
    match inspect(path.as_bytes()) {
        Escapes::Canonical => Some(Cow::Borrowed(path)),
        Escapes::Normalise => Some(Cow::Owned(rewrite(path.as_bytes(), false))),
        Escapes::Malformed => None,
    }
}

/// Text of a template in canonical form: what no URI may hold is escaped, as every client does.
pub(crate) fn literal(text: &[u8]) -> String {
    rewrite(text, true)
}

fn rewrite(text: &[u8], strict: bool) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut i = 0;
    while i < text.len() {
        match decode(&text[i..]) {
            Some(byte) if stands_raw(byte) => out.push(byte.into()),
            Some(byte) => push_escape(&mut out, byte),
            None => {
                let byte = text[i];
                let kept = match strict {
                    false => byte.is_ascii(),
                    true => stands_raw(byte) || is_reserved(byte) || byte == b'%',
                };
                match kept {
                    true => out.push(byte.into()),
                    false => push_escape(&mut out, byte),
                }
                i += 1;
                continue;
            }
        }
        i += 3;
    }
    out
}

pub(crate) fn push_escape(out: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(HEX[usize::from(byte >> 4)].into());
    out.push(HEX[usize::from(byte & 15)].into());
}

/// The byte of the escape with which a text begins.
pub(crate) fn decode(text: &[u8]) -> Option<u8> {
    let &[b'%', high, low, ..] = text else {
        return None;
    };
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// How many characters a text in canonical form stands for.
pub(crate) fn chars(text: &[u8]) -> usize {
    let (mut count, mut i) = (0, 0);
    while i < text.len() {
        let byte = decode(&text[i..]);
        i += if byte.is_some() { 3 } else { 1 };
        // What is not UTF-8 counts by its bytes that would begin a character, and as one at least.
        count += usize::from(count == 0 || byte.is_none_or(|b| b & 0xC0 != 0x80));
    }
    count
}

pub(crate) const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What stands as it is in canonical form, however it was sent.
const fn stands_raw(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'|' | b'^' | b'"' | b'{' | b'}' | b'[' | b']' | b'\\')
}

/// What may stand in a path besides, and is another text when escaped.
const fn is_reserved(byte: u8) -> bool {
    matches!(
        byte,
        b'/' | b'!'
            | b'$'
            | b'&'
            | b'\''
            | b'('
            | b')'
            | b'*'
            | b'+'
            | b','
            | b';'
            | b'='
            | b':'
            | b'@'
    )
}
